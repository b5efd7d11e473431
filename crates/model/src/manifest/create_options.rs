//! The names of Docker's create call, so that a misspelt one is told before it reaches a device.
//!
//! Docker ignores what it does not know, and so do we; but whoever wrote it is told.

use serde_json::{Map, Value};

/// Fields of the body of Docker's create call. Source: Docker Engine API 1.47,
/// `ContainerCreate`.
pub const FIELDS: &[&str] = &[
    "ArgsEscaped",
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Cmd",
    "Domainname",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "HostConfig",
    "Hostname",
    "Image",
    "Labels",
    "MacAddress",
    "NetworkDisabled",
    "NetworkingConfig",
    "OnBuild",
    "OpenStdin",
    "Platform",
    "Shell",
    "StdinOnce",
    "StopSignal",
    "StopTimeout",
    "Tty",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Fields of its `HostConfig`. Source: the same.
#[rustfmt::skip]
pub const HOST_FIELDS: &[&str] = &[
    "Annotations", "AutoRemove", "Binds", "BlkioDeviceReadBps", "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps", "BlkioDeviceWriteIOps", "BlkioWeight", "BlkioWeightDevice", "CapAdd",
    "CapDrop", "Cgroup", "CgroupParent", "CgroupnsMode", "ConsoleSize", "ContainerIDFile",
    "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod", "CpuRealtimeRuntime",
    "CpuShares", "CpusetCpus", "CpusetMems", "DeviceCgroupRules", "DeviceRequests", "Devices",
    "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "GroupAdd", "IOMaximumBandwidth",
    "IOMaximumIOps", "Init", "IpcMode", "Isolation", "KernelMemory", "KernelMemoryTCP", "Links",
    "LogConfig", "MaskedPaths", "Memory", "MemoryReservation", "MemorySwap", "MemorySwappiness",
    "Mounts", "NanoCpus", "NetworkMode", "OomKillDisable", "OomScoreAdj", "PidMode", "PidsLimit",
    "PortBindings", "Privileged", "PublishAllPorts", "ReadonlyPaths", "ReadonlyRootfs",
    "RestartPolicy", "Runtime", "SecurityOpt", "ShmSize", "StorageOpt", "Sysctls", "Tmpfs",
    "UTSMode", "Ulimits", "UsernsMode", "VolumeDriver", "VolumesFrom",
];

/// Fields of one module that are told; more of them are a document of another kind.
pub(super) const TOLD_MAX: usize = 8;

/// The paths of what Docker does not know, in `options` and its `HostConfig`, at most
/// [`TOLD_MAX`]; names are told apart without regard to case, as Docker does.
pub(super) fn unknown(options: &Map<String, Value>) -> Vec<String> {
    let is = |name: &str, known: &str| name.eq_ignore_ascii_case(known);
    let mut paths = Vec::new();
    for (name, value) in options {
        if !FIELDS.iter().any(|known| is(name, known)) {
            paths.push(name.clone());
        }
        if let (true, Value::Object(host)) = (is(name, "HostConfig"), value) {
            let strange = |inner: &&String| !HOST_FIELDS.iter().any(|known| is(inner, known));
            paths.extend(host.keys().filter(strange).map(|inner| format!("{name}.{inner}")));
        }
    }
    paths.truncate(TOLD_MAX);
    paths
}
