use super::*;

const GOOD: &str = r#"hostname = "Gateway-1"

[provisioning]
source = "manual"
connection_string = "HostName=hub.local;DeviceId=d1;SharedAccessKey=a2V5"
"#;

#[test]
fn silence_means_the_documented_defaults() {
    let read = Settings::parse(GOOD).unwrap();
    assert_eq!(&*read.hostname, "gateway-1");
    assert_eq!(read.provisioning.device.as_str(), "d1");
    assert_eq!(read.edge_ca, EdgeCa::Made { days: EDGE_CA_DAYS });
    assert_eq!(read.listen, read.connect);
    assert_eq!(read.listen.workload, PathBuf::from("/var/lib/selvedge/run/workload.sock"));
    assert_eq!(read.own.engine, EngineKind::Embedded);
    assert_eq!((read.own.mqtt.port(), read.own.upstream_mqtt_port), (8883, 8883));
}

#[test]
fn all_that_can_be_said_is_read() {
    let text = r#"
hostname = "g"
trust_bundle_cert = "/etc/root.pem"
[provisioning]
source = "manual"
iothub_hostname = "hub.local"
device_id = "d1"
[provisioning.authentication]
method = "sas"
device_id_pk = { value = "a2V5" }
[edge_ca]
cert = "/c.pem"
pk = "/k.pem"
[listen]
workload_uri = "unix:///run/w.sock"
[connect]
management_uri = "unix:///run/m.sock"
[agent.env]
RuntimeLogLevel = "debug"
[selvedge]
engine = "process"
data = "/tmp/x"
mqtt = "127.0.0.1:0"
upstream_mqtt_port = 18883
upstream_https_port = 18443
upstream_address = "127.0.0.1"
gateway_addresses = ["172.20.0.1"]
network = "10.9.8.0/24"
user = "nobody"
group = "staff"
queue_bytes_max = 33554432
"#;
    let read = Settings::parse(text).unwrap();
    assert_eq!(read.edge_ca, EdgeCa::Given { cert: "/c.pem".into(), key: "/k.pem".into() });
    assert_eq!(read.listen.workload, PathBuf::from("/run/w.sock"));
    assert_eq!(read.connect.workload, PathBuf::from("/run/w.sock"));
    assert_eq!(read.connect.management, PathBuf::from("/run/m.sock"));
    assert_eq!(read.agent.env, [("RuntimeLogLevel".into(), "debug".into())]);
    assert_eq!(read.own.engine, EngineKind::Process);
    assert_eq!(read.own.upstream_https_port, 18443);
    assert_eq!(read.own.network.unwrap().to_string(), "10.9.8.0/24");
}

#[test]
fn files_are_named_as_azure_does_or_by_path() {
    let check = |named: &str, expected: &str| {
        let text = format!("trust_bundle_cert = {named:?}\n{GOOD}");
        let read = Settings::parse(&text).unwrap();
        assert_eq!(read.trust_bundle_cert, Some(PathBuf::from(expected)));
    };
    check("/etc/aziot/root.pem", "/etc/aziot/root.pem");
    check("root.pem", "root.pem");
    check("file:///etc/aziot/root.pem", "/etc/aziot/root.pem");
    check("file:///etc/a%20b/gr%C3%B6%C3%9Fe.pem", "/etc/a b/größe.pem");
    let text = "hostname = \"g\"\n[provisioning]\nsource = \"manual\"\n\
        iothub_hostname = \"h\"\ndevice_id = \"d\"\n[provisioning.authentication]\n\
        method = \"sas\"\ndevice_id_pk = { uri = \"file:///var/secrets/d.key\" }\n\
        [edge_ca]\ncert = \"file:///c.pem\"\npk = \"file:///k.pem\"\n";
    let read = Settings::parse(text).unwrap();
    assert_eq!(read.provisioning.key, DeviceKey::File("/var/secrets/d.key".into()));
    assert_eq!(read.edge_ca, EdgeCa::Given { cert: "/c.pem".into(), key: "/k.pem".into() });
    assert_eq!(read.trust_bundle_cert, None);
}

