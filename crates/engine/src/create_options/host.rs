//! `HostConfig`: resources, rights, network and logs of a module.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::mounts::{self, MountOption};
use super::{Policy, host_name_is_good};
use crate::error::EngineError;

/// Smallest memory limit, in bytes; Docker's.
const MEMORY_MIN: i64 = 6 * 1024 * 1024;

/// Everything below `HostConfig`, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// Binds, volumes and memory file systems.
    pub mounts: Vec<MountOption>,
    /// Which network.
    pub network: NetworkMode,
    /// Further `/etc/hosts` entries.
    pub extra_hosts: BTreeMap<String, String>,
    /// Name servers in place of the host's.
    pub dns: Vec<String>,
    /// Search domains in place of the host's.
    pub dns_search: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// `CAP_…` or `ALL`, given beyond the default.
    pub cap_add: Vec<String>,
    /// `CAP_…` or `ALL`, taken from the default.
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, no masks, no filter.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes below which the kernel reclaims last.
    pub memory_reservation: Option<i64>,
    /// Bytes of memory and swap together; -1 for no limit.
    pub memory_swap: Option<i64>,
    /// Microseconds of processor time per period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Relative weight.
    pub cpu_shares: Option<u64>,
    /// As `0-1,3`.
    pub cpuset_cpus: Option<String>,
    /// As `0`.
    pub cpuset_mems: Option<String>,
    /// Most processes.
    pub pids: Option<i64>,
    /// Limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters of the module's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<i64>,
    /// Limits of log files.
    pub log: LogLimits,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Further groups, names or numbers.
    pub group_add: Vec<String>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// No filter of system calls.
    pub seccomp_unconfined: bool,
    /// Moved to the whole document's by the reader.
    pub(super) warnings: Vec<String>,
}

/// Which network a module is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The engine's bridge.
    #[default]
    Bridge,
    /// The host's own.
    Host,
    /// Only a loopback of its own.
    None,
}

/// A limit of every process of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// As `RLIMIT_NOFILE`.
    pub name: String,
    /// What applies.
    pub soft: u64,
    /// How far a process may raise it.
    pub hard: u64,
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside.
    pub target: PathBuf,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// Limits of a module's log files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes per file.
    pub max_size: u64,
    /// Files, the current one included.
    pub max_file: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_size: 10 * 1024 * 1024, max_file: 3 }
    }
}

impl HostOptions {
    pub(super) fn read(host: &mut Fields, policy: Policy) -> Result<Self, EngineError> {
        let mut options = Self { mounts: mounts::read(host, policy)?, ..Self::default() };
        options.network(host)?;
        options.rights(host, policy)?;
        options.memory_and_processes(host)?;
        options.processors(host)?;
        options.log(host)?;
        options.devices(host)?;
        refuse(host)?;
        let ignored = [
            ("RestartPolicy", "the deployment's restart policy decides"),
            ("Init", "no init process is added"),
            ("Isolation", "it has a meaning on Windows only"),
            ("ConsoleSize", "a module has no terminal"),
            ("ContainerIDFile", "no such file is written"),
            ("Annotations", "nothing reads them"),
        ];
        for (key, why) in ignored {
            host.ignore(key, why, &mut options.warnings);
        }
        Ok(options)
    }

