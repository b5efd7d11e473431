//! `selvedge monitor`: telemetry as it arrives.

use api::telemetry::{BodyEncoding, TelemetryMessage};
use model::id::DeviceId;
use serde_json::Value;

use crate::cli::{MonitorArgs, Output, PlaceArgs};
use crate::client::{Events, Service, segment};
use crate::commands::device::device_id;
use crate::failure::{Failure, FailureKind};
use crate::terminal::Terminal;

pub(crate) async fn run(
    place: &PlaceArgs,
    args: MonitorArgs,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let service = Service::connect(place)?;
    let device = match &args.device {
        Some(typed) => {
            let id = device_id(typed)?;
            exists(&service, &id).await?;
            format!("&device={}", segment(id.as_str()))
        }
        None => String::new(),
    };
    let path = format!("/api/v1/telemetry/stream?from={}{device}", segment(&args.from));
    let mut events = service.events(&path).await?;
    let mut cursor = String::new();
    let done = follow(&mut events, &mut cursor, args.count, terminal).await;
    if !cursor.is_empty() {
        terminal.say(&format!("go on after this with --from {cursor}"));
    }
    done
}

/// Refuses a device that is not there: its telemetry would be awaited for ever.
async fn exists(service: &Service, device: &DeviceId) -> Result<(), Failure> {
    let found: Result<Value, Failure> =
        service.get(&format!("/devices/{}", segment(device.as_str()))).await;
    match found {
        // Whoever may read telemetry need not be allowed to read the registry.
        Err(failure) if failure.kind != FailureKind::NotAllowed => Err(failure),
        _ => Ok(()),
    }
}

/// Prints messages until `left` are printed, the stream ends or the user does; `cursor` is then
/// behind the last printed one.
async fn follow(
    events: &mut Events<'_>,
    cursor: &mut String,
    mut left: Option<u64>,
    terminal: &Terminal,
) -> Result<(), Failure> {
    while left != Some(0) {
        let event = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Ok(()),
            event = events.next() => event?,
        };
        let Some(event) = event else {
            return Err(Failure::failed("the hub ended the stream").with_help("run it again"));
        };
        match event.kind.as_str() {
            "message" => {
                print(&event.data, terminal)?;
                *cursor = event.id;
                left = left.map(|left| left - 1);
            }
            "behind" => terminal.say("some telemetry was already removed by retention; going on"),
            _ => {}
        }
    }
    Ok(())
}

fn print(data: &str, terminal: &Terminal) -> Result<(), Failure> {
    let message: TelemetryMessage = serde_json::from_str(data).map_err(|error| {
        Failure::failed(format!("the hub sent a message we cannot read: {error}"))
    })?;
    match terminal.output {
        Output::Table => terminal.line(&line(&message)),
        Output::Json | Output::Jsonl => terminal.line(data),
    }
    Ok(())
}

fn line(message: &TelemetryMessage) -> String {
    let module = message.module_id.as_deref().map(|m| format!("/{m}")).unwrap_or_default();
    let body = match message.body_encoding {
        BodyEncoding::Utf8 => message.body.escape_debug().to_string().replace("\\\"", "\""),
        BodyEncoding::Base64 => format!("base64:{}", message.body),
    };
    format!("{} {}{module} #{} {body}", message.enqueued_time, message.device_id, message.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_time_sender_place_and_body_and_lets_no_control_character_through() {
        let message = TelemetryMessage {
            partition: 1,
            offset: 7,
            enqueued_time: "2026-11-23T00:00:00.000Z".to_owned(),
            device_id: "d".to_owned(),
            module_id: Some("m".to_owned()),
            system_properties: serde_json::Map::new(),
            properties: serde_json::Map::new(),
            body: "{\"a\":1}\u{1b}[2J".to_owned(),
            body_encoding: BodyEncoding::Utf8,
        };
        let text = line(&message);
        assert_eq!(text, "2026-11-23T00:00:00.000Z d/m #7 {\"a\":1}\\u{1b}[2J");
    }
}
