//! From a module's specification to the OCI bundle that the monitor runs.
//!
//! Pure except for [`users`], which reads the image's own files.

pub mod capabilities;
pub mod users;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::create_options::{CreateOptions, MountKind, NetworkMode};
use crate::error::EngineError;
use crate::image::import::ImageConfig;
use crate::runtime::{EngineResult, ModuleSpec};
use users::Identity;

/// Parent of all modules' control groups.
pub const CGROUP_PARENT: &str = "/selvedge";
/// Most processes of a module that asks for nothing.
const PIDS_DEFAULT: i64 = 4096;
/// Bytes of `/dev/shm`; Docker's default.
const SHM_BYTES_DEFAULT: i64 = 64 * 1024 * 1024;
/// What a program searches when neither image nor manifest says so; Docker's.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Set in a network of the module's own; Docker's: no user of it needs a right to listen.
const SYSCTLS: &[(&str, &str)] =
    &[("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// A device of the host, looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDevice {
    /// Path inside.
    pub target: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// All a bundle is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What the agent asked for.
    pub spec: &'a ModuleSpec,
    /// Its create options, understood.
    pub options: &'a CreateOptions,
    /// What the image says.
    pub image: &'a ImageConfig,
    /// Name of the container for kernel objects.
    pub id: &'a str,
    /// The container's folder, which holds `rootfs`, `hosts`, `hostname`, `resolv.conf`.
    pub folder: &'a Path,
    /// Folder of named volumes.
    pub volumes: &'a Path,
    /// Pinned network namespace; absent on the host network.
    pub network: Option<&'a Path>,
    /// Who it runs as.
    pub identity: &'a Identity,
    /// Devices of the create options.
    pub devices: &'a [FoundDevice],
}

/// The program and its arguments, by Docker's rule.
pub fn command(options: &CreateOptions, image: &ImageConfig) -> Option<Vec<String>> {
    let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let own = given(&options.entrypoint);
    let arguments = match (&own, given(&options.cmd)) {
        (_, Some(arguments)) => arguments,
        // An entry point of its own drops the image's arguments.
        (Some(_), None) => Vec::new(),
        (None, None) => given(&image.cmd).unwrap_or_default(),
    };
    let mut words = own.or_else(|| given(&image.entrypoint)).unwrap_or_default();
    words.extend(arguments);
    (!words.is_empty()).then_some(words)
}

/// Image, then create options, then the agent's; later ones win.
pub fn environment(parts: &Parts<'_>) -> Vec<String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    all.insert("PATH".to_owned(), PATH_DEFAULT.to_owned());
    for entry in parts.image.env.iter().flatten() {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        all.insert(name.to_owned(), value.to_owned());
    }
    all.insert("HOSTNAME".to_owned(), hostname(parts));
    all.entry("HOME".to_owned()).or_insert_with(|| parts.identity.home.clone());
    for (name, value) in &parts.options.env {
        match value {
            Some(value) => all.insert(name.clone(), value.clone()),
            None => all.remove(name),
        };
    }
    all.extend(parts.spec.env.clone());
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// What the module sees as the machine's name.
pub fn hostname(parts: &Parts<'_>) -> String {
    hostname_of(&parts.spec.name, parts.options)
}

/// What the module `name` sees as the machine's name.
pub fn hostname_of(name: &str, options: &CreateOptions) -> String {
    let name = name.trim_start_matches('$');
    options.hostname.clone().unwrap_or_else(|| name.chars().take(63).collect())
}

/// The runtime specification.
///
/// # Errors
/// `InvalidSpec` when there is no command.
pub fn config(parts: &Parts<'_>) -> EngineResult<Value> {
    let arguments =
        command(parts.options, parts.image).ok_or_else(|| EngineError::InvalidSpec {
            name: parts.spec.name.clone(),
            message: "neither the image nor createOptions name a command".to_owned(),
        })?;
    let host = &parts.options.host;
    let capabilities = capabilities::resolve(&host.cap_add, &host.cap_drop, host.privileged);
    let root = parts.identity.uid == 0;
    let effective: &[&str] = if root { &capabilities } else { &[] };
    let folder = parts.options.working_dir.clone().or_else(|| parts.image.working_dir.clone());
    let limits: Vec<Value> = host
        .ulimits
        .iter()
        .map(|limit| json!({"type": limit.name, "soft": limit.soft, "hard": limit.hard}))
        .collect();
    let mut process = json!({
        "terminal": false,
        "user": {
            "uid": parts.identity.uid,
            "gid": parts.identity.gid,
            "additionalGids": parts.identity.groups,
        },
        "args": arguments,
        "env": environment(parts),
        "cwd": folder.filter(|folder| folder.starts_with('/')).unwrap_or_else(|| "/".to_owned()),
        "capabilities": {
            "bounding": capabilities,
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": limits,
    });
    if let Value::Object(process) = &mut process {
        if !host.privileged {
            process.insert("noNewPrivileges".to_owned(), json!(true));
        }
        if let Some(score) = host.oom_score_adj {
            process.insert("oomScoreAdj".to_owned(), json!(score));
        }
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": parts.folder.join("rootfs"), "readonly": host.read_only},
        "hostname": hostname(parts),
        "mounts": mounts(parts),
        "linux": linux(parts),
    }))
}

fn linux(parts: &Parts<'_>) -> Value {
    let host = &parts.options.host;
    let mut namespaces: Vec<Value> =
        ["pid", "mount", "uts", "ipc", "cgroup"].iter().map(|kind| json!({"type": kind})).collect();
    if let Some(path) = parts.network {
        namespaces.push(json!({"type": "network", "path": path}));
    }
    let devices: Vec<Value> = parts
        .devices
        .iter()
        .map(|device| {
            json!({
                "path": device.target, "type": device.kind.to_string(),
                "major": device.major, "minor": device.minor,
                "fileMode": 0o666, "uid": 0, "gid": 0,
            })
        })
        .collect();
    let mut sysctls: BTreeMap<&str, &str> = BTreeMap::new();
    if parts.network.is_some() {
        sysctls.extend(SYSCTLS.iter().copied());
    }
    sysctls.extend(host.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut linux = json!({
        "namespaces": namespaces,
        "devices": devices,
        "sysctl": sysctls,
        "cgroupsPath": format!("{CGROUP_PARENT}/{}", parts.id),
        "resources": resources(parts),
    });
    if let Value::Object(linux) = &mut linux
        && !host.privileged
    {
        linux.insert("maskedPaths".to_owned(), json!(MASKED));
        linux.insert("readonlyPaths".to_owned(), json!(READ_ONLY));
    }
    linux
}

fn resources(parts: &Parts<'_>) -> Value {
    let host = &parts.options.host;
    let mut devices = vec![json!({"allow": host.privileged, "access": "rwm"})];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        devices.push(
            json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}),
        );
    }
    for device in parts.devices {
        devices.push(json!({
            "allow": true, "type": device.kind.to_string(),
            "major": device.major, "minor": device.minor, "access": device.access,
        }));
    }
    let mut all = json!({
        "devices": devices,
        "pids": {"limit": host.pids.unwrap_or(PIDS_DEFAULT)},
    });
    let Value::Object(fields) = &mut all else { return all };
    // Absent fields stay absent: a null would be an error in the monitor.
    let mut section = |name: &str, values: Vec<(&str, Option<Value>)>| {
        let present: serde_json::Map<String, Value> =
            values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        if !present.is_empty() {
            fields.insert(name.to_owned(), Value::Object(present));
        }
    };
    section(
        "memory",
        vec![
            ("limit", host.memory.map(Value::from)),
            ("reservation", host.memory_reservation.map(Value::from)),
            ("swap", host.memory_swap.map(Value::from)),
        ],
    );
    section(
        "cpu",
        vec![
            ("quota", host.cpu_quota.map(Value::from)),
            ("period", host.cpu_period.map(Value::from)),
            ("shares", host.cpu_shares.map(Value::from)),
            ("cpus", host.cpuset_cpus.clone().map(Value::from)),
            ("mems", host.cpuset_mems.clone().map(Value::from)),
        ],
    );
    all
}