    fn network(&mut self, host: &mut Fields) -> Result<(), EngineError> {
        let at = host.at("NetworkMode");
        self.network = match host.string("NetworkMode")?.as_deref() {
            None | Some("default" | "bridge" | "azure-iot-edge") => NetworkMode::Bridge,
            Some("host") => NetworkMode::Host,
            Some("none") => NetworkMode::None,
            Some(other) if other.starts_with("container:") => {
                let message = "sharing another module's network is not supported; modules on \
                               the bridge reach each other by name";
                return Err(EngineError::option(at, message));
            }
            Some(other) => {
                let message = format!("{other:?} is none of bridge, host, none");
                return Err(EngineError::option(at, message));
            }
        };
        for (at, entry) in host.strings("ExtraHosts")?.unwrap_or_default() {
            let parsed = entry.split_once([':', '=']).filter(|(name, address)| {
                host_name_is_good(name)
                    && (*address == "host-gateway" || address.parse::<IpAddr>().is_ok())
            });
            let Some((name, address)) = parsed else {
                return Err(EngineError::option(at, format!("{entry:?} is not name:address")));
            };
            self.extra_hosts.insert(name.to_owned(), address.to_owned());
        }
        for (at, server) in host.strings("Dns")?.unwrap_or_default() {
            if server.parse::<IpAddr>().is_err() {
                return Err(EngineError::option(at, format!("{server:?} is no address")));
            }
            self.dns.push(server);
        }
        self.dns_search = lines(host.strings("DnsSearch")?)?;
        self.dns_options = lines(host.strings("DnsOptions")?)?;
        host.refuse("PortBindings", "ports are not published yet; use NetworkMode \"host\"")?;
        host.refuse("PublishAllPorts", "ports are not published yet; use NetworkMode \"host\"")?;
        Ok(())
    }

    fn rights(&mut self, host: &mut Fields, policy: Policy) -> Result<(), EngineError> {
        self.privileged = host.flag("Privileged")?;
        if self.privileged && !policy.privileged {
            return Err(EngineError::option(host.at("Privileged"), "denied by policy"));
        }
        self.read_only = host.flag("ReadonlyRootfs")?;
        self.cap_add = capabilities(host.strings("CapAdd")?)?;
        self.cap_drop = capabilities(host.strings("CapDrop")?)?;
        self.group_add = lines(host.strings("GroupAdd")?)?;
        for (at, entry) in host.strings("SecurityOpt")?.unwrap_or_default() {
            match entry.as_str() {
                // Always so, whether asked for or not.
                "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {}
                "seccomp=unconfined" | "seccomp:unconfined" if policy.privileged => {
                    self.seccomp_unconfined = true;
                }
                "seccomp=unconfined" | "seccomp:unconfined" => {
                    return Err(EngineError::option(at, "denied by policy"));
                }
                other => {
                    let message = format!("{other:?} is not supported");
                    return Err(EngineError::option(at, message));
                }
            }
        }
        self.sysctls = host.map("Sysctls")?.unwrap_or_default();
        for name in self.sysctls.keys() {
            let own_network = name.starts_with("net.") && self.network != NetworkMode::Host;
            let own_ipc = name.starts_with("fs.mqueue.")
                || ["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem"]
                    .contains(&name.as_str())
                || name.starts_with("kernel.shm");
            if name.contains('/') || name.contains("..") || !(own_network || own_ipc) {
                let at = host.at(&format!("Sysctls.{name}"));
                return Err(EngineError::option(at, "would change the host"));
            }
        }
        Ok(())
    }

    fn memory_and_processes(&mut self, host: &mut Fields) -> Result<(), EngineError> {
        self.memory = host.integer("Memory")?;
        if self.memory.is_some_and(|bytes| bytes < MEMORY_MIN) {
            return Err(EngineError::option(host.at("Memory"), "at least 6 MiB, in bytes"));
        }
        self.memory_reservation = positive(host, "MemoryReservation")?;
        self.memory_swap = host.integer("MemorySwap")?;
        if self.memory_swap.is_some_and(|swap| swap != -1 && self.memory.is_none_or(|m| swap < m)) {
            let message = "needs Memory, and counts it in";
            return Err(EngineError::option(host.at("MemorySwap"), message));
        }
        self.pids = host.integer("PidsLimit")?;
        self.shm_size = positive(host, "ShmSize")?;
        let score = host.integer("OomScoreAdj")?;
        self.oom_score_adj = match score.map(i32::try_from) {
            None => None,
            Some(Ok(score)) if (-1000..=1000).contains(&score) => Some(score),
            Some(_) => {
                return Err(EngineError::option(host.at("OomScoreAdj"), "-1000 to 1000"));
            }
        };
        for (at, value) in host.items("Ulimits")?.unwrap_or_default() {
            let mut fields = Fields::of(&at, value)?;
            let name = fields.string("Name")?.unwrap_or_default();
            let known = ULIMITS.contains(&name.as_str());
            let limit = |value: Option<i64>| match value.unwrap_or(0) {
                -1 => Some(u64::MAX),
                value => u64::try_from(value).ok(),
            };
            let soft = limit(fields.integer("Soft")?);
            let hard = limit(fields.integer("Hard")?);
            let (true, Some(soft), Some(hard)) = (known, soft, hard) else {
                return Err(EngineError::option(at, "not a limit with Name, Soft and Hard"));
            };
            if soft > hard {
                return Err(EngineError::option(at, "Soft is above Hard"));
            }
            let name = format!("RLIMIT_{}", name.to_ascii_uppercase());
            self.ulimits.push(Ulimit { name, soft, hard });
        }
        Ok(())
    }

