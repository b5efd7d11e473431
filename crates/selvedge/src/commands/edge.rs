//! `selvedge edge`: what runs on one edge device.

use serde_json::Value;

use crate::cli::{EdgeCommand, PlaceArgs};
use crate::client::{Service, segment};
use crate::failure::{Failure, FailureKind};
use crate::terminal::Terminal;

pub(crate) async fn run(
    place: &PlaceArgs,
    command: EdgeCommand,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let EdgeCommand::SetModules { device, content } = command;
    let name = content.display();
    let text = std::fs::read_to_string(&content)
        .map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?;
    let manifest: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::new(FailureKind::InvalidManifest, format!("{name} is no JSON: {error}"))
    })?;
    // Both Azure's full configuration document and the bare content are accepted.
    let manifest = manifest.get("content").cloned().unwrap_or(manifest);
    let service = Service::connect(place)?;
    let path = format!("/devices/{}/applyConfigurationContent", segment(&device));
    service.post_nothing(&path, &manifest).await?;
    terminal.say(&format!("{name} is applied to {device}"));
    Ok(())
}
