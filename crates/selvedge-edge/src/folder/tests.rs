use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;

const USER: User = User { uid: 61_000, gid: 61_000 };

fn settings(data: &Path, more: &str) -> Settings {
    let text = format!(
        "hostname = \"g\"\n{more}[provisioning]\nsource = \"manual\"\n\
         connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=a2V5\"\n"
    );
    Settings::parse_in(&text, data).unwrap()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.mode() & 0o7777)
}

#[test]
fn what_is_the_runtimes_is_handed_over_once_and_root_keeps_the_rest() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, outside) = (scratch.path().join("d"), scratch.path().join("outside"));
    fs::create_dir_all(data.join("keys/deep")).unwrap();
    for name in ["edge.db", "keys/deep/k", "config.toml", "../outside"] {
        fs::write(data.join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink(&outside, data.join("keys/link")).unwrap();
    fs::hard_link(&outside, data.join("keys/second-name")).unwrap();
    drop(prepare(&settings(&data, ""), USER).unwrap());
    let check = |name: &str, uid: u32| assert_eq!(owner(&data.join(name)).0, uid, "{name}");
    assert_eq!(owner(&data), (0, 0o1770));
    for name in ["edge.db", "keys", "keys/deep", "keys/deep/k", "keys/link"] {
        check(name, USER.uid);
    }
    check("config.toml", 0);
    check("keys/second-name", 0);
    assert_eq!(owner(&outside).0, 0);
    assert_eq!(owner(&data.join("engine")), (0, 0o711));
    assert_eq!(owner(&data.join("engine/helper.sock")), (USER.uid, 0o600));
    // Later starts trust nothing that lies there.
    fs::write(data.join("keys/later"), "x").unwrap();
    drop(prepare(&settings(&data, ""), USER).unwrap());
    check("keys/later", 0);
    // Another user gets it all.
    let other = User { uid: 61_001, gid: 61_001 };
    drop(prepare(&settings(&data, ""), other).unwrap());
    check("keys/later", other.uid);
    check("edge.db", other.uid);
}

#[test]
fn files_that_are_roots_alone_are_given_to_the_runtime_as_copies() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("d");
    fs::create_dir(&data).unwrap();
    let root = scratch.path().join("root.pem");
    fs::write(&root, "one").unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o600)).unwrap();
    let line = format!("trust_bundle_cert = {root:?}\n");
    let mut first = settings(&data, &line);
    drop(prepare(&first, USER).unwrap());
    fs::write(&root, "two").unwrap();
    drop(prepare(&first, USER).unwrap());
    take_given(&mut first);
    let copy = first.trust_bundle_cert.unwrap();
    assert_eq!(fs::read_to_string(&copy).unwrap(), "two");
    assert_eq!(owner(&copy), (0, 0o640));
    assert_eq!(fs::metadata(&copy).unwrap().gid(), USER.gid);
    let mut by_file = settings(&data, "");
    by_file.provisioning.key = DeviceKey::File(root.clone());
    drop(prepare(&by_file, USER).unwrap());
    take_given(&mut by_file);
    assert_eq!(by_file.provisioning.key, DeviceKey::File(data.join("given/device.key")));
    assert_eq!(fs::read(data.join("given/device.key")).unwrap(), b"two");
    fs::remove_file(&root).unwrap();
    let error = format!("{:#}", prepare(&settings(&data, &line), USER).unwrap_err());
    assert!(error.contains("cannot read") && error.contains("root.pem"), "{error}");
}

#[test]
fn a_folder_is_refused_while_its_holder_lives_and_waited_for_when_it_is_dead() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("lock");
    let held = lock(scratch.path()).unwrap();
    let error = lock(scratch.path()).unwrap_err().to_string();
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    drop(held);
    // A child of a dead launcher has the lock a little longer.
    let mut child = Command::new("flock").arg(&path).args(["sleep", "0.3"]).spawn().unwrap();
    let free = || Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).is_ok();
    while free() {
        std::thread::yield_now();
    }
    fs::write(&path, "999999999\n").unwrap();
    let second = lock(scratch.path()).unwrap();
    child.wait().unwrap();
    assert!(!free());
    drop(second);
}
