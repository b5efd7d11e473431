//! `selvedge edge`: what runs on one edge device.

use api::configuration::{ContentFault, RoutePreview, Validation};
use serde_json::Value;

use crate::cli::{EdgeCommand, Output, PlaceArgs};
use crate::client::{Service, segment};
use crate::commands::device::device_id;
use crate::failure::{Failure, FailureKind};
use crate::terminal::Terminal;

pub(crate) async fn run(
    place: &PlaceArgs,
    command: EdgeCommand,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let EdgeCommand::SetModules { device, content, check } = command;
    let id = device_id(&device)?;
    let name = content.display().to_string();
    let text = std::fs::read_to_string(&content)
        .map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?;
    let service = Service::connect(place)?;
    // Checked first and as it stands, so that faults are told by their lines in the file.
    let path = "/api/v1/validate/modules-content";
    let checked: Validation = service.post_text(path, text.clone()).await?;
    for notice in &checked.notices {
        terminal.say(&format!("note: {}", line(&name, notice)));
    }
    if !checked.valid {
        let words = format!("{name} has {} faults; nothing was changed", checked.faults.len());
        let mut failure = Failure::new(FailureKind::InvalidManifest, words);
        failure.details = checked.faults.iter().map(|fault| line(&name, fault)).collect();
        return Err(failure);
    }
    if check {
        let head = ["ROUTE", "FROM", "WHERE", "INTO", "PRIORITY"];
        terminal.list(&checked.routes, head, row);
        if terminal.output == Output::Table {
            let count = checked.modules.len();
            terminal.say(&format!("{name} is good: {count} modules; nothing was changed"));
        }
        return Ok(());
    }
    let manifest: Value = model::json::parse(text.as_bytes()).map_err(|error| {
        Failure::new(FailureKind::InvalidManifest, format!("{name} is no JSON: {error}"))
    })?;
    // Both Azure's full configuration document and the bare content are accepted.
    let manifest = manifest.get("content").cloned().unwrap_or(manifest);
    let path = format!("/devices/{}/applyConfigurationContent", segment(id.as_str()));
    service.post_nothing(&path, &manifest).await?;
    terminal.say(&format!("{name} is applied to {device}"));
    Ok(())
}

/// One fault as compilers print theirs.
fn line(name: &str, fault: &ContentFault) -> String {
    let at = fault.place.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
    let module = fault.module.as_ref().map(|module| format!("{module} ")).unwrap_or_default();
    let told = fault.path.as_ref().filter(|path| !fault.message.starts_with(path.as_str()));
    let path = told.map(|path| format!("{path}: ")).unwrap_or_default();
    format!("{name}{at}: {module}{path}{} [{}]", fault.message, fault.code)
}

fn row(route: &RoutePreview) -> [String; 5] {
    let state = &route.state;
    [
        state.name.clone(),
        state.source.clone(),
        state.condition.clone().unwrap_or_default(),
        state.endpoint.clone(),
        state.priority.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use api::configuration::Place;

    use super::*;

    #[test]
    fn a_fault_is_told_as_compilers_do() {
        let place = Place { line: 12, column: 9, end_line: 12, end_column: 10, from: 0, to: 1 };
        let fault = ContentFault {
            code: "manifest".into(),
            module: Some("m".into()),
            path: Some("modules.m.status".into()),
            message: "must be running or stopped".into(),
            place: Some(place),
        };
        let expected = "d.json:12:9: m modules.m.status: must be running or stopped [manifest]";
        assert_eq!(line("d.json", &fault), expected);
    }
}
