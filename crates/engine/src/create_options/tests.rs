use super::*;

const OPEN: Policy = Policy { privileged: true, engine_sockets: true };

#[test]
fn options_may_be_as_long_as_their_limit_and_no_longer() {
    let of = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
    parse(&of(CREATE_OPTIONS_BYTES_MAX));
    let long = of(CREATE_OPTIONS_BYTES_MAX + 1);
    let said = CreateOptions::parse(&long, Policy::default()).unwrap_err().to_string();
    assert!(said.contains(&format!("longer than {CREATE_OPTIONS_BYTES_MAX} bytes")), "{said}");
}

fn parse(text: &str) -> CreateOptions {
    CreateOptions::parse(text, Policy::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_cannot_be_honoured_is_refused_with_its_path() {
    let rows: &[(&str, &str)] = &[
        ("[]", ""),
        ("{", ""),
        (r#"{"Env":"A=1"}"#, "Env"),
        (r#"{"Env":["=1"]}"#, "Env[0]"),
        (r#"{"Env":["A=1",2]}"#, "Env[1]"),
        (r#"{"Env":["A=1"],"env":["A=2"]}"#, "env"),
        (r#"{"Cmd":[1]}"#, "Cmd[0]"),
        (r#"{"User":7}"#, "User"),
        (r#"{"WorkingDir":"a"}"#, "WorkingDir"),
        (r#"{"Hostname":"a b"}"#, "Hostname"),
        (r#"{"Labels":{"a":1}}"#, "Labels.a"),
        (r#"{"StopSignal":"SIGNONE"}"#, "StopSignal"),
        (r#"{"Tty":true}"#, "Tty"),
        (r#"{"Volumes":{"/a":{"b":1}}}"#, "Volumes"),
        (r#"{"NetworkDisabled":true}"#, "NetworkDisabled"),
        (r#"{"HostConfig":[]}"#, "HostConfig"),
        (r#"{"Binds":["/a:/b"]}"#, "Binds"),
        (r#"{"CapDrop":[]}"#, "CapDrop"),
        (r#"{"HostConfig":{"Binds":["/a"]}}"#, "HostConfig.Binds[0]"),
        (r#"{"HostConfig":{"Binds":["/a:/b","/a:b"]}}"#, "HostConfig.Binds[1]"),
        (r#"{"HostConfig":{"Binds":["/a:/b:xx"]}}"#, "HostConfig.Binds[0]"),
        (r#"{"HostConfig":{"Binds":["/a/../b:/b"]}}"#, "HostConfig.Binds[0]"),
        (r#"{"HostConfig":{"Binds":["../b:/b"]}}"#, "HostConfig.Binds[0]"),
        (r#"{"HostConfig":{"Binds":["/a:/"]}}"#, "HostConfig.Binds[0]"),
        (r#"{"HostConfig":{"Binds":["/a:/b","/c:/b"]}}"#, "HostConfig.Binds[1]"),
        (r#"{"HostConfig":{"Binds":["/var/run/docker.sock:/d"]}}"#, "HostConfig.Binds[0]"),
        (r#"{"HostConfig":{"Mounts":[{"Type":"npipe"}]}}"#, "HostConfig.Mounts[0].Target"),
        (
            r#"{"HostConfig":{"Mounts":[{"Type":"npipe","Target":"/a"}]}}"#,
            "HostConfig.Mounts[0].Type",
        ),
        (
            r#"{"HostConfig":{"Mounts":[{"Type":"bind","Target":"/a"}]}}"#,
            "HostConfig.Mounts[0].Source",
        ),
        (
            r#"{"HostConfig":{"Mounts":[{"Type":"volume","Target":"/a"}]}}"#,
            "HostConfig.Mounts[0].Source",
        ),
        (
            r#"{"HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/a","Odd":1}]}}"#,
            "HostConfig.Mounts[0]",
        ),
        (
            r#"{"HostConfig":{"Mounts":[{"Type":"bind","Source":"/run/podman.sock","Target":"/a"}]}}"#,
            "HostConfig.Mounts[0].Source",
        ),
        (r#"{"HostConfig":{"Tmpfs":{"/a":"evil"}}}"#, "HostConfig.Tmpfs"),
        (r#"{"HostConfig":{"NetworkMode":"container:x"}}"#, "HostConfig.NetworkMode"),
        (r#"{"HostConfig":{"ExtraHosts":["a"]}}"#, "HostConfig.ExtraHosts[0]"),
        (r#"{"HostConfig":{"ExtraHosts":["a b:1.2.3.4"]}}"#, "HostConfig.ExtraHosts[0]"),
        (r#"{"HostConfig":{"Dns":["one"]}}"#, "HostConfig.Dns[0]"),
        (r#"{"HostConfig":{"DnsSearch":["a\nb"]}}"#, "HostConfig.DnsSearch[0]"),
        (
            r#"{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"80"}]}}}"#,
            "HostConfig.PortBindings",
        ),
        (r#"{"HostConfig":{"PublishAllPorts":true}}"#, "HostConfig.PublishAllPorts"),
        (r#"{"HostConfig":{"Privileged":true}}"#, "HostConfig.Privileged"),
        (r#"{"HostConfig":{"Privileged":"yes"}}"#, "HostConfig.Privileged"),
        (r#"{"HostConfig":{"CapAdd":["FLY"]}}"#, "HostConfig.CapAdd[0]"),
        (r#"{"HostConfig":{"SecurityOpt":["seccomp=unconfined"]}}"#, "HostConfig.SecurityOpt[0]"),
        (
            r#"{"HostConfig":{"SecurityOpt":["no-new-privileges:false"]}}"#,
            "HostConfig.SecurityOpt[0]",
        ),
        (r#"{"HostConfig":{"Sysctls":{"kernel.panic":"1"}}}"#, "HostConfig.Sysctls.kernel.panic"),
        (
            r#"{"HostConfig":{"NetworkMode":"host","Sysctls":{"net.ipv4.ip_forward":"1"}}}"#,
            "HostConfig.Sysctls.net.ipv4.ip_forward",
        ),
        (
            r#"{"HostConfig":{"Sysctls":{"net.a":"1"}},"NetworkingConfig":{"EndpointsConfig":{"host":{}}}}"#,
            "HostConfig.Sysctls",
        ),
        (r#"{"HostConfig":{"Memory":1000}}"#, "HostConfig.Memory"),
        (r#"{"HostConfig":{"Memory":"64m"}}"#, "HostConfig.Memory"),
        (r#"{"HostConfig":{"MemorySwap":99}}"#, "HostConfig.MemorySwap"),
        (r#"{"HostConfig":{"NanoCpus":-1}}"#, "HostConfig.NanoCpus"),
        (r#"{"HostConfig":{"NanoCpus":1,"CpuQuota":1}}"#, "HostConfig.NanoCpus"),
        (r#"{"HostConfig":{"CpusetCpus":"a"}}"#, "HostConfig.CpusetCpus"),
        (r#"{"HostConfig":{"OomScoreAdj":2000}}"#, "HostConfig.OomScoreAdj"),
        (r#"{"HostConfig":{"Ulimits":[{"Name":"x"}]}}"#, "HostConfig.Ulimits[0]"),
        (
            r#"{"HostConfig":{"Ulimits":[{"Name":"nofile","Soft":2,"Hard":1}]}}"#,
            "HostConfig.Ulimits[0]",
        ),
        (r#"{"HostConfig":{"LogConfig":{"Type":"syslog"}}}"#, "HostConfig.LogConfig.Type"),
        (
            r#"{"HostConfig":{"LogConfig":{"Config":{"max-size":"big"}}}}"#,
            "HostConfig.LogConfig.Config.max-size",
        ),
        (
            r#"{"HostConfig":{"LogConfig":{"Config":{"tag":"x"}}}}"#,
            "HostConfig.LogConfig.Config.tag",
        ),
        (r#"{"HostConfig":{"Devices":[{"PathOnHost":"/etc/x"}]}}"#, "HostConfig.Devices[0]"),
        (
            r#"{"HostConfig":{"Devices":[{"PathOnHost":"/dev/x","CgroupPermissions":"q"}]}}"#,
            "HostConfig.Devices[0]",
        ),
        (r#"{"HostConfig":{"PidMode":"host"}}"#, "HostConfig.PidMode"),
        (r#"{"HostConfig":{"IpcMode":"host"}}"#, "HostConfig.IpcMode"),
        (r#"{"HostConfig":{"Runtime":"nvidia"}}"#, "HostConfig.Runtime"),
        (r#"{"HostConfig":{"DeviceRequests":[{"Count":1}]}}"#, "HostConfig.DeviceRequests"),
        (r#"{"HostConfig":{"AutoRemove":true}}"#, "HostConfig.AutoRemove"),
        (r#"{"HostConfig":{"GroupAdd":["a b"]}}"#, "HostConfig.GroupAdd[0]"),
        (
            r#"{"NetworkingConfig":{"EndpointsConfig":{"n":{"IPAMConfig":{"IPv4Address":"1.2.3.4"}}}}}"#,
            "NetworkingConfig.EndpointsConfig.n.IPAMConfig",
        ),
        (
            r#"{"NetworkingConfig":{"EndpointsConfig":{"host":{"Aliases":["a"]}}}}"#,
            "NetworkingConfig",
        ),
    ];
    assert!(rows.len() >= 60);
    for (text, want) in rows {
        match CreateOptions::parse(text, Policy::default()) {
            Err(EngineError::InvalidCreateOptions { path, message }) => {
                assert_eq!(path, *want, "{text}: {message}");
                assert!(!message.is_empty());
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn what_has_no_effect_is_named() {
    let rows: &[(&str, &str)] = &[
        (r#"{"ExposedPorts":{"80/tcp":{"x":1}}}"#, "ExposedPorts"),
        (r#"{"Healthcheck":{"Test":["NONE"]}}"#, "Healthcheck"),
        (r#"{"createOptions":{"a":1}}"#, "createOptions"),
        (r#"{"HostConfig":{"RestartPolicy":{"Name":"always"}}}"#, "HostConfig.RestartPolicy"),
        (r#"{"HostConfig":{"Isolation":"process"}}"#, "HostConfig.Isolation"),
        (r#"{"HostConfig":{"Init":true}}"#, "HostConfig.Init"),
        (r#"{"HostConfig":{"Novelty":1}}"#, "HostConfig.Novelty"),
        (r#"{"HostConfig":{"LogConfig":{"Extra":1}}}"#, "HostConfig.LogConfig.Extra"),
    ];
    for (text, path) in rows {
        let warnings = parse(text).warnings;
        assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
        assert!(warnings[0].starts_with(&format!("{path} has no effect: ")), "{warnings:?}");
    }
}

#[test]
fn what_the_manifest_calls_known_is_known_here_and_nothing_else() {
    use model::manifest::create_options::{FIELDS, HOST_FIELDS};
    // A field may be honoured, refused or ignored; only a stranger is told to be none.
    let stranger = |text: &str| match CreateOptions::parse(text, Policy::default()) {
        Ok(options) => options.warnings.iter().any(|words| words.contains("no such field")),
        Err(_) => false,
    };
    for field in FIELDS {
        assert!(!stranger(&format!(r#"{{"{field}":"x"}}"#)), "{field}");
    }
    for field in HOST_FIELDS {
        assert!(!stranger(&format!(r#"{{"HostConfig":{{"{field}":"x"}}}}"#)), "{field}");
    }
    assert!(stranger(r#"{"HostConfg":"x"}"#) && stranger(r#"{"HostConfig":{"Bind":"x"}}"#));
}

#[test]
fn empty_values_ask_for_nothing() {
    for text in [
        "",
        "  ",
        "{}",
        r#"{"Tty":false,"Env":null,"Cmd":[],"HostConfig":{}}"#,
        r#"{"HostConfig":{"PortBindings":{},"Privileged":false,"Memory":0,"PidMode":"","Binds":null}}"#,
        r#"{"NetworkingConfig":{"EndpointsConfig":{"azure-iot-edge":null}}}"#,
    ] {
        assert_eq!(parse(text), CreateOptions::default(), "{text}");
    }
}

#[test]
fn fields_arrive_whatever_their_case() {
    let options = parse(
        r#"{"env":["A=1=2","B"],"CMD":["x"],"entrypoint":"/e","user":"a:b","workingdir":"/w",
        "hostname":"h","labels":{"Key":"V"},"stopsignal":"int",
        "hostconfig":{"networkmode":"host","memory":67108864,"nanocpus":1500000000,"pidslimit":9,
        "capadd":["net_admin"],"capdrop":["ALL"],"readonlyrootfs":true,"groupadd":["dialout"],
        "shmsize":4096,"oomscoreadj":5,"extrahosts":["a:1.2.3.4","b:::1"],"dns":["9.9.9.9"],
        "ulimits":[{"Name":"nofile","Soft":1,"Hard":-1}],"sysctls":{"kernel.shm_rmid_forced":"1"},
        "logconfig":{"type":"json-file","config":{"max-size":"1m","max-file":"2"}},
        "devices":[{"PathOnHost":"/dev/null","PathInContainer":"","CgroupPermissions":""}]}}"#,
    );
    assert_eq!(options.env, [("A".to_owned(), Some("1=2".to_owned())), ("B".to_owned(), None)]);
    assert_eq!(options.cmd.unwrap(), ["x"]);
    assert_eq!(options.entrypoint.unwrap(), ["/e"]);
    assert_eq!(options.labels["Key"], "V");
    assert_eq!(options.stop_signal, Some(2));
    let host = options.host;
    assert_eq!(host.network, NetworkMode::Host);
    assert_eq!((host.memory, host.pids), (Some(67_108_864), Some(9)));
    assert_eq!((host.cpu_quota, host.cpu_period), (Some(150_000), Some(100_000)));
    assert_eq!((host.cap_add[0].as_str(), host.cap_drop[0].as_str()), ("CAP_NET_ADMIN", "ALL"));
    assert_eq!(host.extra_hosts["b"], "::1");
    assert_eq!((host.ulimits[0].name.as_str(), host.ulimits[0].hard), ("RLIMIT_NOFILE", u64::MAX));
    assert_eq!(host.log, LogLimits { max_size: 1 << 20, max_file: 2 });
    assert_eq!(host.devices[0].target, std::path::Path::new("/dev/null"));
    assert_eq!(host.devices[0].access, "rwm");
    assert!(host.read_only);
    assert_eq!(options.warnings, Vec::<String>::new());
}

#[test]
fn mounts_of_every_kind_are_understood() {
    let options = parse(
        r#"{"HostConfig":{"Binds":["/a:/b:ro,rslave","data:/d"],"Mounts":[
        {"Type":"bind","Source":"/c","Target":"/e","ReadOnly":true},
        {"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":4096,"Mode":511}}],
        "Tmpfs":{"/u":"size=1m,noexec"}}}"#,
    );
    let kinds: Vec<_> = options.host.mounts.iter().map(|mount| &mount.kind).collect();
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        *kinds[0],
        MountKind::Bind { source: "/a".into(), make: true, propagation: "rslave" }
    );
    assert_eq!(*kinds[1], MountKind::Volume { name: "data".to_owned() });
    assert_eq!(
        *kinds[2],
        MountKind::Bind { source: "/c".into(), make: false, propagation: "rprivate" }
    );
    assert_eq!(*kinds[3], MountKind::Tmpfs { options: words(&["size=4096", "mode=777"]) });
    assert_eq!(*kinds[4], MountKind::Tmpfs { options: words(&["size=1m", "noexec"]) });
    let read_only: Vec<_> = options.host.mounts.iter().map(|mount| mount.read_only).collect();
    assert_eq!(read_only, [true, false, true, false, false]);
}

#[test]
fn a_policy_can_allow_what_is_denied() {
    let text = r#"{"HostConfig":{"Privileged":true,"SecurityOpt":["seccomp=unconfined"],
        "Binds":["/var/run/docker.sock:/d"]}}"#;
    let host = CreateOptions::parse(text, OPEN).unwrap().host;
    assert!(host.privileged && host.seccomp_unconfined);
    assert_eq!(host.mounts.len(), 1);
}

#[test]
fn sizes_carry_units() {
    let rows =
        [("10m", Some(10 << 20)), ("1G", Some(1 << 30)), ("7", Some(7)), ("2kb", Some(2048))];
    for (text, want) in rows {
        assert_eq!(number_with_unit(text), want, "{text}");
    }
    for bad in ["", "m", "-1", "99999999999999999g", "1.5m"] {
        assert_eq!(number_with_unit(bad), None, "{bad}");
    }
}
