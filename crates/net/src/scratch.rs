//! One pair of large buffers per thread, so that no idle connection holds one.

use std::cell::RefCell;

/// Room for what TLS reads: any handshake message (64 KiB) and a record behind it, in bytes.
const CIPHER_BYTES: usize = 96 * 1024;
/// Room for what a protocol reads at once, in bytes: one full TLS record.
pub(crate) const PLAIN_BYTES: usize = 16 * 1024;

thread_local! {
    static CIPHER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CIPHER_BYTES].into());
    static PLAIN: RefCell<Box<[u8]>> = RefCell::new(vec![0; PLAIN_BYTES].into());
}

/// Lends the buffer for bytes from the socket under TLS.
pub(crate) fn with_cipher<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    CIPHER.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buffer) => work(&mut buffer),
        // TLS inside TLS on one thread; correct, only slower.
        Err(_) => work(&mut vec![0; CIPHER_BYTES]),
    })
}

/// Lends the buffer for bytes that a protocol reads.
pub(crate) fn with_plain<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    PLAIN.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buffer) => work(&mut buffer),
        Err(_) => work(&mut vec![0; PLAIN_BYTES]),
    })
}