/// What `aziot` devices have in their `config.toml`, and what is said of it.
#[test]
fn what_azure_has_and_this_device_does_not_need_is_told_section_by_section() {
    let check = |before: &str, after: &str, expected: &[&str]| {
        let read = Settings::parse(&format!("{before}\n{GOOD}{after}\n"));
        let notices = read.unwrap_or_else(|error| panic!("{after}: {error}")).notices;
        assert_eq!(notices.len(), expected.len(), "{notices:?}");
        for (notice, start) in notices.iter().zip(expected) {
            assert!(notice.starts_with(start), "{notice}");
        }
    };
    check("", "", &[]);
    check(
        "",
        "[moby_runtime]\nuri = \"unix:///var/run/docker.sock\"\nnetwork = \"azure-iot-edge\"",
        &["[moby_runtime] is not used: no Docker daemon is needed"],
    );
    check(
        "",
        "[moby_runtime.network]\nname = \"n\"\nipv6 = false\n[moby_runtime.network.ipam]\n\
         config = [{ gateway = \"172.20.0.1\", subnet = \"172.20.0.0/16\" }]",
        &["[moby_runtime] is not used"],
    );
    check(
        "",
        "[agent]\nname = \"edgeAgent\"\ntype = \"docker\"\nimagePullPolicy = \"never\"\n\
         [agent.config]\nimage = \"mcr.microsoft.com/azureiotedge-agent:1.5\"\n\
         createOptions = { HostConfig = { Binds = [] } }\n\
         [agent.config.auth]\nserveraddress = \"x\"\nusername = \"u\"\npassword = \"p\"\n\
         [agent.env]\nRuntimeLogLevel = \"debug\"",
        &["[agent] is not used but for env: the agent is part of this program"],
    );
    check("", "[watchdog]\nmax_retries = \"infinite\"", &["[watchdog] is not used"]);
    check(
        "",
        "[image_garbage_collection]\nenabled = true\ncleanup_recurrence = \"1d\"",
        &["[image_garbage_collection] is not used"],
    );
    check("", "[aziot_keys]", &["[aziot_keys] is not used"]);
    check(
        "",
        "[preloaded_keys]\ndevice-id = \"file:///k\"\n[preloaded_certs]\nx = [\"file:///c\"]",
        &["[preloaded_keys] is not used", "[preloaded_certs] is not used"],
    );
    check(
        "",
        "[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\n[edge_ca.auto_renew]\n\
         rotate_key = true\nthreshold = \"80%\"\nretry = \"4%\"",
        &["[edge_ca] auto_renew is not used"],
    );
    check(
        "",
        "[listen]\nworkload_uri = \"fd://aziot-edged.workload.socket\"\n\
         management_uri = \"fd://aziot-edged.mgmt.socket\"",
        &["[listen] workload_uri is not used", "[listen] management_uri is not used"],
    );
    check(
        "allow_elevated_docker_permissions = false\nauto_reprovisioning_mode = \"Dynamic\"\n\
         cloud_timeout_sec = 10\ncloud_retries = 1\nprefer_module_identity_cache = false\n\
         additional_info = { floor = \"3\" }\niotedge_max_requests = { management = 5 }\n\
         aziot_max_requests = { identity = 5 }",
        "",
        &[
            "auto_reprovisioning_mode is not used",
            "cloud_timeout_sec is not used",
            "cloud_retries is not used",
            "prefer_module_identity_cache is not used",
            "additional_info is not used",
            "iotedge_max_requests is not used",
            "aziot_max_requests is not used",
        ],
    );
}

