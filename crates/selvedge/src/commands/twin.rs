//! `selvedge twin`: tags, desired and reported properties.

use model::id::ModuleName;
use serde_json::{Map, Value, json};

use crate::cli::{PlaceArgs, Target, TwinCommand};
use crate::client::{Service, segment};
use crate::commands::device::device_id;
use crate::failure::Failure;
use crate::terminal::Terminal;

pub(crate) async fn run(
    place: &PlaceArgs,
    command: TwinCommand,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let service = Service::connect(place)?;
    match command {
        TwinCommand::Get { target } => {
            let twin: Value = service.get(&path(&target)?).await?;
            terminal.json(&twin);
        }
        TwinCommand::Set { target, desired, tags, etag } => {
            let mut body = Map::new();
            if let Some(text) = tags {
                body.insert("tags".to_owned(), object("--tags", &text)?);
            }
            if let Some(text) = desired {
                body.insert(
                    "properties".to_owned(),
                    json!({"desired": object("--desired", &text)?}),
                );
            }
            if body.is_empty() {
                return Err(Failure::usage("nothing to set: give --desired JSON or --tags JSON"));
            }
            let etag = etag.map_or_else(|| "\"*\"".to_owned(), |etag| format!("\"{etag}\""));
            let twin: Value = service.patch(&path(&target)?, &Value::Object(body), &etag).await?;
            terminal.json(&twin);
        }
    }
    Ok(())
}

/// The path of a twin.
///
/// # Errors
/// Usage, if a name cannot be one.
pub(crate) fn path(target: &Target) -> Result<String, Failure> {
    let device = device_id(&target.device)?;
    let path = format!("/twins/{}", segment(device.as_str()));
    let Some(module) = &target.module else { return Ok(path) };
    let module: ModuleName =
        module.parse().map_err(|error| Failure::usage(format!("{module:?}: {error}")))?;
    Ok(format!("{path}/modules/{}", segment(module.as_str())))
}

/// The JSON object in `text`.
fn object(flag: &str, text: &str) -> Result<Value, Failure> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Failure::usage(format!("{flag} must be a JSON object"))),
        Err(error) => {
            let failure = Failure::usage(format!("{flag} is no JSON: {error}"));
            Err(failure
                .with_help(format!("write {flag} '{{\"key\": 1}}', or {flag} \"$(cat FILE)\"")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_escape_what_ids_may_hold() {
        let target = |device: &str, module: Option<&str>| Target {
            device: device.to_owned(),
            module: module.map(str::to_owned),
        };
        let check = |device: &str, module, expected: &str| {
            assert_eq!(path(&target(device, module)).unwrap(), expected);
        };
        check("d", None, "/twins/d");
        check("d#1", Some("$edgeAgent"), "/twins/d%231/modules/%24edgeAgent");
        let words = path(&target("d/m", None)).unwrap_err().to_string();
        assert!(words.contains("--module"), "{words}");
        assert!(path(&target("d", Some("a b"))).is_err());
    }

    #[test]
    fn only_objects_are_sections() {
        assert!(object("--tags", "{\"a\":1}").is_ok());
        assert!(object("--tags", "[1]").unwrap_err().to_string().contains("JSON object"));
        assert!(object("--tags", "{").unwrap_err().to_string().contains("no JSON"));
    }
}
