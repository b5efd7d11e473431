//! Log files in Docker's json-file format, with rotation.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::clock;
use crate::files::LogSettings;

/// Longest line kept together, in bytes; Docker splits there too.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Serialize)]
struct Line<'l> {
    log: &'l str,
    stream: Stream,
    time: &'l str,
}

/// The log of one container.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    limits: LogSettings,
    file: File,
    size: u64,
    /// Begun lines, of stdout and stderr.
    begun: [Vec<u8>; 2],
}

impl Log {
    /// Goes on with the log in `folder`.
    pub(crate) fn open(folder: &Path, limits: LogSettings) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join("container.log");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, limits, file, size, begun: Default::default() })
    }

    /// Takes what the container wrote; whole lines go to the file.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                let [stdout, stderr] = &mut self.begun;
                let line = if matches!(stream, Stream::Stdout) { stdout } else { stderr };
                line.extend_from_slice(part);
                if line.ends_with(b"\n") || line.len() >= LINE_BYTES_MAX {
                    let line = std::mem::take(line);
                    self.write(stream, &line)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what has no line end yet; nothing more will come.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let [stdout, stderr] = std::mem::take(&mut self.begun);
        for (stream, line) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            if !line.is_empty() {
                self.write(stream, &line)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, stream: Stream, line: &[u8]) -> io::Result<()> {
        let log = String::from_utf8_lossy(line);
        let line = Line { log: &log, stream, time: &clock::wall() };
        let mut text = serde_json::to_vec(&line)?;
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

    #[test]
    fn files_rotate_and_only_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let limits = LogSettings { max_size: 200, max_file: 2 };
        let mut log = Log::open(folder.path(), limits).unwrap();
        for number in 0..10 {
            log.take(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("container.log").contains(r#""log":"line 9\n","stream":"stdout","time":"#));
        assert!(read("container.log.1").contains("line 7"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn lines_are_joined_split_at_the_limit_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), LogSettings::default()).unwrap();
        log.take(Stream::Stdout, b"he").unwrap();
        log.take(Stream::Stderr, b"bad\n").unwrap();
        log.take(Stream::Stdout, b"llo\n").unwrap();
        log.take(Stream::Stdout, &vec![b'x'; LINE_BYTES_MAX + 1]).unwrap();
        log.finish().unwrap();
        let text = fs::read_to_string(folder.path().join("container.log")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let sizes: Vec<_> = lines.iter().map(|line| line["log"].as_str().unwrap().len()).collect();
        assert_eq!(sizes, [4, 6, LINE_BYTES_MAX, 1]);
        assert_eq!(lines[0]["stream"], "stderr");
    }
}
