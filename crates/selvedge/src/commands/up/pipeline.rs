//! The pipeline that `up` gives to this machine: readings, and anomalies in them.

use serde_json::{Value, json};

use crate::cli::UpEngine;

/// The image that stands for `host-sensor`.
pub(crate) const HOST_SENSOR_IMAGE: &str =
    concat!("selvedge/host-sensor:", env!("CARGO_PKG_VERSION"));
/// The image that stands for `anomaly`.
pub(crate) const ANOMALY_IMAGE: &str = concat!("selvedge/anomaly:", env!("CARGO_PKG_VERSION"));

/// The deployment manifest.
pub(crate) fn content(engine: UpEngine) -> Value {
    let module = |image: &str, order: u32| {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "type": "docker",
            "status": "running",
            "restartPolicy": "always",
            "startupOrder": order,
            "settings": { "image": image, "createOptions": options(engine, &[]) },
        })
    };
    let mut sensor = module(HOST_SENSOR_IMAGE, 1);
    if let (UpEngine::Embedded, Some(fields)) = (engine, sensor.as_object_mut()) {
        fields.insert("env".to_owned(), json!({ "HOST_PROC": { "value": "/host/proc" } }));
        let options = options(engine, &["/proc:/host/proc:ro"]);
        fields.insert(
            "settings".to_owned(),
            json!({ "image": HOST_SENSOR_IMAGE, "createOptions": options }),
        );
    }
    let system =
        json!({ "type": "docker", "settings": { "image": "selvedge", "createOptions": "{}" } });
    let mut edge_hub = system.clone();
    if let Some(fields) = edge_hub.as_object_mut() {
        fields.insert("status".to_owned(), json!("running"));
        fields.insert("restartPolicy".to_owned(), json!("always"));
    }
    let to_anomaly = "FROM /messages/modules/host-sensor/outputs/readings INTO \
                      BrokeredEndpoint(\"/modules/anomaly/inputs/readings\")";
    json!({
        "modulesContent": {
            "$edgeAgent": { "properties.desired": {
                "schemaVersion": "1.1",
                "runtime": { "type": "docker", "settings": {} },
                "systemModules": { "edgeAgent": system, "edgeHub": edge_hub },
                "modules": {
                    "host-sensor": sensor,
                    "anomaly": module(ANOMALY_IMAGE, 0),
                },
            }},
            "$edgeHub": { "properties.desired": {
                "schemaVersion": "1.1",
                "routes": {
                    "readings": { "route": "FROM /messages/modules/host-sensor/outputs/* INTO $upstream" },
                    "inspected": { "route": to_anomaly },
                    "found": { "route": "FROM /messages/modules/anomaly/outputs/* INTO $upstream" },
                },
                "storeAndForwardConfiguration": { "timeToLiveSecs": 86400 },
            }},
        }
    })
}

/// What the containers are made with: the machine's own counters, read-only.
fn options(engine: UpEngine, binds: &[&str]) -> String {
    match engine {
        UpEngine::Process => "{}".to_owned(),
        UpEngine::Embedded => json!({ "HostConfig": { "Binds": binds } }).to_string(),
    }
}
