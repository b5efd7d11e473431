//! A file system for `SQLite` that writes down what is written and what is synced, in order.
//!
//! It stands in front of the system's own and hands every call on; what happens below folders
//! that are recorded goes into their logs. From a log the files can be made as they are after a
//! power cut at any point: what was synced is there, what was only written may be.

#![expect(unsafe_code, reason = "SQLite's file systems are tables of C functions")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex, Once, PoisonError};

use rusqlite::ffi;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Write {
        file: Arc<str>,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: Arc<str>,
        len: usize,
    },
    Sync {
        file: Arc<str>,
    },
    /// For sure, and at once: only a rollback journal is deleted, at the first start.
    Delete {
        file: Arc<str>,
    },
    /// Said by the test.
    Answered(u64),
}

/// What happened below one folder.
pub(super) type Log = Arc<Mutex<Vec<Event>>>;

static LOGS: Mutex<BTreeMap<PathBuf, Log>> = Mutex::new(BTreeMap::new());
static FIRST: Once = Once::new();

/// Records what connections do below `folder` that are opened from now on.
pub(super) fn record(folder: &Path) -> Log {
    FIRST.call_once(register);
    let log = Log::default();
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.insert(folder.to_owned(), Arc::clone(&log));
    log
}

/// An open file: this, and behind it the file of the system's own.
#[repr(C)]
struct File {
    head: ffi::sqlite3_file,
    /// A boxed [`Told`]; null if nobody records the file.
    told: *mut Told,
}

struct Told {
    name: Arc<str>,
    log: Log,
}

fn register() {
    // SAFETY: the system's own file system lives as long as the process, and so does ours, which
    // is leaked; a copy of its table works with the same data.
    unsafe {
        let own = ffi::sqlite3_vfs_find(ptr::null());
        assert!(!own.is_null(), "SQLite has a file system");
        let mut ours = Box::new(*own);
        ours.szOsFile += c_int::try_from(size_of::<File>()).unwrap();
        ours.zName = c"recording".as_ptr();
        ours.pNext = ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        let done = ffi::sqlite3_vfs_register(Box::leak(ours), 1);
        assert_eq!(done, ffi::SQLITE_OK);
    }
}

/// The system's own, which is the next in the list.
unsafe fn own_vfs() -> *mut ffi::sqlite3_vfs {
    // SAFETY: the list of file systems only grows here.
    unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite hands over `szOsFile` bytes: ours and the system's own behind them.
    unsafe {
        let own = own_vfs();
        let Some(own_open) = (*own).xOpen else { return ffi::SQLITE_CANTOPEN };
        let done = own_open(own, name, own_file(file), flags, out);
        let ours = file.cast::<File>();
        (*ours).told = ptr::null_mut();
        (*ours).head.pMethods = ptr::null();
        if done == ffi::SQLITE_OK {
            (*ours).told = told_of(name);
            (*ours).head.pMethods = &raw const METHODS;
        }
        done
    }
}

unsafe fn told_of(name: *const c_char) -> *mut Told {
    // SAFETY: SQLite's names end with a zero.
    let told = unsafe { recorded(name) };
    told.map_or(ptr::null_mut(), |told| Box::into_raw(Box::new(told)))
}

/// The log that the file is recorded in, if it is in one.
unsafe fn recorded(name: *const c_char) -> Option<Told> {
    if name.is_null() {
        return None;
    }
    // SAFETY: a name that is not null ends with a zero.
    let path = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let path = Path::new(&path);
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    let log = logs.get(path.parent()?)?;
    let name = path.file_name()?.to_string_lossy();
    Some(Told { name: name.into(), log: Arc::clone(log) })
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_folder: c_int,
) -> c_int {
    // SAFETY: the arguments are those that SQLite gave.
    unsafe {
        let own = own_vfs();
        let Some(own_delete) = (*own).xDelete else { return ffi::SQLITE_IOERR_DELETE };
        let done = own_delete(own, name, sync_folder);
        if let Some(Told { name: file, log }) = recorded(name).filter(|_| done == ffi::SQLITE_OK) {
            log.lock().unwrap_or_else(PoisonError::into_inner).push(Event::Delete { file });
        }
        done
    }
}

fn own_file(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // Within what SQLite gave for both.
    file.wrapping_byte_add(size_of::<File>())
}

unsafe fn tell(file: *mut ffi::sqlite3_file, event: impl FnOnce(Arc<str>) -> Event) {
    // SAFETY: `told` is null or boxed by `open`, and lives until `close`.
    if let Some(told) = unsafe { (*file.cast::<File>()).told.as_ref() } {
        let event = event(Arc::clone(&told.name));
        told.log.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// Calls a function of the system's own on the system's own file.
macro_rules! own {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let own = own_file($file);
        // SAFETY: an open file has its methods.
        match unsafe { (*(*own).pMethods).$method } {
            // SAFETY: the arguments are those that SQLite gave.
            Some(call) => unsafe { call(own $(, $argument)*) },
            None => Default::default(),
        }
    }};
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let done: c_int = own!(file, xClose);
    // SAFETY: boxed by `open`, and SQLite closes once.
    unsafe {
        let told = std::mem::replace(&mut (*file.cast::<File>()).told, ptr::null_mut());
        if !told.is_null() {
            drop(Box::from_raw(told));
        }
    }
    done
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    into: *mut c_void,
    count: c_int,
    at: i64,
) -> c_int {
    own!(file, xRead, into, count, at)
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: i64,
) -> c_int {
    let done: c_int = own!(file, xWrite, from, count, at);
    if done == ffi::SQLITE_OK {
        let (len, at) = (usize::try_from(count).unwrap(), usize::try_from(at).unwrap());
        // SAFETY: SQLite gave `count` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec();
        // SAFETY: the file is open.
        unsafe { tell(file, |file| Event::Write { file, at, bytes }) };
    }
    done
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    let done: c_int = own!(file, xTruncate, len);
    if done == ffi::SQLITE_OK {
        let len = usize::try_from(len).unwrap();
        // SAFETY: the file is open.
        unsafe { tell(file, |file| Event::Truncate { file, len }) };
    }
    done
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let done: c_int = own!(file, xSync, flags);
    if done == ffi::SQLITE_OK {
        // SAFETY: the file is open.
        unsafe { tell(file, |file| Event::Sync { file }) };
    }
    done
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    own!(file, xFileSize, size)
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    own!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    own!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, held: *mut c_int) -> c_int {
    own!(file, xCheckReservedLock, held)
}

unsafe extern "C" fn control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    own!(file, xFileControl, operation, argument)
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    own!(file, xSectorSize)
}

unsafe extern "C" fn characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    own!(file, xDeviceCharacteristics)
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    into: *mut *mut c_void,
) -> c_int {
    own!(file, xShmMap, page, size, extend, into)
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    at: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    own!(file, xShmLock, at, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    own!(file, xShmBarrier);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    own!(file, xShmUnmap, delete)
}

/// Without the two of memory maps, which hubs do not use.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
