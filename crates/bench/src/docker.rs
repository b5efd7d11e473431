//! Docker, as Debian has it: a `dockerd` of our own with its own folders and socket, asked over
//! its API, which is what its command line does as well.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use blackbox::{process as running, wait};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use net::http_client::{HttpClient, read_whole};
use net::network::{Address, SystemNetwork};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::device::folder;

/// Longest start and end of the daemon, and longest answer.
const PATIENCE: Duration = Duration::from_secs(40);
/// Which API is asked; Docker 20.10 has it.
const VERSION: &str = "v1.41";
/// What the daemon is told besides its folders; the report prints it.
pub(crate) const FLAGS: [&str; 5] = [
    "--iptables=false",
    "--ip6tables=false",
    "--bridge=none",
    "--storage-driver=overlay2",
    "--log-level=warn",
];

/// A daemon of our own. Dropped, it is ended with all that it started.
#[derive(Debug)]
pub(crate) struct Docker {
    child: Child,
    client: HttpClient,
    folder: TempDir,
}

impl Docker {
    /// Starts it and waits until it answers.
    pub(crate) async fn start() -> Result<Self> {
        let folder = folder("k")?;
        let at = |name: &str| folder.path().join(name);
        let log = File::create(at("log"))?;
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(at("d"))
            .arg("--exec-root")
            .arg(at("x"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", at("s").display()))
            .args(FLAGS)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd (Debian package docker.io)")?;
        let world = net::world::system(tokio::runtime::Handle::current());
        let client = HttpClient::new(Arc::new(SystemNetwork), world, Address::Unix(at("s")), None);
        let mut docker = Self { child, client, folder };
        docker.ready().await?;
        Ok(docker)
    }

    async fn ready(&mut self) -> Result<()> {
        let begun = crate::clock::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                bail!("dockerd ended with {status}: {last}");
            }
            if self.ask(Method::GET, "/_ping", Bytes::new()).await.is_ok() {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "dockerd did not answer in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let kind = if path == "/images/load" { "application/x-tar" } else { "application/json" };
        let request = Request::builder()
            .method(method)
            .uri(format!("/{VERSION}{path}"))
            .header("host", "docker")
            .header("content-type", kind)
            .body(Full::new(body))?;
        let answer = self.client.send(request, PATIENCE).await?;
        let status = answer.status();
        let body = read_whole(answer.into_body(), PATIENCE).await?;
        ensure!(status.is_success(), "docker {path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Brings the image of `archive` in, an OCI layout.
    pub(crate) async fn load(&self, archive: &Path) -> Result<()> {
        let said = self.ask(Method::POST, "/images/load", docker_archive(archive)?.into()).await?;
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(said.contains("Loaded image"), "docker load: {said}");
        Ok(())
    }

    /// Makes a container of `image` that runs `words` on the host's network.
    pub(crate) async fn create(&self, name: &str, image: &str, words: &[&str]) -> Result<()> {
        let body = json!({
            "Image": image, "Cmd": words, "HostConfig": { "NetworkMode": "host" },
        });
        let path = format!("/containers/create?name={name}");
        self.ask(Method::POST, &path, body.to_string().into()).await.map(drop)
    }

    pub(crate) async fn begin(&self, name: &str) -> Result<()> {
        let path = format!("/containers/{name}/start");
        self.ask(Method::POST, &path, Bytes::new()).await.map(drop)
    }

    /// Ends the container and forgets it.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let path = format!("/containers/{name}?force=1");
        self.ask(Method::DELETE, &path, Bytes::new()).await.map(drop)
    }

    /// The first process of a running container.
    pub(crate) async fn process(&self, name: &str) -> Result<u32> {
        let path = format!("/containers/{name}/json");
        let found: Value =
            serde_json::from_slice(&self.ask(Method::GET, &path, Bytes::new()).await?)?;
        let pid = found.pointer("/State/Pid").and_then(Value::as_u64).context("no Pid")?;
        Ok(u32::try_from(pid)?)
    }

    /// Daemon, containerd and shims: a word for each, and its process.
    pub(crate) fn family(&self) -> Vec<(String, u32)> {
        let folder = self.folder.path().display().to_string();
        let mut all = Vec::new();
        for pid in running::all() {
            let line = running::command_line(pid);
            if line.iter().any(|word| word.contains(&folder)) {
                let name = line.first().and_then(|it| it.rsplit('/').next()).unwrap_or_default();
                all.push((name.to_owned(), pid));
            }
        }
        all
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let signal = |pid: u32, signal| {
            if let Ok(pid) = i32::try_from(pid) {
                // It may have ended already.
                kill(Pid::from_raw(pid), signal).ok();
            }
        };
        signal(self.child.id(), Signal::SIGTERM);
        wait::until("dockerd to end", PATIENCE, || Ok(self.child.try_wait()?)).ok();
        for (_, pid) in self.family() {
            signal(pid, Signal::SIGKILL);
        }
        self.child.kill().ok();
        self.child.wait().ok();
        unmount_below(self.folder.path());
    }
}

/// Takes away what is mounted below `folder`, the last first.
pub(crate) fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places: Vec<PathBuf> =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect();
    for place in places.iter().rev().filter(|place| place.starts_with(folder)) {
        // One that is gone meanwhile is as good.
        nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

/// The OCI layout at `path` with the `manifest.json` that `docker load` of 20.10 looks for; it
/// reads the same blobs.
fn docker_archive(path: &Path) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let mut files = std::collections::BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(name, content);
    }
    let json = |name: &str| -> Result<Value> {
        Ok(serde_json::from_slice(files.get(name).with_context(|| format!("no {name}"))?)?)
    };
    let blob = |value: Option<&Value>| -> Result<String> {
        let digest = value.and_then(Value::as_str).context("no digest")?;
        Ok(format!("blobs/{}", digest.replace(':', "/")))
    };
    let index = json("index.json")?;
    let manifest = json(&blob(index.pointer("/manifests/0/digest"))?)?;
    let name = index.pointer("/manifests/0/annotations/org.opencontainers.image.ref.name");
    let layers = manifest.get("layers").and_then(Value::as_array).context("no layers")?;
    let layers: Vec<String> =
        layers.iter().map(|one| blob(one.get("digest"))).collect::<Result<_>>()?;
    let text = json!([{
        "Config": blob(manifest.pointer("/config/digest"))?,
        "RepoTags": [name.context("no name")?],
        "Layers": layers,
    }]);
    files.insert("manifest.json".to_owned(), text.to_string().into_bytes());
    let mut out = tar::Builder::new(Vec::new());
    for (name, content) in &files {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(content.len())?);
        header.set_mode(0o644);
        out.append_data(&mut header, name, content.as_slice())?;
    }
    Ok(out.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oci_layout_gets_the_list_that_docker_reads_and_keeps_its_blobs() {
        use engine::image::archive::{ImageContent, LayerFile, layer, write_oci_archive};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        let content = ImageContent {
            reference: "a:1".to_owned(),
            config: json!({}),
            layers: vec![layer(&[LayerFile { path: "p", mode: 0o755, content: b"x" }]).unwrap()],
        };
        write_oci_archive(&content, File::create(&path).unwrap()).unwrap();
        let made = docker_archive(&path).unwrap();
        let mut names = Vec::new();
        let mut list = Value::Null;
        for entry in tar::Archive::new(made.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name == "manifest.json" {
                list = serde_json::from_reader(&mut entry).unwrap();
            }
            names.push(name);
        }
        assert_eq!(list[0]["RepoTags"], json!(["a:1"]));
        let config = list[0]["Config"].as_str().unwrap().to_owned();
        let layer = list[0]["Layers"][0].as_str().unwrap().to_owned();
        assert!(names.contains(&config) && names.contains(&layer), "{names:?} {list}");
    }
}
