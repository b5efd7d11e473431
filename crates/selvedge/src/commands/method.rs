//! `selvedge method`: call a direct method.

use api::method::{InvokeMethod, MethodResult};

use crate::cli::{MethodArgs, PlaceArgs};
use crate::client::Service;
use crate::commands::twin;
use crate::failure::Failure;
use crate::terminal::Terminal;

pub(crate) async fn run(
    place: &PlaceArgs,
    args: MethodArgs,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let payload = serde_json::from_str(&args.payload)
        .map_err(|error| Failure::usage(format!("the payload is no JSON: {error}")))?;
    let call = InvokeMethod {
        method_name: args.name,
        payload,
        response_timeout_in_seconds: Some(args.timeout),
        connect_timeout_in_seconds: Some(args.connect_timeout),
    };
    let service = Service::connect(place)?;
    let path = format!("{}/methods", twin::path(&args.target)?);
    let result: MethodResult = service.post(&path, &call).await?;
    terminal.json(&result);
    Ok(())
}
