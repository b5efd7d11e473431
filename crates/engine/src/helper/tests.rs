use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::process::ProcessEngine;
use crate::process::tests::world;
use crate::runtime::{ModuleRuntime, ModuleStatus};

#[test]
fn the_protocol_is_what_its_golden_file_says() {
    use testkit::shape::{check_golden, shape, variants};
    let parts = [
        shape::<Request>(),
        variants::<Ask>(),
        shape::<Response>(),
        variants::<Answer>(),
        errors(),
    ];
    let name = format!("golden/helper-v{VERSION}.golden");
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    check_golden(&file, &parts.concat());
}

/// One error of each kind, as JSON. An error that is added gets a line in the match below.
fn errors() -> String {
    let [name, message, image] = ["name", "message", "image"].map(str::to_owned);
    let digests = ["subject", "expected", "found"].map(str::to_owned);
    let [subject, expected, found] = digests;
    let all = [
        EngineError::ImageMissing { image },
        EngineError::DigestMismatch { subject, expected, found },
        EngineError::InvalidImage { message: message.clone() },
        EngineError::InvalidCreateOptions { path: "path".to_owned(), message: message.clone() },
        EngineError::InvalidSpec { name: name.clone(), message: message.clone() },
        EngineError::NotFound { name: name.clone() },
        EngineError::Conflict { name: name.clone(), message: message.clone() },
        EngineError::StartFailed { name, message: message.clone() },
        EngineError::Unavailable { message: message.clone() },
        EngineError::System { action: "action".to_owned(), message },
    ];
    let text = |error: &EngineError| match error {
        EngineError::ImageMissing { .. }
        | EngineError::DigestMismatch { .. }
        | EngineError::InvalidImage { .. }
        | EngineError::InvalidCreateOptions { .. }
        | EngineError::InvalidSpec { .. }
        | EngineError::NotFound { .. }
        | EngineError::Conflict { .. }
        | EngineError::StartFailed { .. }
        | EngineError::Unavailable { .. }
        | EngineError::System { .. } => serde_json::to_string(error).unwrap() + "\n",
    };
    all.iter().map(text).collect()
}

#[tokio::test]
async fn an_engine_behind_a_socket_answers_as_one_in_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let programs = [("shell:1".to_owned(), "/bin/sh".into())].into();
    let engine = Arc::new(ProcessEngine::open(folder.path(), programs, world()).unwrap());
    let (near, far) = UnixStream::pair().unwrap();
    let closer = near.try_clone().unwrap();
    let (sender, ended) = tokio::sync::oneshot::channel();
    world().spawner.offload(Box::new(move || {
        sender.send(serve(far.into(), engine, &world())).unwrap();
    }));
    let client = connect(near.into(), world()).unwrap();
    assert_eq!(client.info().await.unwrap().kind, "process");
    let missing = client.prepare("other:1".to_owned()).await.unwrap_err();
    assert_eq!(missing, EngineError::ImageMissing { image: "other:1".to_owned() });
    let spec = ModuleSpec {
        create_options: r#"{"Cmd":["-c","echo one"]}"#.to_owned(),
        ..crate::process::tests::spec("m", "")
    };
    client.create(spec).await.unwrap();
    client.start("m".to_owned()).await.unwrap();
    while client.list().await.unwrap()[0].status != ModuleStatus::Exited {
        client.changed().await;
    }
    let mut log = client.logs("m".to_owned(), LogQuery::default()).await.unwrap();
    let line = std::future::poll_fn(|cx| log.poll_line(cx)).await.unwrap().unwrap();
    assert_eq!(line.text, "one");
    client.remove("m".to_owned()).await.unwrap();
    closer.shutdown(std::net::Shutdown::Both).unwrap();
    ended.await.unwrap().unwrap();
    let error = client.list().await.unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn callers_that_no_longer_wait_for_changes_leave_room_for_everybody_else() {
    let folder = tempfile::tempdir().unwrap();
    let engine = ProcessEngine::open(folder.path(), [].into(), world()).unwrap();
    let engine: Arc<dyn crate::backend::Backend> = Arc::new(engine);
    let (near, far) = UnixStream::pair().unwrap();
    let closer = near.try_clone().unwrap();
    world().spawner.offload(Box::new(move || serve(far.into(), engine, &world()).unwrap()));
    let client = connect(near.into(), world()).unwrap();
    // The first look is news; after it nothing changes.
    client.changed().await;
    for _ in 0..2 * REQUESTS_MAX {
        let mut waiting = client.changed();
        std::future::poll_fn(|cx| {
            assert!(waiting.as_mut().poll(cx).is_pending(), "nothing has changed");
            std::task::Poll::Ready(())
        })
        .await;
        drop(waiting);
        // Answered by the helper after the question for changes has reached it.
        client.list().await.unwrap();
    }
    closer.shutdown(std::net::Shutdown::Both).unwrap();
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let engine = ProcessEngine::open(folder.path(), [].into(), world()).unwrap();
    let engine: Arc<dyn crate::backend::Backend> = Arc::new(engine);
    let (mut near, far) = UnixStream::pair().unwrap();
    let (sender, ended) = tokio::sync::oneshot::channel();
    world().spawner.offload(Box::new(move || {
        sender.send(serve(far.into(), engine, &world())).unwrap();
    }));
    // Of the frame itself nothing comes: whoever waited for it, or made room, would stay.
    let length = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    std::io::Write::write_all(&mut near, &length.to_be_bytes()).unwrap();
    let error = ended.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}
