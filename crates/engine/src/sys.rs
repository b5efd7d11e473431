//! The system calls that neither `std` nor `nix` wraps. The only unsafe code of this crate, and
//! only its tests need it.
#![expect(unsafe_code, reason = "extended attributes have no safe wrapper here")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Reads the extended attribute `name` of `path` itself; `None` when it has none.
pub(crate) fn attribute(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    let mut value = vec![0_u8; 256];
    // SAFETY: both strings end in a zero byte and live across the call; the kernel writes at most `value.len()` bytes into `value`.
    let len = unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let Ok(len) = usize::try_from(len) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENODATA) { Ok(None) } else { Err(error) };
    };
    value.truncate(len);
    Ok(Some(value))
}
