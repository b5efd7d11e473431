use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::process::ProcessEngine;
use crate::process::tests::world;
use crate::runtime::{ModuleRuntime, ModuleStatus};

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
