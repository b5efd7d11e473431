//! `selvedge device`: the registry.

use std::io::IsTerminal;

use api::Key;
use api::registry::{Capabilities, Device};
use credentials::connection_string::ConnectionString;
use model::id::DeviceId;
use model::secret::Secret;

use crate::cli::{DeviceCommand, Output, PlaceArgs};
use crate::client::{Service, segment};
use crate::failure::{Failure, FailureKind};
use crate::terminal::Terminal;

const MASK: &str = "********";

pub(crate) async fn run(
    place: &PlaceArgs,
    command: DeviceCommand,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let service = Service::connect(place)?;
    match command {
        DeviceCommand::Create { device, edge } => create(&service, &device, edge, terminal).await,
        DeviceCommand::List { top } => list(&service, top, terminal).await,
        DeviceCommand::Show { device } => {
            let found: Device = service.get(&path(&device)?).await?;
            show(&found, terminal);
            Ok(())
        }
        DeviceCommand::ConnectionString { device } => {
            let found: Device = service.get(&path(&device)?).await?;
            terminal.line(&connection_text(&service, &device, &found)?);
            Ok(())
        }
        DeviceCommand::Delete { device, yes } => delete(&service, &device, yes, terminal).await,
    }
}

/// The device that was typed.
///
/// # Errors
/// Usage, if it cannot be a device's id.
pub(crate) fn device_id(typed: &str) -> Result<DeviceId, Failure> {
    typed.parse().map_err(|error| {
        let failure = Failure::usage(format!("{typed:?}: {error}"));
        if typed.contains('/') { failure.with_help("name a module with --module") } else { failure }
    })
}

fn path(device: &str) -> Result<String, Failure> {
    Ok(format!("/devices/{}", segment(device_id(device)?.as_str())))
}

async fn create(
    service: &Service,
    device: &str,
    edge: bool,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let wanted = Device {
        device_id: Some(device.to_owned()),
        capabilities: Some(Capabilities { iot_edge: edge }),
        ..Device::default()
    };
    let made: Device = service.put(&path(device)?, &wanted, None).await?;
    show(&made, terminal);
    if terminal.show_secrets && terminal.output == Output::Table {
        terminal.line(&format!("connection string  {}", connection_text(service, device, &made)?));
    }
    Ok(())
}

async fn list(service: &Service, top: usize, terminal: &Terminal) -> Result<(), Failure> {
    if top == 0 {
        return Err(Failure::usage("--top must be at least 1"));
    }
    let mut all: Vec<Device> = Vec::new();
    while all.len() < top {
        let page = (top - all.len()).min(api::registry::LIST_TOP_MAX);
        let after = all.last().and_then(|device| device.device_id.clone());
        let after = after.map(|id| format!("&after={}", segment(&id))).unwrap_or_default();
        let mut more: Vec<Device> = service.get(&format!("/devices?top={page}{after}")).await?;
        let full = more.len() == page;
        all.append(&mut more);
        if !full {
            break;
        }
    }
    if !terminal.show_secrets {
        all.iter_mut().for_each(mask);
    }
    let head = ["DEVICE", "STATUS", "CONNECTION", "EDGE", "LAST ACTIVITY"];
    terminal.list(&all, head, |device| {
        [
            device.device_id.clone().unwrap_or_default(),
            device.status.map(|s| format!("{s:?}").to_lowercase()).unwrap_or_default(),
            device.connection_state.clone().unwrap_or_default(),
            device
                .capabilities
                .filter(|c| c.iot_edge)
                .map(|_| "yes".to_owned())
                .unwrap_or_default(),
            device
                .last_activity_time
                .clone()
                .filter(|t| !t.starts_with("0001"))
                .unwrap_or_default(),
        ]
    });
    Ok(())
}

fn show(device: &Device, terminal: &Terminal) {
    let mut shown = device.clone();
    if !terminal.show_secrets {
        mask(&mut shown);
    }
    terminal.json(&shown);
}

fn mask(device: &mut Device) {
    if let Some(keys) = device.authentication.as_mut().and_then(|a| a.symmetric_key.as_mut()) {
        keys.primary_key = keys.primary_key.as_ref().map(|_| Key(Secret::from(MASK)));
        keys.secondary_key = keys.secondary_key.as_ref().map(|_| Key(Secret::from(MASK)));
    }
}

pub(crate) fn connection_text(
    service: &Service,
    device: &str,
    found: &Device,
) -> Result<String, Failure> {
    let keys = found.authentication.as_ref().and_then(|a| a.symmetric_key.as_ref());
    let key = keys
        .and_then(|keys| keys.primary_key.as_ref())
        .ok_or_else(|| Failure::failed(format!("device {device} has no symmetric key")))?;
    let text = ConnectionString {
        host_name: service.host().to_owned(),
        device_id: device.parse().ok(),
        key: Some(key.0.clone()),
        ..ConnectionString::default()
    };
    Ok(text.to_text().expose_str().unwrap_or_default().to_owned())
}

async fn delete(
    service: &Service,
    device: &str,
    yes: bool,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let path = path(device)?;
    if !yes {
        confirm(device, terminal)?;
    }
    service.delete(&path, "\"*\"").await?;
    terminal.say(&format!("device {device} is removed"));
    Ok(())
}

fn confirm(device: &str, terminal: &Terminal) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("removing a device needs --yes when nobody can be asked"));
    }
    terminal.say(&format!("This removes {device}, its modules and twins. Type its id to go on:"));
    let mut typed = String::new();
    std::io::stdin()
        .read_line(&mut typed)
        .map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    if typed.trim() == device {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Failed, "not confirmed; nothing was removed"))
}
