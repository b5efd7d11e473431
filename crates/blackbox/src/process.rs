//! What `/proc` tells about processes. All of them may end at any moment.

use std::collections::BTreeMap;
use std::fs;

/// Every process of this machine.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The words of its command line; none once it has ended.
pub fn command_line(pid: u32) -> Vec<String> {
    strings(&format!("/proc/{pid}/cmdline"))
}

/// Whether it was started with all these variables.
pub fn has_environment(pid: u32, wanted: &BTreeMap<String, String>) -> bool {
    let found = strings(&format!("/proc/{pid}/environ"));
    wanted.iter().all(|(name, value)| found.contains(&format!("{name}={value}")))
}

/// Whether its command line or its environment speaks of `words`.
pub fn mentions(pid: u32, words: &str) -> bool {
    let own = ["cmdline", "environ"].map(|file| strings(&format!("/proc/{pid}/{file}")));
    own.iter().flatten().any(|word| word.contains(words))
}

/// Who started it, or inherited it.
pub fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn strings(path: &str) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}