    fn processors(&mut self, host: &mut Fields) -> Result<(), EngineError> {
        let nano = positive(host, "NanoCpus")?;
        self.cpu_quota = positive(host, "CpuQuota")?;
        self.cpu_period =
            positive(host, "CpuPeriod")?.and_then(|period| u64::try_from(period).ok());
        self.cpu_shares =
            positive(host, "CpuShares")?.and_then(|shares| u64::try_from(shares).ok());
        if let Some(nano) = nano {
            if self.cpu_quota.is_some() || self.cpu_period.is_some() {
                let message = "excludes CpuQuota and CpuPeriod";
                return Err(EngineError::option(host.at("NanoCpus"), message));
            }
            // 10^9 of them are one processor; a period is 100 ms.
            self.cpu_period = Some(100_000);
            self.cpu_quota = Some((nano / 10_000).max(1000));
        }
        for (name, place) in
            [("CpusetCpus", &mut self.cpuset_cpus), ("CpusetMems", &mut self.cpuset_mems)]
        {
            *place = host.string(name)?;
            let good = |byte: u8| byte.is_ascii_digit() || b",-".contains(&byte);
            if place.as_ref().is_some_and(|set| !set.bytes().all(good)) {
                return Err(EngineError::option(host.at(name), "a set as 0-2,4"));
            }
        }
        Ok(())
    }

    fn log(&mut self, host: &mut Fields) -> Result<(), EngineError> {
        let Some(mut log) = host.object("LogConfig")? else { return Ok(()) };
        match log.string("Type")?.as_deref() {
            None | Some("json-file") => {}
            Some(other) => {
                let message = format!("{other:?} is not supported; write json-file");
                return Err(EngineError::option(log.at("Type"), message));
            }
        }
        let at = log.at("Config");
        for (key, value) in log.map("Config")?.unwrap_or_default() {
            let at = format!("{at}.{key}");
            let bad = || EngineError::option(&at, format!("{value:?} is not usable"));
            match key.as_str() {
                "max-size" => {
                    let size = number_with_unit(&value).filter(|size| *size >= 4096);
                    self.log.max_size = size.ok_or_else(bad)?;
                }
                "max-file" => {
                    let count = value.parse().ok().filter(|count| (1..=1000).contains(count));
                    self.log.max_file = count.ok_or_else(bad)?;
                }
                _ => return Err(EngineError::option(at, "is not supported")),
            }
        }
        let mut unknown = Vec::new();
        log.finish(&mut unknown)?;
        self.warnings.append(&mut unknown);
        Ok(())
    }

    fn devices(&mut self, host: &mut Fields) -> Result<(), EngineError> {
        for (at, value) in host.items("Devices")?.unwrap_or_default() {
            let mut fields = Fields::of(&at, value)?;
            let source = fields.string("PathOnHost")?.unwrap_or_default();
            let inside = fields.string("PathInContainer")?.unwrap_or_else(|| source.clone());
            let access = fields.string("CgroupPermissions")?.unwrap_or_else(|| "rwm".to_owned());
            if !access.chars().all(|letter| "rwm".contains(letter)) {
                return Err(EngineError::option(at, "CgroupPermissions are of r, w, m"));
            }
            if !source.starts_with("/dev/") || source.split('/').any(|part| part == "..") {
                return Err(EngineError::option(at, "PathOnHost lies below /dev"));
            }
            let target = mounts::target(&at, &inside)?;
            self.devices.push(Device { source: PathBuf::from(source), target, access });
        }
        Ok(())
    }
}

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn positive(host: &mut Fields, name: &str) -> Result<Option<i64>, EngineError> {
    match host.integer(name)? {
        Some(number) if number < 0 => {
            Err(EngineError::option(host.at(name), "must not be negative"))
        }
        number => Ok(number),
    }
}

