//! Docker's json-file logs: one writer (for the process engine) and the reader of all of them.
//!
//! `container.log` is the newest file, `container.log.1` the one before, and so on.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::create_options::LogLimits;
use crate::error::EngineError;
use crate::runtime::{EngineResult, LogLine, LogQuery, LogSource};

/// Name of the newest file.
pub const LOG_FILE: &str = "container.log";
/// Most lines of one page.
pub const PAGE_LINES_MAX: usize = 500;
/// Bytes of text after which a page ends.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Most lines that `tail` may ask for; more gives this many.
pub const TAIL_LINES_MAX: u64 = 100_000;
/// Longest line kept together, in bytes; Docker splits there too.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Where to go on reading: a file, whatever it is called by now, and a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursor {
    inode: u64,
    offset: u64,
}

/// Some lines of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// Oldest first; may be empty.
    pub lines: Vec<LogLine>,
    /// Where the next page begins.
    pub cursor: Option<LogCursor>,
    /// Nothing more is there now.
    pub end: bool,
    /// No later line can match the query.
    pub done: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    log: String,
    stream: LogSource,
    time: String,
}

/// Reads one page of the log in `folder`. A log without files is empty.
///
/// # Errors
/// When the files cannot be read or written.
pub fn read_page(
    folder: &Path,
    query: &LogQuery,
    cursor: Option<LogCursor>,
) -> EngineResult<LogPage> {
    let failed = |error: io::Error| EngineError::system(folder.display().to_string(), error);
    let files = open_files(folder).map_err(failed)?;
    let start = match (cursor, query.tail) {
        (Some(cursor), _) => Some(cursor),
        (None, Some(lines)) => tail(&files, query, lines).map_err(failed)?,
        (None, None) => None,
    };
    page(files, query, start).map_err(failed)
}

/// All files, oldest first.
fn open_files(folder: &Path) -> io::Result<Vec<(u64, File)>> {
    let mut names: Vec<(u32, PathBuf)> = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = match name.strip_prefix(LOG_FILE) {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix('.').and_then(|number| number.parse().ok()),
            None => None,
        };
        names.extend(number.map(|number| (number, path)));
    }
    names.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut files = Vec::new();
    for (_, path) in names {
        match File::open(&path) {
            // Rotated away since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => {
                let file = file?;
                files.push((file.metadata()?.ino(), file));
            }
        }
    }
    files.dedup_by_key(|(inode, _)| *inode);
    Ok(files)
}

/// Calls `each` with the place after every whole line, its bytes; `false` ends it.
fn lines_of(file: &File, from: u64, mut each: impl FnMut(u64, &[u8]) -> bool) -> io::Result<bool> {
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(from))?;
    let (mut offset, mut line) = (from, Vec::new());
    loop {
        line.clear();
        let len = reader.read_until(b'\n', &mut line)?;
        if len == 0 || !line.ends_with(b"\n") {
            return Ok(true); // the end, or a line still being written
        }
        offset += u64::try_from(len).unwrap_or(0);
        if !each(offset, &line) {
            return Ok(false);
        }
    }
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let stored: Stored = serde_json::from_slice(line).ok()?;
    let time = WallTime::parse_rfc3339(&stored.time)?.0;
    let text = stored.log.strip_suffix('\n').unwrap_or(&stored.log).to_owned();
    Some(LogLine { time, stream: stored.stream, text })
}

fn matches(query: &LogQuery, line: &LogLine) -> bool {
    query.since.is_none_or(|since| line.time >= since)
        && query.until.is_none_or(|until| line.time < until)
}

/// Where the last `lines` matching lines begin; the end when there are none.
fn tail(files: &[(u64, File)], query: &LogQuery, lines: u64) -> io::Result<Option<LogCursor>> {
    let keep = usize::try_from(lines.min(TAIL_LINES_MAX)).unwrap_or(usize::MAX);
    let mut last: VecDeque<LogCursor> = VecDeque::new();
    let mut end = None;
    for (inode, file) in files {
        let mut before = 0;
        lines_of(file, 0, |after, line| {
            if parse(line).is_some_and(|line| matches(query, &line)) {
                last.push_back(LogCursor { inode: *inode, offset: before });
                if last.len() > keep {
                    last.pop_front();
                }
            }
            before = after;
            true
        })?;
        end = Some(LogCursor { inode: *inode, offset: before });
    }
    Ok(last.front().copied().or(end))
}

