//! The files of an image archive, wherever they lie: a tar file, a gzipped one, or a folder.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use crate::error::EngineError;

/// Most bytes of a whole archive, uncompressed.
pub const ARCHIVE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Most files in an archive; one per blob, so far more than any image has.
pub(super) const ARCHIVE_ENTRIES_MAX: usize = 10_000;
/// Longest manifest, configuration or index, in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The two first bytes of every gzip stream.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// An opened archive.
#[derive(Debug)]
pub(crate) enum Source {
    Folder(PathBuf),
    Tar { file: File, files: BTreeMap<String, Place> },
}

/// Where a file lies inside a tar file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    offset: u64,
    len: u64,
}

/// A file of an archive, for a process that reads it by position.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) file: File,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Part {
    /// All of it, once.
    pub(crate) fn reader(&self) -> io::Result<impl Read> {
        Ok(Slice { file: self.file.try_clone()?, at: self.offset, left: self.len })
    }
}

impl Source {
    /// Opens `path`; a gzipped archive is first unzipped into a nameless file in `scratch`.
    pub(crate) fn open(path: &Path, scratch: &Path) -> Result<Self, EngineError> {
        let failed = |error: io::Error| EngineError::system(path.display().to_string(), error);
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let mut file = File::open(path).map_err(failed)?;
        if starts_gzip(&mut file).map_err(failed)? {
            let mut plain = nameless(scratch)
                .map_err(|error| EngineError::system(scratch.display().to_string(), error))?;
            let mut unzipped = MultiGzDecoder::new(file).take(ARCHIVE_BYTES_MAX + 1);
            let len = io::copy(&mut unzipped, &mut plain).map_err(failed)?;
            if len > ARCHIVE_BYTES_MAX {
                let message = format!("the archive is larger than {ARCHIVE_BYTES_MAX} bytes");
                return Err(EngineError::image(message));
            }
            file = plain;
        }
        let files = index(&mut file)?;
        Ok(Self::Tar { file, files })
    }

    /// Where the file `name` lies; `None` when there is none.
    pub(crate) fn part(&self, name: &str) -> Result<Option<Part>, EngineError> {
        let failed = |error: io::Error| EngineError::system(format!("reading {name}"), error);
        match self {
            Self::Folder(folder) => {
                // Names come from inside the archive; only digests and constants get here.
                if name.split('/').any(|part| part.is_empty() || part == "..") {
                    return Err(EngineError::image(format!("file name {name:?} is refused")));
                }
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
                let file = match options.open(folder.join(name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    opened => opened.map_err(failed)?,
                };
                let found = file.metadata().map_err(failed)?;
                if !found.is_file() {
                    return Err(EngineError::image(format!("{name:?} is not a file")));
                }
                Ok(Some(Part { file, offset: 0, len: found.len() }))
            }
            Self::Tar { file, files } => {
                let Some(place) = files.get(name) else { return Ok(None) };
                let file = file.try_clone().map_err(failed)?;
                Ok(Some(Part { file, offset: place.offset, len: place.len }))
            }
        }
    }

    /// The whole of a small file.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let Some(part) = self.part(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let len = part
            .reader()
            .and_then(|reader| reader.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| EngineError::system(format!("reading {name}"), error))?;
        if u64::try_from(len).is_ok_and(|len| len > DOCUMENT_BYTES_MAX) {
            let message = format!("{name:?} is larger than {DOCUMENT_BYTES_MAX} bytes");
            return Err(EngineError::image(message));
        }
        Ok(Some(bytes))
    }
}

fn starts_gzip(file: &mut File) -> io::Result<bool> {
    let mut first = Vec::new();
    Read::by_ref(file).take(2).read_to_end(&mut first)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(first == GZIP)
}

fn nameless(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder)
}

fn index(file: &mut File) -> Result<BTreeMap<String, Place>, EngineError> {
    let damaged = |error: io::Error| {
        EngineError::image(format!("not a tar archive, or a damaged one: {error}"))
    };
    file.seek(SeekFrom::Start(0)).map_err(damaged)?;
    let mut files = BTreeMap::new();
    let mut archive = Archive::new(file);
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if files.len() >= ARCHIVE_ENTRIES_MAX {
            let message = format!("the archive has more than {ARCHIVE_ENTRIES_MAX} files");
            return Err(EngineError::image(message));
        }
        // Anything but a plain file is never read, so it cannot do harm.
        if matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            let place = Place { offset: entry.raw_file_position(), len: entry.size() };
            if files.insert(name.clone(), place).is_some() {
                return Err(EngineError::image(format!("the archive has {name:?} twice")));
            }
        }
    }
    Ok(files)
}

/// A part of a file, read by position, so that several can be open at once.
struct Slice {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let len = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        if len == 0 && self.left > 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        let read = u64::try_from(len).unwrap_or(0);
        self.at += read;
        self.left -= read;
        Ok(len)
    }
}
