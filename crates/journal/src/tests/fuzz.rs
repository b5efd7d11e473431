//! What the fuzzer once found, and the seeds it starts from, run by every `cargo test`.

use std::path::Path;

#[path = "../../fuzz/src/target.rs"]
mod target;

#[test]
#[expect(clippy::print_stdout, reason = "a failure names the input it met last")]
fn every_seed_and_every_past_crash_of_the_fuzzer_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (kind, fewest) in [("corpus", 20), ("crashes", 0)] {
        let mut count = 0;
        for entry in std::fs::read_dir(folder.join(kind)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target::run(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count >= fewest, "{count} files in {kind}");
    }
}
