//! A hub and one device runtime of it, both as processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use blackbox::edge::{Edge, Options};
use blackbox::hub::{Door, Hub};
use engine::image::archive::{ImageContent, LayerFile, layer, write_oci_archive};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::service::Service;

/// The device's id at its hub.
pub(crate) const DEVICE: &str = "bench";
/// The image that everybody runs.
pub(crate) const IMAGE: &str = "bench:1";

/// Dropped in this order: modules and runtime, hub, folder.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) edge: Edge,
    pub(crate) service: Arc<Service>,
    _hub: Hub,
    folder: TempDir,
}

impl Device {
    /// Starts both; the runtime as `options` say.
    pub(crate) fn start(options: Options) -> Result<Self> {
        let folder = folder("d")?;
        let mut options = options;
        if options.engine == "embedded" {
            options.archives.push(image(folder.path().join("image.tar"))?);
        }
        let hub = Hub::start_with_log(folder.path(), Door::Behind, "warn")?;
        let service = Arc::new(Service::of(&hub.folder().join("hub"))?);
        let mut edge = Edge::start(folder.path(), &hub, DEVICE, options)?;
        edge.import_no_more();
        Ok(Self { edge, service, _hub: hub, folder })
    }

    /// What the device says about its modules.
    pub(crate) fn modules(&self) -> Result<Vec<Value>> {
        let status = self.edge.status()?;
        Ok(status.get("modules").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Whether the device has the routes of its deployment in force.
    pub(crate) fn routes(&self) -> Result<bool> {
        let status = self.edge.status()?;
        let code = status.pointer("/router/desired_code").and_then(Value::as_u64);
        Ok(code == Some(200))
    }

    /// The archive of [`IMAGE`].
    pub(crate) fn archive(&self) -> PathBuf {
        self.folder.path().join("image.tar")
    }
}

/// A folder that other users may pass, as those that services have in production, with a
/// short path, because those of Unix sockets are.
pub(crate) fn folder(prefix: &str) -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix(prefix).rand_bytes(4).tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}

/// Writes the archive of [`IMAGE`] to `path`: one layer with one static program, which calls a
/// TCP port, and sleeps until the call is ended.
pub(crate) fn image(path: PathBuf) -> Result<PathBuf> {
    let program = fs::read(blackbox::place::binary("selvedge-monitor")?)?;
    let content = ImageContent {
        reference: IMAGE.to_owned(),
        config: json!({ "Entrypoint": ["/probe", "probe"] }),
        layers: vec![layer(&[LayerFile { path: "probe", mode: 0o755, content: &program }])?],
    };
    let file = fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    write_oci_archive(&content, file)?;
    Ok(path)
}

/// createOptions of a container that calls `host`:`port` from `network`. It is not asked to
/// end, but ended: the program, as process 1 of its container, would not hear SIGTERM.
pub(crate) fn calling(host: &str, port: u16, network: &str) -> Value {
    json!({
        "Cmd": ["dial", host, port.to_string()],
        "StopSignal": "SIGKILL",
        "HostConfig": { "NetworkMode": network },
    })
}
