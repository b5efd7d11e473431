//! Every shape of the service API has a golden file; a change without a new version fails.
//!
//! The shapes under Azure's paths are Azure's and never change under an `api-version`. Ours lie
//! under `/api/v1`: a field may be added to an answer, nothing may be removed, renamed or made
//! another type without `/api/v2`.

use std::collections::BTreeSet;
use std::path::Path;

use testkit::shape::{Flat, check_golden, shape_with, variants};

use crate::{
    configuration, console, error, fleet, health, method, registry, router, statistics, telemetry,
    twin,
};

/// The folder of golden files.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");

/// Shapes that hold others flattened; the parts are listed by themselves.
const FLAT: Flat = &[
    (
        "ContentFault",
        r#"{"code":"text","module":"text","path":"text","message":"text","line":1,"column":1,
        "endLine":1,"endColumn":1,"from":1,"to":1}"#,
    ),
    (
        "RoutePreview",
        r#"{"name":"text","source":"text","condition":"text","endpoint":"text","priority":1,
        "timeToLiveSecs":1,"route":"text"}"#,
    ),
];

macro_rules! shapes {
    ($($area:ident :: $name:ident),* $(,)?) => {
        [$((concat!(stringify!($area), "::", stringify!($name)), shape_with::<$area::$name>(FLAT))),*]
    };
}

/// Every shape by name.
fn all() -> Vec<(&'static str, String)> {
    let enums = [
        ("registry::AuthenticationKind", variants::<registry::AuthenticationKind>()),
        ("registry::Status", variants::<registry::Status>()),
        ("telemetry::BodyEncoding", variants::<telemetry::BodyEncoding>()),
    ];
    let structs = shapes![
        configuration::ContentFault,
        configuration::Place,
        configuration::Validation,
        configuration::RoutePreview,
        console::LinkWanted,
        console::Link,
        console::Exchange,
        console::SessionInfo,
        console::HubInfo,
        console::Sessions,
        error::ErrorBody,
        fleet::Overview,
        fleet::DeviceCounts,
        fleet::ModuleCounts,
        fleet::FailingModule,
        fleet::Ingest,
        fleet::IngestStep,
        fleet::Change,
        fleet::DevicePage,
        fleet::DeviceRow,
        fleet::DeviceView,
        fleet::TwinState,
        fleet::EdgeView,
        fleet::DesiredOutcome,
        fleet::EdgeModule,
        fleet::DesiredModule,
        fleet::ReportedModule,
        health::Health,
        health::DamagedTelemetry,
        health::DescriptorTotals,
        health::ListenerTotals,
        health::Listening,
        health::LiveTotals,
        method::InvokeMethod,
        method::MethodResult,
        method::MethodCall,
        method::MethodCalls,
        registry::Device,
        registry::Module,
        registry::Authentication,
        registry::SymmetricKey,
        registry::X509Thumbprint,
        registry::Capabilities,
        router::RouterMetrics,
        router::RouteState,
        router::ReceivedTotal,
        router::EndpointTotal,
        router::QueueLength,
        router::DroppedTotal,
        router::Pipeline,
        router::Problem,
        router::PipelineReceived,
        router::PipelineSent,
        router::PipelineQueue,
        router::PipelineDropped,
        statistics::DeviceStatistics,
        statistics::ServiceStatistics,
        telemetry::TelemetryMessage,
        telemetry::TelemetryPage,
        twin::Twin,
        twin::Properties,
    ];
    structs.into_iter().chain(enums).collect()
}

#[test]
fn every_shape_is_what_its_golden_file_says() {
    let shapes = all();
    for (name, shape) in &shapes {
        check_golden(&Path::new(FOLDER).join(format!("{}.golden", name.replace("::", "."))), shape);
    }
    let listed: BTreeSet<String> = shapes.iter().map(|(name, _)| (*name).to_owned()).collect();
    // Flattened: its parts are listed.
    let flattened = ["console::Session".to_owned()];
    let missing: Vec<_> = declared()
        .into_iter()
        .filter(|name| !listed.contains(name) && !flattened.contains(name))
        .collect();
    assert!(missing.is_empty(), "without a golden file: {missing:?}; add them to the list here");
    for file in std::fs::read_dir(FOLDER).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let name = file.trim_end_matches(".golden").replace('.', "::");
        assert!(listed.contains(&name), "{file}: no shape has this name");
    }
}

/// Every struct and enum of this crate that has JSON, by area.
fn declared() -> Vec<String> {
    let mut all = Vec::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in std::fs::read_dir(sources).unwrap() {
        let path = file.unwrap().path();
        let area = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for declared in text.split("#[derive(").skip(1) {
            let (derived, rest) = declared.split_once(")]").unwrap();
            let kinds = ["pub struct ", "pub enum "];
            let name =
                rest.lines().find_map(|line| kinds.iter().find_map(|kind| line.strip_prefix(kind)));
            if let (true, Some(name)) = (derived.contains("erialize"), name) {
                let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
                all.push(format!("{area}::{name}"));
            }
        }
    }
    all
}
