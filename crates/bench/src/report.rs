//! What the benchmarks say: on standard output, and as a section of a page.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::targets;

/// The page when there is none yet.
const PAGE: &str = "# Benchmarks\n\n\
    Written by `cargo xtask bench all --write docs/benchmarks.md`, as root on Debian, where it \
    installs the peers; a single section by its name, for example `cargo xtask bench ingest \
    --write docs/benchmarks.md`.\n\
    Every server and peer is started for its measurement, in a folder of its own on a real disk, \
    on loopback, with the settings that its section prints, and ended after it.\n\
    Rounds of us and of peers are interleaved, so that a change of the machine hits all of them; \
    figures are medians with least and most of the rounds in parentheses.\n\
    Client, server and peers share the machine: ratios are the thing to trust.\n\n\
    <!-- targets -->\n<!-- end of targets -->\n";

/// What was said so far.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Says one line.
#[expect(clippy::print_stdout, reason = "the report")]
pub(crate) fn line(text: &str) {
    println!("{text}");
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.push_str(text);
    said.push('\n');
}

/// Says one line to whoever waits; no part of the report.
#[expect(clippy::print_stderr, reason = "words beside the report")]
pub(crate) fn progress(text: &str) {
    eprintln!("bench: {text}");
}

/// Puts all that was said into the page at `path`, instead of the section `name` of before.
pub(crate) fn write(path: &Path, name: &str, title: &str) -> Result<()> {
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).clone();
    place(path, name, &format!("## {title}\n\n{}\n\n{said}", machine()))
}

/// Puts `body` into the page at `path`, instead of the section `name` of before.
pub(crate) fn place(path: &Path, name: &str, body: &str) -> Result<()> {
    let page = fs::read_to_string(path).unwrap_or_else(|_| PAGE.to_owned());
    let page = placed(&page, name, body);
    let page = placed(&page, "targets", &summary(&page));
    fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// What the sections of `page` say about targets.
fn summary(page: &str) -> String {
    let (before, rest) = page.split_once("<!-- targets -->").unwrap_or((page, ""));
    let after = rest.split_once("<!-- end of targets -->").map_or(rest, |(_, after)| after);
    let sections = format!("{before}{after}");
    format!("## Targets\n\n{}\n", targets::collected(&sections).join("\n"))
}

/// `page` with `body` as its section `name`, where that was, or at the end.
fn placed(page: &str, name: &str, body: &str) -> String {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, after) = match page.split_once(&open) {
        Some((before, rest)) => {
            (before.to_owned(), rest.split_once(&close).map_or("", |(_, after)| after))
        }
        None => (format!("{}\n\n", page.trim_end()), ""),
    };
    format!("{before}{open}{body}{close}{after}")
}

/// What it was measured on, in one line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "Machine: {} × {}, {} memory, Linux {}; load average at the end {}.",
        std::thread::available_parallelism().map_or(0, usize::from),
        field(&cpu, "model name"),
        field(&memory, "MemTotal"),
        kernel.trim(),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_older_self_and_leaves_the_others() {
        let one = placed("# P\n", "a", "one\n");
        let two = placed(&one, "b", "two\n");
        let again = placed(&two, "a", "three\n");
        assert_eq!(
            again,
            "# P\n\n<!-- a -->\nthree\n<!-- end of a -->\n\n\
             <!-- b -->\ntwo\n<!-- end of b -->\n"
        );
    }

    #[test]
    fn the_page_begins_with_the_verdicts_of_all_its_sections_as_they_stand_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.md");
        place(&path, "a", "- **Met**: one.\n").unwrap();
        place(&path, "b", "- **Not measured**: two.\n").unwrap();
        place(&path, "a", "- **Missed by 1**: one; so.\n").unwrap();
        let page = fs::read_to_string(&path).unwrap();
        let (head, sections) = page.split_once("<!-- end of targets -->").unwrap();
        let expected = "## Targets\n\n- **Missed by 1**: one; so.\n- **Not measured**: two.\n";
        assert!(head.ends_with(expected), "{head}");
        assert!(!page.contains("- **Met**: one."));
        assert_eq!(sections.matches("**Not measured**").count(), 1);
    }
}
