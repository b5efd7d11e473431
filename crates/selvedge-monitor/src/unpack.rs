//! `unpack`: one layer of an image into one folder, by a process that can do nothing else.
//!
//! Standard input is the archive (a file), the working folder is the empty target, arguments are
//! `<offset> <length> plain|gzip|detect`. One line of JSON on standard output tells the end.
//!
//! The stream is hostile and the caller is root, so before its first byte is read this process
//! gives up, in this order: limits, the sight of anything but the target (`chroot`), Landlock (only
//! the target may be changed, and in known ways; no TCP, no signals to others), all capabilities
//! but those that files need, and all system calls but those that files need. If one of these
//! fails, nothing is unpacked; only a kernel that has no Landlock at all is told in the answer.

mod confine;
mod layer;

pub(crate) use confine::confine;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use crate::files::VERSION;
use crate::start;

/// The first two bytes of every gzip stream.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why a layer is not unpacked.
#[derive(Debug)]
enum Fault {
    /// The stream is damaged or hostile.
    Image(String),
    /// The machine does not do it.
    System { action: String, message: String },
}

impl Fault {
    fn system(action: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::System { action: action.into(), message: cause.to_string() }
    }
}

/// The sub-command `unpack`.
pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    let (answer, code) = match perform(arguments) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(Fault::Image(message)) => (
            json!({"version": VERSION, "result": "refused", "message": message}),
            ExitCode::FAILURE,
        ),
        Err(Fault::System { action, message }) => {
            let answer = json!({
                "version": VERSION, "result": "failed", "action": action, "message": message,
            });
            (answer, ExitCode::FAILURE)
        }
    };
    start::say(&answer.to_string());
    code
}

fn perform(arguments: &[&str]) -> Result<Value, Fault> {
    let wrong = || Fault::system("unpack", "takes <offset> <length> plain|gzip|detect");
    let [offset, len, form] = arguments else { return Err(wrong()) };
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (at, left) = (number(offset)?, number(len)?);
    let archive = io::stdin().as_fd().try_clone_to_owned();
    let archive = File::from(archive.map_err(|error| Fault::system("standard input", error))?);
    let gzip = match *form {
        "plain" => false,
        "gzip" => true,
        "detect" => {
            let mut first = [0; 2];
            archive.read_exact_at(&mut first, at).is_ok() && first == GZIP
        }
        _ => return Err(wrong()),
    };
    let landlock = confine().map_err(|words| Fault::system("confining", words))?;
    let mut slice = Slice { file: archive, at, left };
    let unpacked = if gzip {
        layer::unpack(&mut MultiGzDecoder::new(&mut slice))?
    } else {
        layer::unpack(&mut slice)?
    };
    Ok(json!({
        "version": VERSION, "result": "unpacked", "diff_id": unpacked.diff_id,
        "bytes": unpacked.bytes, "skipped": unpacked.skipped, "landlock": landlock,
    }))
}

/// A part of a file, read by position: the descriptor is shared with the engine.
struct Slice {
    file: File,
    at: u64,
    left: u64,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
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
