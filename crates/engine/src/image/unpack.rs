//! Layers are unpacked by a process of their own that can do nothing else (`selvedge-monitor
//! unpack`): they are hostile, and this process is root. This is its client.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;

use crate::error::EngineError;
use crate::image::digest::Digest;
use crate::image::source::Part;

/// Version of what the child says.
const VERSION: u32 = 1;
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Whether a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    Gzip,
    /// As its first bytes say.
    Detect,
}

impl Form {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Detect => "detect",
        }
    }
}

/// What one layer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed stream.
    pub diff_id: Digest,
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Entries that were left out, such as device nodes.
    pub skipped: u64,
}

// Strict: the process that answers has just read hostile layers.
#[derive(Deserialize)]
#[serde(tag = "result", rename_all = "lowercase", deny_unknown_fields)]
enum Answer {
    Unpacked { version: u32, diff_id: Digest, bytes: u64, skipped: u64, landlock: bool },
    Refused { version: u32, message: String },
    Failed { version: u32, action: String, message: String },
}

/// Starts the child for each layer.
#[derive(Debug)]
pub(crate) struct Unpacker {
    /// `selvedge-monitor`.
    program: PathBuf,
    /// Whether a child said that this kernel has no Landlock.
    without_landlock: AtomicBool,
    /// Thousands of children would take too long.
    #[cfg(test)]
    pub(crate) is_inside: bool,
}

impl Unpacker {
    pub(crate) fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            without_landlock: AtomicBool::new(false),
            #[cfg(test)]
            is_inside: false,
        }
    }

    /// Whether layers were unpacked without Landlock, which this kernel lacks.
    pub(crate) fn without_landlock(&self) -> bool {
        self.without_landlock.load(Ordering::Relaxed)
    }

    /// Unpacks `part` of an archive into the existing empty `folder`.
    pub(crate) fn unpack(
        &self,
        part: Part,
        form: Form,
        folder: &Path,
    ) -> Result<Unpacked, EngineError> {
        #[cfg(test)]
        if self.is_inside {
            return tests::unpack_inside(&part, form, folder);
        }
        let unpacked = self.unpack_by_child(part, form, folder);
        #[cfg(test)]
        crate::files::watch::seen(folder);
        unpacked
    }

    fn unpack_by_child(
        &self,
        part: Part,
        form: Form,
        folder: &Path,
    ) -> Result<Unpacked, EngineError> {
        let failed = |error: &dyn std::fmt::Display| {
            EngineError::system(format!("unpacking with {}", self.program.display()), error)
        };
        let mut command = Command::new(&self.program);
        command.args(["unpack", &part.offset.to_string(), &part.len.to_string(), form.as_str()]);
        command.env_clear().current_dir(folder).stdin(part.file).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let mut said = Vec::new();
        let out = child.stdout.take().map(|out| out.take(ANSWER_BYTES_MAX));
        let read = out.map_or(Ok(0), |mut out| out.read_to_end(&mut said));
        // With its output closed it ends, whatever it had still to say.
        let status = child.wait().map_err(|error| failed(&error))?;
        read.map_err(|error| failed(&error))?;
        let answer: Answer = serde_json::from_slice(&said)
            .map_err(|_| failed(&format!("it ended with {status} and said nothing usable")))?;
        match answer {
            Answer::Unpacked { version: VERSION, diff_id, bytes, skipped, landlock } => {
                if !landlock && !self.without_landlock.swap(true, Ordering::Relaxed) {
                    tracing::warn!("this kernel has no Landlock; layers are unpacked without it");
                }
                Ok(Unpacked { diff_id, bytes, skipped })
            }
            Answer::Refused { version: VERSION, message } => {
                Err(EngineError::InvalidImage { message })
            }
            Answer::Failed { version: VERSION, action, message } => {
                Err(EngineError::System { action, message })
            }
            Answer::Unpacked { version, .. }
            | Answer::Refused { version, .. }
            | Answer::Failed { version, .. } => {
                Err(failed(&format!("it speaks version {version}, not {VERSION}")))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