fn page(
    files: Vec<(u64, File)>,
    query: &LogQuery,
    start: Option<LogCursor>,
) -> io::Result<LogPage> {
    let mut page = LogPage { lines: Vec::new(), cursor: start, end: true, done: false };
    let known = start.and_then(|start| files.iter().position(|(inode, _)| *inode == start.inode));
    let mut bytes = 0;
    for (inode, file) in files.into_iter().skip(known.unwrap_or(0)) {
        let mut from = start.filter(|start| start.inode == inode).map_or(0, |start| start.offset);
        if file.metadata()?.len() < from {
            from = 0; // emptied in place, as a log of one file is
        }
        page.cursor = Some(LogCursor { inode, offset: from });
        let whole = lines_of(&file, from, |offset, line| {
            page.cursor = Some(LogCursor { inode, offset });
            let Some(line) = parse(line) else { return true };
            if query.until.is_some_and(|until| line.time >= until) {
                page.done = true;
                return false;
            }
            if matches(query, &line) {
                bytes += line.text.len();
                page.lines.push(line);
            }
            page.lines.len() < PAGE_LINES_MAX && bytes < PAGE_BYTES_MAX
        })?;
        if !whole {
            page.end = page.done;
            return Ok(page);
        }
    }
    page.done = !query.follow;
    Ok(page)
}

/// Writes the log of one module, with rotation.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
    begun: [Vec<u8>; 2],
}

