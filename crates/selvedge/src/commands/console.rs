//! `selvedge console`: a link into the web console, and who is signed in.

use api::console::{Link, LinkWanted, SessionInfo, Sessions};
use serde_json::json;

use crate::cli::{ConsoleArgs, ConsoleCommand, Output, PlaceArgs};
use crate::client::{Service, segment};
use crate::failure::Failure;
use crate::terminal::Terminal;

pub(crate) async fn run(
    place: &PlaceArgs,
    args: ConsoleArgs,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let service = Service::connect(place)?;
    match args.command {
        None => link(&service, args.policy, terminal).await,
        Some(ConsoleCommand::Sessions) => {
            let all: Sessions = service.get("/api/v1/console/sessions").await?;
            let headers = ["SESSION", "POLICY", "SINCE", "LAST USED", "ENDS", "BROWSER"];
            terminal.list(&all.sessions, headers, row);
            Ok(())
        }
        Some(ConsoleCommand::Revoke { session }) => {
            if session.len() != 16 || !session.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let words = format!("{session:?}: a session has 16 hexadecimal digits");
                return Err(
                    Failure::usage(words).with_help("`selvedge console sessions` lists them")
                );
            }
            service.delete(&format!("/api/v1/console/sessions/{}", segment(&session)), "*").await?;
            terminal.say(&format!("session {session} has ended"));
            Ok(())
        }
    }
}

async fn link(
    service: &Service,
    policy: Option<String>,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let link: Link = service.post("/api/v1/console/links", &LinkWanted { policy }).await?;
    let url = format!("{}{}", service.base(), link.path.0.expose_str().unwrap_or_default());
    if terminal.output == Output::Table {
        terminal.line(&url);
        terminal.say(&format!("works once, until {}, as {}", link.expires_time, link.policy));
    } else {
        let value = json!({
            "url": url, "policy": link.policy, "expiresTime": link.expires_time,
        });
        terminal.json(&value);
    }
    Ok(())
}

fn row(session: &SessionInfo) -> [String; 6] {
    [
        session.id.clone(),
        session.policy.clone(),
        session.created_time.clone(),
        session.last_used_time.clone(),
        session.idle_expires_time.clone(),
        session.user_agent.clone().unwrap_or_default(),
    ]
}
