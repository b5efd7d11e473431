use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tar::EntryType;

use super::*;
use crate::embedded::tests::monitor_program;
use crate::files::watch;
use crate::sys;

const OPAQUE: &str = "trusted.overlay.opaque";

/// Unpacks `bytes` as an archive would hand them to the child: in the middle of a file.
fn unpack(bytes: &[u8], form: Form, root: &Path) -> Result<Unpacked, EngineError> {
    let archive = tempfile::NamedTempFile::new().unwrap();
    let whole = [b"before".as_slice(), bytes, b"after"].concat();
    fs::write(archive.path(), whole).unwrap();
    let part = Part {
        file: File::open(archive.path()).unwrap(),
        offset: 6,
        len: u64::try_from(bytes.len()).unwrap(),
    };
    Unpacker::new(&monitor_program()).unpack(part, form, root)
}

/// What the child does, for layers of plain files, where nobody is hostile. With a full disk it
/// stops half-way.
pub(crate) fn unpack_inside(
    part: &Part,
    form: Form,
    folder: &Path,
) -> Result<Unpacked, EngineError> {
    let mut bytes = Vec::new();
    part.reader().unwrap().read_to_end(&mut bytes).unwrap();
    if form != Form::Plain {
        let packed = std::mem::take(&mut bytes);
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
    }
    let is_full = watch::is_full();
    let mut archive = tar::Archive::new(bytes.as_slice());
    archive.set_preserve_permissions(true);
    for entry in archive.entries().unwrap().take(if is_full { 1 } else { usize::MAX }) {
        entry.unwrap().unpack_in(folder).unwrap();
    }
    watch::seen(folder);
    if is_full {
        return Err(EngineError::system("unpacking", "No space left on device"));
    }
    let bytes_len = u64::try_from(bytes.len()).unwrap();
    Ok(Unpacked { diff_id: Digest::of(&bytes), bytes: bytes_len, skipped: 0 })
}

/// A raw entry: the tar writer refuses to write hostile names, so they are put in by hand.
struct Raw {
    name: &'static str,
    kind: EntryType,
    link: &'static str,
    content: &'static [u8],
}

fn raw(name: &'static str, kind: EntryType, link: &'static str) -> Raw {
    Raw { name, kind, link, content: b"" }
}

fn file(name: &'static str) -> Raw {
    Raw { name, kind: EntryType::Regular, link: "", content: b"content" }
}

fn tar_of(entries: &[Raw]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.content.len() as u64);
        header.set_mode(0o750);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_cksum();
        builder.append(&header, entry.content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpack_entries(entries: &[Raw]) -> (tempfile::TempDir, Result<Unpacked, EngineError>) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("root")).unwrap();
    let unpacked = unpack(&tar_of(entries), Form::Plain, &folder.path().join("root"));
    (folder, unpacked)
}

#[test]
fn hostile_entries_are_refused_and_nothing_appears_outside() {
    let cases: Vec<(&str, Vec<Raw>)> = vec![
        ("upwards", vec![file("../evil")]),
        ("upwards", vec![file("a/../../evil")]),
        ("absolute", vec![file("/evil")]),
        ("no folder", vec![raw("a", EntryType::Symlink, ".."), file("a/evil")]),
        ("no folder", vec![raw("a", EntryType::Symlink, "/tmp"), file("a/evil")]),
        ("no folder", vec![raw("a", EntryType::Symlink, "b"), file("a/c/evil")]),
        ("no folder", vec![raw("a", EntryType::Symlink, ".."), file("a/.wh.evil")]),
        ("no folder", vec![raw("a", EntryType::Symlink, ".."), file("a/.wh..wh..opq")]),
        ("upwards", vec![raw("a", EntryType::Link, "../../etc/passwd")]),
        ("absolute", vec![raw("a", EntryType::Link, "/etc/passwd")]),
        (
            "no folder",
            vec![raw("a", EntryType::Symlink, "/etc"), raw("b", EntryType::Link, "a/passwd")],
        ),
        ("nothing", vec![raw("a", EntryType::Link, "missing")]),
        ("folder", vec![raw("d", EntryType::Directory, ""), raw("a", EntryType::Link, "d")]),
        ("usable target", vec![raw("a", EntryType::Symlink, "")]),
        ("names nothing", vec![file(".wh.")]),
        ("names nothing", vec![file(".wh...")]),
        ("names nothing", vec![file("a/.wh..")]),
    ];
    for (words, entries) in cases {
        let (folder, result) = unpack_entries(&entries);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(words), "{words}: {message}");
        let beside: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(beside.len(), 1, "{words}: something was written outside");
    }
}