impl LogWriter {
    /// Goes on with the log in `folder`, made if absent.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn open(folder: &Path, limits: LogLimits) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(LOG_FILE);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, limits, file, size, begun: Default::default() })
    }

    /// Takes what a module wrote at `now`; whole lines go to the file.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn take(&mut self, source: LogSource, bytes: &[u8], now: WallTime) -> io::Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                let [stdout, stderr] = &mut self.begun;
                let line = if source == LogSource::Stdout { stdout } else { stderr };
                line.extend_from_slice(part);
                if line.ends_with(b"\n") || line.len() >= LINE_BYTES_MAX {
                    let line = std::mem::take(line);
                    self.write(source, &line, now)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what has no line end yet.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn finish(&mut self, now: WallTime) -> io::Result<()> {
        let [stdout, stderr] = std::mem::take(&mut self.begun);
        for (source, line) in [(LogSource::Stdout, stdout), (LogSource::Stderr, stderr)] {
            if !line.is_empty() {
                self.write(source, &line, now)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, stream: LogSource, line: &[u8], now: WallTime) -> io::Result<()> {
        let log = String::from_utf8_lossy(line).into_owned();
        let mut text = serde_json::to_vec(&Stored { log, stream, time: now.to_string() })?;
        text.push(b'\n');
        let len = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(len) > self.limits.max_size {
            self.rotate()?;
        }
        self.file.write_all(&text)?;
        self.size += len;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| match number {
            0 => self.path.clone(),
            number => self.path.with_extension(format!("log.{number}")),
        };
        for number in (1..self.limits.max_file).rev() {
            match fs::rename(numbered(number - 1), numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.limits.max_file <= 1 {
            self.file.set_len(0)?;
        }
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: i64, limits: LogLimits) -> (tempfile::TempDir, LogWriter) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(folder.path(), limits).unwrap();
        for number in 0..lines {
            let text = format!("line {number}\n");
            writer.take(LogSource::Stdout, text.as_bytes(), WallTime(number * 1000)).unwrap();
        }
        (folder, writer)
    }

    fn texts(page: &LogPage) -> Vec<&str> {
        page.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn queries_choose_lines_across_rotated_files() {
        let limits = LogLimits { max_size: 200, max_file: 3 };
        let (folder, _writer) = written(6, limits);
        let check = |query: LogQuery, want: &[&str]| {
            let page = read_page(folder.path(), &query, None).unwrap();
            assert_eq!(texts(&page), want, "{query:?}");
            assert!(page.done);
        };
        let all = ["line 0", "line 1", "line 2", "line 3", "line 4", "line 5"];
        check(LogQuery::default(), &all);
        check(LogQuery { tail: Some(2), ..LogQuery::default() }, &all[4..]);
        check(LogQuery { tail: Some(0), ..LogQuery::default() }, &[]);
        check(LogQuery { tail: Some(99), ..LogQuery::default() }, &all);
        check(LogQuery { since: Some(4000), ..LogQuery::default() }, &all[4..]);
        check(LogQuery { until: Some(2000), ..LogQuery::default() }, &all[..2]);
        check(LogQuery { until: Some(4000), tail: Some(1), ..LogQuery::default() }, &all[3..4]);
    }

    #[test]
    fn a_follower_loses_nothing_over_pages_and_rotation() {
        let limits = LogLimits { max_size: 60_000, max_file: 3 };
        let (folder, mut writer) = written(0, limits);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let (mut cursor, mut seen) = (None, Vec::new());
        for number in 0..1500 {
            let text = format!("{number}\n");
            writer.take(LogSource::Stderr, text.as_bytes(), WallTime(0)).unwrap();
            if number % 400 == 0 || number == 1499 {
                loop {
                    let page = read_page(folder.path(), &query, cursor).unwrap();
                    assert!(!page.done && page.lines.len() <= PAGE_LINES_MAX);
                    seen.extend(page.lines.into_iter().map(|line| line.text));
                    cursor = page.cursor;
                    if page.end {
                        break;
                    }
                }
            }
        }
        assert_eq!(seen, (0..1500).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn an_absent_log_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let page = read_page(&folder.path().join("x"), &LogQuery::default(), None).unwrap();
        assert!(page.lines.is_empty() && page.done);
    }

    #[test]
    fn lines_pages_and_tails_reach_their_limits_and_no_more() {
        let limits = LogLimits { max_size: 64 << 20, max_file: 2 };
        let (folder, mut writer) = written(0, limits);
        let long = "x".repeat(2 * LINE_BYTES_MAX + 1) + "\n";
        writer.take(LogSource::Stdout, long.as_bytes(), WallTime(0)).unwrap();
        let page = read_page(folder.path(), &LogQuery::default(), None).unwrap();
        let lengths: Vec<usize> = page.lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths.iter().max(), Some(&LINE_BYTES_MAX), "{lengths:?}");
        assert_eq!(lengths.iter().sum::<usize>(), 2 * LINE_BYTES_MAX + 1);
        for _ in 0..2 * PAGE_BYTES_MAX / LINE_BYTES_MAX {
            let whole = "y".repeat(LINE_BYTES_MAX - 1) + "\n";
            writer.take(LogSource::Stdout, whole.as_bytes(), WallTime(0)).unwrap();
        }
        let page = read_page(folder.path(), &LogQuery::default(), None).unwrap();
        let bytes: usize = page.lines.iter().map(|line| line.text.len()).sum();
        assert!(!page.done && bytes <= PAGE_BYTES_MAX + LINE_BYTES_MAX, "{bytes}");
        assert!(bytes + LINE_BYTES_MAX >= PAGE_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn a_tail_has_so_many_lines_and_no_more() {
        let (folder, _writer) = {
            let limits = LogLimits { max_size: 64 << 20, max_file: 2 };
            let (folder, mut writer) = written(0, limits);
            let all = "z\n".repeat(usize::try_from(TAIL_LINES_MAX).unwrap() + 3);
            writer.take(LogSource::Stdout, all.as_bytes(), WallTime(0)).unwrap();
            (folder, writer)
        };
        let query = LogQuery { tail: Some(u64::MAX), ..LogQuery::default() };
        let (mut cursor, mut lines) = (None, 0);
        loop {
            let page = read_page(folder.path(), &query, cursor).unwrap();
            lines += page.lines.len() as u64;
            cursor = page.cursor;
            if page.done {
                break;
            }
        }
        assert_eq!(lines, TAIL_LINES_MAX);
    }
}
