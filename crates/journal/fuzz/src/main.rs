//! The door of the fuzzer to [`target::run`]. Start it with `cargo xtask fuzz`.
#![no_main]

mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