#[test]
fn device_nodes_are_left_out_and_counted() {
    let entries = [raw("null", EntryType::Char, ""), raw("sda", EntryType::Block, ""), file("f")];
    let (folder, result) = unpack_entries(&entries);
    assert_eq!(result.unwrap().skipped, 2);
    assert!(!folder.path().join("root/null").exists());
    assert!(folder.path().join("root/f").exists());
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let entries = [raw("d", EntryType::Directory, ""), file("d/.wh.gone"), file("d/.wh..wh..opq")];
    let (folder, result) = unpack_entries(&entries);
    result.unwrap();
    let gone = fs::symlink_metadata(folder.path().join("root/d/gone")).unwrap();
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    let opaque = sys::attribute(&folder.path().join("root/d"), OPAQUE).unwrap();
    assert_eq!(opaque.as_deref(), Some(&b"y"[..]));
}

#[test]
fn files_links_and_modes_arrive() {
    let entries = [
        raw("dir/", EntryType::Directory, ""),
        file("dir/one"),
        raw("two", EntryType::Link, "dir/one"),
        raw("three", EntryType::Symlink, "/absolute/is/fine/inside"),
        raw("pipe", EntryType::Fifo, ""),
        file("./deep/made/file"),
    ];
    let (folder, result) = unpack_entries(&entries);
    result.unwrap();
    let root = folder.path().join("root");
    let one = fs::metadata(root.join("dir/one")).unwrap();
    assert_eq!((one.nlink(), one.mode() & 0o7777, one.mtime()), (2, 0o750, 1_000_000));
    assert_eq!(fs::read(root.join("two")).unwrap(), b"content");
    assert_eq!(fs::read_link(root.join("three")).unwrap(), Path::new("/absolute/is/fine/inside"));
    assert!(fs::metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(root.join("deep")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_without_following_it() {
    let target = tempfile::NamedTempFile::new().unwrap();
    let path: &'static str = Box::leak(target.path().to_str().unwrap().to_owned().into());
    let (folder, result) = unpack_entries(&[raw("a", EntryType::Symlink, path), file("a")]);
    result.unwrap();
    assert_eq!(fs::read(folder.path().join("root/a")).unwrap(), b"content");
    assert_eq!(fs::read(target.path()).unwrap(), b"");
}

#[test]
fn a_cut_stream_is_an_error() {
    let whole = tar_of(&[file("a")]);
    let folder = tempfile::tempdir().unwrap();
    let error = unpack(&whole[..515], Form::Plain, folder.path()).unwrap_err();
    assert!(matches!(error, EngineError::InvalidImage { .. }), "{error}");
    assert!(error.to_string().contains("a layer cannot be read"), "{error}");
    let error = unpack(b"\x1f\x8bnonsense", Form::Detect, folder.path()).unwrap_err();
    assert!(error.to_string().contains("a layer cannot be read"), "{error}");
}

#[test]
fn a_stream_knows_its_digest_whether_it_is_compressed_or_not() {
    use std::io::Write;
    let plain = tar_of(&[file("a")]);
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(&plain).unwrap();
    let gzip = writer.finish().unwrap();
    let check = |bytes: &[u8], form: Form| {
        let folder = tempfile::tempdir().unwrap();
        let unpacked = unpack(bytes, form, folder.path()).unwrap();
        let expected = Unpacked {
            diff_id: Digest::of(&plain),
            bytes: u64::try_from(plain.len()).unwrap(),
            skipped: 0,
        };
        assert_eq!(unpacked, expected);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"content");
    };
    check(&plain, Form::Plain);
    check(&plain, Form::Detect);
    check(&gzip, Form::Gzip);
    check(&gzip, Form::Detect);
}

#[test]
fn a_header_cannot_make_the_child_take_all_memory_and_its_death_is_an_error() {
    // A name that claims to be four gigabytes long.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(4 << 30);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let archive = tempfile::NamedTempFile::new().unwrap();
    fs::write(archive.path(), header.as_bytes()).unwrap();
    archive.as_file().set_len(5 << 30).unwrap();
    let file = File::open(archive.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let part = Part { file, offset: 0, len: 5 << 30 };
    let error = Unpacker::new(&monitor_program()).unpack(part, Form::Plain, folder.path());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("said nothing usable") || error.contains("cannot be read"), "{error}");
}

#[test]
fn without_the_program_nothing_is_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let part = Part { file: File::open("/dev/null").unwrap(), offset: 0, len: 0 };
    let error = Unpacker::new(Path::new("/none")).unpack(part, Form::Plain, folder.path());
    assert!(matches!(error, Err(EngineError::System { .. })));
}