#[test]
fn what_azure_has_and_this_version_cannot_do_is_refused_by_name() {
    let check = |before: &str, after: &str, expected: &str| {
        let said = Settings::parse(&format!("{before}\n{GOOD}{after}\n")).unwrap_err().to_string();
        assert!(said.starts_with(expected), "{said}");
    };
    check(
        "parent_hostname = \"parent\"",
        "",
        "config.toml [parent_hostname]: a parent is not served by this version",
    );
    check(
        "allow_elevated_docker_permissions = true",
        "",
        "config.toml [allow_elevated_docker_permissions]: privileged modules are not served",
    );
    check(
        "",
        "[tpm]\ntcti = \"swtpm\"",
        "config.toml [tpm]: a TPM is not served by this version; remove the section",
    );
    check(
        "",
        "[aziot_keys]\npkcs11_lib_path = \"/usr/lib/x.so\"\npkcs11_base_slot = \"token\"",
        "config.toml [aziot_keys]: PKCS#11 is not served by this version; remove pkcs11_lib_path",
    );
    check(
        "",
        "[cert_issuance.est]\ntrusted_certs = [\"file:///c\"]",
        "config.toml [cert_issuance]: certificates from EST or a local CA are not served",
    );
    check(
        "",
        "[edge_ca]\nmethod = \"est\"\ncommon_name = \"x\"\nurl = \"https://est\"",
        "config.toml [edge_ca]: method \"est\" is not served by this version; known are cert",
    );
    check(
        "",
        "[moby_runtime]\nuri = \"unix:///x\"\n[moby_runtime.content_trust.ca_certs]\n\
         \"registry\" = \"file:///c\"",
        "config.toml [moby_runtime]: content_trust is not served by this version; pin images by",
    );
    let dps = "hostname = \"g\"\n[provisioning]\nsource = \"dps\"\n\
        global_endpoint = \"https://global.azure-devices-provisioning.net\"\nid_scope = \"0ne\"\n\
        payload = { uri = \"file:///p\" }\n[provisioning.attestation]\nmethod = \"symmetric_key\"\n\
        registration_id = \"r\"\nsymmetric_key = { value = \"a2V5\" }\n";
    let said = Settings::parse(dps).unwrap_err().to_string();
    assert!(said.starts_with("config.toml [provisioning]: source \"dps\" is not served"), "{said}");
    let x509 = "hostname = \"g\"\n[provisioning]\nsource = \"manual\"\n\
        iothub_hostname = \"h\"\ndevice_id = \"d\"\n[provisioning.authentication]\n\
        method = \"x509\"\nidentity_cert = \"file:///c\"\nidentity_pk = \"file:///k\"\n";
    let said = Settings::parse(x509).unwrap_err().to_string();
    assert!(said.contains("[provisioning.authentication]: method \"x509\" is not"), "{said}");
    check("", "id_scope = \"0ne\"", "config.toml [provisioning]: id_scope belongs to source");
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let check = |text: &str, expected: &str| {
        let said = Settings::parse(text).unwrap_err().to_string();
        assert!(said.starts_with(expected), "{said}");
    };
    check("hostname = ", "config.toml line 1: ");
    check(&format!("{GOOD}\nsecret = 1\n"), "config.toml line 7: unknown field `secret`");
    check(
        &format!("{GOOD}[selvedge]\nengine = \"docker\"\n"),
        "config.toml line 7: unknown variant",
    );
    check(&format!("{GOOD}[mobby_runtime]\nuri = \"x\"\n"), "config.toml line 6: unknown field");
    check(&GOOD.replace("Gateway-1", "a b"), "config.toml [hostname]: \"a b\" is not a host name");
    check(
        &GOOD.replace("manual", "dps"),
        "config.toml [provisioning]: source \"dps\" is not served by this version",
    );
    check(&GOOD.replace("manual", "x"), "config.toml [provisioning]: source \"x\" is unknown");
    let by_hand = |rest: &str| {
        format!(
            "hostname = \"g\"\n[provisioning]\nsource = \"manual\"\niothub_hostname = \"h\"\n\
             device_id = \"d\"\n[provisioning.authentication]\n{rest}\n"
        )
    };
    for (rest, words) in [
        ("method = \"x509\"", "method \"x509\" is not served by this version"),
        ("method = \"tpm\"", "method \"tpm\" is unknown"),
        ("method = \"sas\"", "device_id_pk is missing"),
        ("method = \"sas\"\ndevice_id_pk = {}", "device_id_pk needs either value or uri"),
        (
            "method = \"sas\"\ndevice_id_pk = { uri = \"pkcs11:pin-value=1\" }",
            "device_id_pk.uri: known are file:///… URIs only",
        ),
        (
            "method = \"sas\"\ndevice_id_pk = { uri = \"file://host/key\" }",
            "\"file://host/key\" is neither a path nor file:///an/absolute/path",
        ),
    ] {
        let expected = format!("config.toml [provisioning.authentication]: {words}");
        check(&by_hand(rest), &expected);
    }
    check(
        &by_hand("method = \"sas\"\ndevice_id_pk = { value = \"*\" }"),
        "config.toml [provisioning]: the SharedAccessKey is not base64",
    );
    check(
        &format!("trust_bundle_cert = \"https://x/ca.pem\"\n{GOOD}"),
        "config.toml [trust_bundle_cert]: \"https://x/ca.pem\" is neither a path nor file:///",
    );
    check(
        &GOOD.replace("SharedAccessKey", "Key"),
        "config.toml [provisioning]: a device connection string has no part \"Key\"",
    );
    check(&format!("{GOOD}device_id = \"x\"\n"), "config.toml [provisioning]: needs either");
    check(&format!("{GOOD}[edge_ca]\ncert = \"/c\"\n"), "config.toml [edge_ca]: cert and pk go");
    check(
        &format!("{GOOD}[listen]\nworkload_uri = \"tcp://x\"\n"),
        "config.toml [listen]: \"tcp://x\" is not unix:///an/absolute/path",
    );
    check(
        &format!("{GOOD}[agent.env]\nMaxRestartCount = \"3\"\n"),
        "config.toml [agent]: env.MaxRestartCount is unknown",
    );
    check(
        &format!("{GOOD}[selvedge]\nnetwork = \"10.9.8.1/24\"\n"),
        "config.toml [selvedge]: network: 10.9.8.1 is an address in the network 10.9.8.0",
    );
    check(
        &format!("{GOOD}[selvedge]\nqueue_bytes_max = 1\n"),
        "config.toml [selvedge]: queue_bytes_max must be",
    );
}

#[test]
fn a_configuration_may_be_as_long_as_its_limit_and_no_longer() {
    let of = |bytes: usize| format!("{GOOD}#{}", "x".repeat(bytes - GOOD.len() - 1));
    Settings::parse(&of(SETTINGS_BYTES_MAX)).unwrap();
    let said = Settings::parse(&of(SETTINGS_BYTES_MAX + 1)).unwrap_err().to_string();
    assert!(said.contains(&format!("at most {SETTINGS_BYTES_MAX} are read")), "{said}");
}
