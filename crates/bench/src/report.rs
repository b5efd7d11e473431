//! What the benchmarks say: on standard output, and as a section of a page.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// The page when there is none yet.
const PAGE: &str = "# Benchmarks\n\n\
    Written by `cargo xtask bench … --write docs/benchmarks.md`; each section says what was \
    measured, where, and how.\n";

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

/// Puts all that was said into the page at `path`, instead of the section `name` of before.
pub(crate) fn write(path: &Path, name: &str, title: &str) -> Result<()> {
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let page = fs::read_to_string(path).unwrap_or_else(|_| PAGE.to_owned());
    let body = format!("## {title}\n\n{}\n\n{said}", machine());
    fs::write(path, placed(&page, name, &body))
        .with_context(|| format!("cannot write {}", path.display()))
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
}