/// Words that end up as lines or words of a generated file.
fn lines(entries: Option<Vec<(String, String)>>) -> Result<Vec<String>, EngineError> {
    let each = entries.unwrap_or_default().into_iter().map(|(at, entry)| {
        if entry.is_empty() || entry.contains(char::is_whitespace) {
            return Err(EngineError::option(at, "must be one word"));
        }
        Ok(entry)
    });
    each.collect()
}

fn capabilities(entries: Option<Vec<(String, String)>>) -> Result<Vec<String>, EngineError> {
    let each = entries.unwrap_or_default().into_iter().map(|(at, entry)| {
        let upper = entry.to_ascii_uppercase();
        let name = if upper == "ALL" || upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        if name == "ALL" || crate::bundle::capabilities::ALL.contains(&name.as_str()) {
            return Ok(name);
        }
        Err(EngineError::option(at, format!("{entry:?} is no capability")))
    });
    each.collect()
}

fn refuse(host: &mut Fields) -> Result<(), EngineError> {
    let shared = [
        ("PidMode", &["private"][..]),
        ("IpcMode", &["private", "shareable", "none"]),
        ("UTSMode", &["private"]),
        ("CgroupnsMode", &["private"]),
        ("UsernsMode", &["host"]),
        ("Runtime", &["runc", "io.containerd.runc.v2"]),
        ("VolumeDriver", &["local"]),
    ];
    for (name, allowed) in shared {
        let value = host.string(name)?;
        if let Some(value) = value.filter(|value| !allowed.contains(&value.as_str())) {
            let message = format!("{value:?} is not supported");
            return Err(EngineError::option(host.at(name), message));
        }
    }
    let refused = [
        ("AutoRemove", "the agent removes modules"),
        ("VolumesFrom", "name the volumes in Binds"),
        ("Links", "modules reach each other by name"),
        ("DeviceRequests", "GPU requests need CDI, which is not there"),
        ("DeviceCgroupRules", "name the devices in Devices"),
        ("CgroupParent", "the engine has its own"),
        ("Cgroup", "the engine has its own"),
        ("StorageOpt", "the file system has no quota"),
        ("OomKillDisable", "a module out of memory must end"),
        ("KernelMemory", "the kernel has dropped it"),
        ("KernelMemoryTCP", "the kernel has dropped it"),
        ("MemorySwappiness", "set it for the machine"),
        ("CpuRealtimePeriod", "real-time groups are not set up"),
        ("CpuRealtimeRuntime", "real-time groups are not set up"),
        ("CpuCount", "it has a meaning on Windows only"),
        ("CpuPercent", "it has a meaning on Windows only"),
        ("IOMaximumIOps", "it has a meaning on Windows only"),
        ("IOMaximumBandwidth", "it has a meaning on Windows only"),
        ("BlkioWeight", "block devices are not limited"),
        ("BlkioWeightDevice", "block devices are not limited"),
        ("BlkioDeviceReadBps", "block devices are not limited"),
        ("BlkioDeviceWriteBps", "block devices are not limited"),
        ("BlkioDeviceReadIOps", "block devices are not limited"),
        ("BlkioDeviceWriteIOps", "block devices are not limited"),
        ("MaskedPaths", "the default paths are masked"),
        ("ReadonlyPaths", "the default paths are read-only"),
    ];
    for (name, why) in refused {
        host.refuse(name, why)?;
    }
    Ok(())
}

/// `10m`, `512k`, `1g` or a plain number of bytes.
pub fn number_with_unit(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let units = [("k", 1 << 10), ("m", 1 << 20), ("g", 1_u64 << 30)];
    let found = units.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor)));
    let (number, factor) = found.unwrap_or((lower, 1));
    number.parse::<u64>().ok()?.checked_mul(factor)
}
