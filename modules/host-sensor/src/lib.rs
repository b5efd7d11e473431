//! Readings of this machine's own CPU, memory, disks and network, from the kernel's counters.
//!
//! What it is: pure functions from the text of `/proc` files to counters, and from two samples
//! of counters to one reading.
//! What it is not: it reads no file, no clock and no environment.
//! Start reading at [`reading`].

pub mod counters;

pub mod reading;

pub mod settings;