fn mounts(parts: &Parts<'_>) -> Vec<Value> {
    let host = &parts.options.host;
    let shm = format!("size={}", host.shm_size.unwrap_or(SHM_BYTES_DEFAULT));
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let sys: &[&str] = if host.privileged {
        &["nosuid", "noexec", "nodev"]
    } else {
        &["nosuid", "noexec", "nodev", "ro"]
    };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    // A new sysfs shows the network namespace of whoever mounts it, which must be its owner.
    if host.network == NetworkMode::Host {
        all.push(mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]));
    } else {
        all.push(mount("/sys", "sysfs", "sysfs", sys));
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        let source = parts.folder.join(name);
        let source = source.to_string_lossy();
        let options = &["rbind", "rprivate", "rw"];
        all.push(mount(&format!("/etc/{name}"), "bind", &source, options));
    }
    let mut wanted: Vec<(&Path, Value)> = Vec::new();
    for option in &host.mounts {
        wanted.push((&option.target, mount_of(parts, option)));
    }
    for bind in &parts.spec.binds {
        let write = if bind.read_only { "ro" } else { "rw" };
        let options = json!(["rbind", "rprivate", write]);
        let value = json!({
            "destination": bind.target, "type": "bind", "source": bind.source, "options": options,
        });
        wanted.push((&bind.target, value));
    }
    // Outer before inner, or the inner one would be hidden.
    wanted.sort_by_key(|(target, _)| target.components().count());
    all.extend(wanted.into_iter().map(|(_, value)| value));
    all
}

