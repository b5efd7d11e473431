//! The last steps inside the container before its program takes over.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet};
use nix::unistd::execvp;

use crate::seccomp::Filters;
use crate::sys;

/// Applies the filters, gives signals back their defaults, and executes.
///
/// `fault` closes by itself when the program takes over; if it does not, it carries the reason.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) filters: Rc<Filters>,
    pub(crate) fault: Rc<OwnedFd>,
}

impl Executor for Launch {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let reason = self.launch(spec);
        if let Ok(pipe) = self.fault.as_fd().try_clone_to_owned() {
            File::from(pipe).write_all(reason.as_bytes()).ok();
        }
        Err(ExecutorError::Other(reason))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        // Only the attempt itself tells whether a program can be executed.
        Ok(())
    }
}

impl Launch {
    /// Returns only if it failed, with the reason.
    fn launch(&self, spec: &Spec) -> String {
        let arguments = spec.process().as_ref().and_then(|process| process.args().clone());
        let arguments: Result<Vec<_>, _> =
            arguments.unwrap_or_default().into_iter().map(CString::new).collect();
        let Ok(arguments) = arguments else {
            return "an argument of the command contains a zero byte".to_owned();
        };
        let Some(program) = arguments.first() else { return "there is no command".to_owned() };
        let defaults =
            sys::set_sigpipe(SigHandler::SigDfl).and_then(|()| SigSet::empty().thread_set_mask());
        if let Err(error) = defaults {
            return format!("cannot reset signals: {error}");
        }
        if let Err(error) = self.filters.apply() {
            return format!("cannot restrict system calls: {error}");
        }
        let Err(error) = execvp(program, &arguments);
        let program = program.to_string_lossy();
        match error {
            Errno::ENOENT => format!("exec {program:?}: executable file not found"),
            Errno::EACCES => format!("exec {program:?}: permission denied"),
            Errno::ENOEXEC => format!("exec {program:?}: not a program for this machine"),
            other => format!("exec {program:?}: {other}"),
        }
    }
}