fn mount_of(parts: &Parts<'_>, option: &crate::create_options::MountOption) -> Value {
    let write = if option.read_only { "ro" } else { "rw" };
    match &option.kind {
        MountKind::Bind { source, propagation, .. } => json!({
            "destination": option.target, "type": "bind", "source": source,
            "options": ["rbind", propagation, write],
        }),
        MountKind::Volume { name } => json!({
            "destination": option.target, "type": "bind", "source": parts.volumes.join(name),
            "options": ["rbind", "rprivate", write],
        }),
        MountKind::Tmpfs { options } => {
            let mut all = vec!["nosuid".to_owned(), "nodev".to_owned(), write.to_owned()];
            if !options.iter().any(|word| word == "exec") {
                all.push("noexec".to_owned());
            }
            all.extend(options.iter().filter(|word| *word != "exec").cloned());
            json!({
                "destination": option.target, "type": "tmpfs", "source": "tmpfs", "options": all,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create_options::Policy;

    type Words<'a> = &'a [&'a str];

    #[test]
    fn entry_point_and_command_combine_as_in_docker() {
        let list = |words: &[&str]| -> Option<Vec<String>> {
            (!words.is_empty()).then(|| words.iter().map(|word| (*word).to_owned()).collect())
        };
        // image entry, image cmd, own entry, own cmd, result
        let rows: &[(Words<'_>, Words<'_>, Words<'_>, Words<'_>, Words<'_>)] = &[
            (&["e"], &["c"], &[], &[], &["e", "c"]),
            (&["e"], &["c"], &[], &["d"], &["e", "d"]),
            (&["e"], &["c"], &["f"], &[], &["f"]),
            (&["e"], &["c"], &["f"], &["d"], &["f", "d"]),
            (&[], &["c"], &[], &[], &["c"]),
            (&[], &["c"], &[], &["d"], &["d"]),
            (&[], &[], &[], &[], &[]),
        ];
        for (entry, cmd, own_entry, own_cmd, want) in rows {
            let image =
                ImageConfig { entrypoint: list(entry), cmd: list(cmd), ..ImageConfig::default() };
            let options = CreateOptions {
                entrypoint: list(own_entry),
                cmd: list(own_cmd),
                ..CreateOptions::default()
            };
            assert_eq!(command(&options, &image), list(want));
        }
    }

    #[test]
    fn rights_limits_and_mounts_reach_the_specification() {
        let text = r#"{"Cmd":["x"],"Env":["A=1","HOME"],"HostConfig":{"Memory":33554432,
            "NanoCpus":500000000,"CapDrop":["ALL"],"ReadonlyRootfs":true,"NetworkMode":"host",
            "Binds":["/a/b:/m/n:ro","/a:/m"],"Mounts":[{"Type":"tmpfs","Target":"/t"}]}}"#;
        let options = CreateOptions::parse(text, Policy::default()).unwrap();
        let spec = ModuleSpec {
            name: "$edgeHub".to_owned(),
            image: "i".to_owned(),
            create_options: String::new(),
            env: [("A".to_owned(), "2".to_owned())].into(),
            binds: Vec::new(),
            labels: BTreeMap::new(),
            aliases: Vec::new(),
            extra_hosts: BTreeMap::new(),
            digest: String::new(),
        };
        let identity = Identity { uid: 7, gid: 8, groups: vec![9], home: "/h".to_owned() };
        let image = ImageConfig { env: Some(vec!["A=0".to_owned()]), ..ImageConfig::default() };
        let parts = Parts {
            spec: &spec,
            options: &options,
            image: &image,
            id: "id",
            folder: Path::new("/c"),
            volumes: Path::new("/v"),
            network: None,
            identity: &identity,
            devices: &[],
        };
        let config = config(&parts).unwrap();
        let env = environment(&parts);
        assert!(env.contains(&"A=2".to_owned()) && env.contains(&"HOSTNAME=edgeHub".to_owned()));
        assert!(!env.iter().any(|entry| entry.starts_with("HOME=")));
        assert_eq!(config["process"]["capabilities"]["bounding"], json!([]));
        assert_eq!(config["process"]["noNewPrivileges"], true);
        assert_eq!(config["process"]["user"], json!({"uid": 7, "gid": 8, "additionalGids": [9]}));
        assert_eq!(config["root"], json!({"path": "/c/rootfs", "readonly": true}));
        assert_eq!(config["linux"]["resources"]["memory"], json!({"limit": 33_554_432}));
        let cpu = json!({"quota": 50_000, "period": 100_000});
        assert_eq!(config["linux"]["resources"]["cpu"], cpu);
        assert!(config["linux"].get("seccomp").is_none());
        let targets: Vec<_> = config["mounts"].as_array().unwrap().iter().rev().take(3).collect();
        assert_eq!(targets[0]["destination"], "/m/n");
        assert_eq!(targets[0]["options"], json!(["rbind", "rprivate", "ro"]));
        let namespaces = config["linux"]["namespaces"].to_string();
        assert!(!namespaces.contains("network"), "the host network is no namespace of its own");
    }
}
