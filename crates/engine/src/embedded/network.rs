//! The engine's bridge: `selvedge-monitor network` does what only the kernel can, this file
//! keeps who has which address.
//!
//! | path | what |
//! |---|---|
//! | `network/leases.json` | bridge, network, addresses by name; written whole |
//! | `network/lock` | held, shared, by every engine that is open on the folder |
//! | `/run/selvedge/netns/<id>` | the pinned namespace of a running container |

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::create_options::NetworkMode;
use crate::error::EngineError;
use crate::files::{self, write_whole};
use crate::network::leases::Leases;
use crate::network::{Subnet, candidates};
use crate::runtime::EngineResult;

/// How often the lock is tried, and how long lies between two tries.
const LOCK_TRIES: u32 = 1000;
const LOCK_TRY_EVERY: Duration = Duration::from_millis(10);
/// Where namespaces of running containers are pinned.
const NAMESPACES: &str = "/run/selvedge/netns";

#[derive(Debug)]
pub(super) struct Network {
    folder: PathBuf,
    /// The engine's folder, by which the kernel's bridge is marked.
    owner: String,
    monitor: PathBuf,
    /// What the operator wrote.
    wanted: Option<Subnet>,
    /// So that an engine that ends does not take the bridge of one that has begun.
    open: Flock<File>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    ok: bool,
    error: Option<String>,
    bridge: Option<String>,
    address: Option<String>,
    #[serde(default)]
    in_use: bool,
}

impl Network {
    pub(super) fn open(root: &Path, monitor: &Path, wanted: Option<Subnet>) -> EngineResult<Self> {
        let folder = root.join("network");
        let path = folder.join("lock");
        let failed = |error: io::Error| EngineError::system(path.display().to_string(), error);
        files::ensure_folder(&folder).map_err(failed)?;
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        let open = shared(file.map_err(failed)?).map_err(failed)?;
        let owner = root.display().to_string();
        Ok(Self { folder, owner, monitor: monitor.to_owned(), wanted, open })
    }

    fn path(&self) -> PathBuf {
        self.folder.join("leases.json")
    }

    /// What is written, if anything is.
    pub(super) fn leases(&self) -> EngineResult<Option<Leases>> {
        let path = self.path();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| self.failed(error))?,
        };
        let leases = Leases::parse(&text).map_err(|error| {
            let remedy = "stop all modules and remove the file; addresses are given out anew";
            self.failed(format!("{error}; {remedy}"))
        })?;
        Ok(Some(leases))
    }

    fn failed(&self, cause: impl std::fmt::Display) -> EngineError {
        EngineError::system(self.path().display().to_string(), cause)
    }

    fn write(&self, leases: &Leases) -> EngineResult<()> {
        let text = serde_json::to_vec_pretty(leases).map_err(|error| self.failed(error))?;
        write_whole(&self.path(), &text)
    }

    /// Makes sure that the bridge is there; picks one if there never was.
    pub(super) fn ensure(&self) -> EngineResult<Leases> {
        let mut kept = self.leases()?;
        if let (Some(leases), Some(wanted)) = (&kept, self.wanted)
            && leases.network != wanted
        {
            self.give_up(leases, wanted)?;
            kept = None;
        }
        let tried: Vec<Value> = match &kept {
            Some(leases) => vec![candidate(&leases.bridge, leases.network)],
            None => candidates(&self.owner, self.wanted)
                .iter()
                .map(|it| candidate(&it.bridge, it.network))
                .collect(),
        };
        let request = json!({"op": "bridge", "owner": self.owner, "candidates": tried});
        let answer = self.ask(request).map_err(with_remedy)?;
        if let Some(leases) = kept {
            return Ok(leases);
        }
        let (Some(bridge), Some(address)) = (answer.bridge, answer.address) else {
            return Err(EngineError::system("the network", "the monitor names no bridge"));
        };
        let all = candidates(&self.owner, self.wanted);
        let picked = all.into_iter().find(|it| {
            it.bridge == bridge && it.network.with_prefix(it.network.gateway()) == address
        });
        let picked = picked
            .ok_or_else(|| EngineError::system("the network", "the monitor names another one"))?;
        let leases = Leases::new(picked.bridge, picked.network);
        self.write(&leases)?;
        Ok(leases)
    }

    /// Lets go of a network that the operator has replaced.
    fn give_up(&self, leases: &Leases, wanted: Subnet) -> EngineResult<()> {
        if self.release(leases)? {
            let message = format!(
                "modules run on the network {}; stop them before it becomes {wanted}",
                leases.network
            );
            return Err(EngineError::Unavailable { message });
        }
        files::remove_file(&self.path()).map_err(|error| self.failed(error))
    }

    /// Whether the bridge is in use and therefore stays.
    fn release(&self, leases: &Leases) -> EngineResult<bool> {
        let request = json!({"op": "release", "owner": self.owner, "bridge": leases.bridge});
        Ok(self.ask(request)?.in_use)
    }

    /// Takes the bridge away if nobody uses it, and no other engine is open on the folder.
    pub(super) fn leave(&self) -> EngineResult<()> {
        if self.open.relock(FlockArg::LockExclusiveNonblock).is_err() {
            return Ok(());
        }
        let left = self.leases().and_then(|leases| match leases {
            Some(leases) => self.release(&leases).map(drop),
            None => Ok(()),
        });
        // What engines share goes with the last of them.
        let left = left.and_then(|()| match Path::new(NAMESPACES).parent() {
            Some(folder) if folder.exists() => self.ask(json!({"op": "tidy"})).map(drop),
            _ => Ok(()),
        });
        // Others may open the folder again, also while this engine is there.
        self.open.relock(FlockArg::LockShared).map_err(|error| self.failed(error))?;
        left
    }

    /// The leases with one for the module `name`, written down before anybody gets the address.
    /// Names in `present` keep theirs.
    pub(super) fn lease(&self, name: &str, present: &BTreeSet<String>) -> EngineResult<Leases> {
        let mut leases = self.ensure()?;
        let before = leases.clone();
        if leases.take(name, present).is_none() {
            let message = format!("no address is free in {}", leases.network);
            return Err(EngineError::Unavailable { message });
        }
        if leases != before {
            self.write(&leases)?;
        }
        Ok(leases)
    }

    /// Gives the container `id` its network before it starts, or again if somebody took it.
    /// Names in `present` keep their addresses.
    pub(super) fn join(
        &self,
        id: &str,
        name: &str,
        mode: NetworkMode,
        present: &BTreeSet<String>,
    ) -> EngineResult<()> {
        let netns = namespace(id);
        let request = match mode {
            NetworkMode::Host => return Ok(()),
            NetworkMode::None => json!({"op": "private", "netns": netns}),
            NetworkMode::Bridge => {
                let is_mine = |leases: &Leases| leases.address(name).is_some();
                let leases = match self.leases()?.filter(is_mine) {
                    Some(leases) => leases,
                    // Made when there was another network.
                    None => self.lease(name, present)?,
                };
                let address = leases.address(name);
                let address = address.ok_or_else(|| self.failed("a lease was not written"))?;
                json!({
                    "op": "attach", "owner": self.owner, "bridge": leases.bridge, "netns": netns,
                    "host_interface": host_interface(id),
                    "address": leases.network.with_prefix(address),
                    "gateway": leases.network.gateway(),
                })
            }
        };
        self.ask(request).map(drop).map_err(with_remedy)
    }

    /// Takes away what a container that does not run has left, if it has.
    pub(super) fn part(&self, id: &str) -> EngineResult<()> {
        let netns = namespace(id);
        if fs::symlink_metadata(&netns).is_err() {
            return Ok(());
        }
        let host_interface = host_interface(id);
        let request = json!({"op": "detach", "netns": netns, "host_interface": host_interface});
        self.ask(request).map(drop)
    }

    pub(super) fn ask(&self, mut request: Value) -> EngineResult<Answer> {
        let op = request.get("op").and_then(Value::as_str).unwrap_or_default();
        let action = format!("the network ({op})");
        if let Value::Object(fields) = &mut request {
            fields.insert("version".to_owned(), json!(1));
        }
        let mut command = Command::new(&self.monitor);
        command.arg("network").env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut run = || {
            let mut child = command.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(request.to_string().as_bytes())?;
            }
            child.wait_with_output()
        };
        let output = run().map_err(|error| EngineError::Unavailable {
            message: format!("{}: {error}", self.monitor.display()),
        })?;
        match serde_json::from_slice::<Answer>(&output.stdout) {
            Ok(answer) if answer.ok => Ok(answer),
            Ok(answer) => Err(EngineError::system(action, answer.error.unwrap_or_default())),
            Err(error) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(EngineError::system(action, format!("{error} ({}): {said}", output.status)))
            }
        }
    }
}

/// Names the way out when somebody else has the network.
fn with_remedy(error: EngineError) -> EngineError {
    match error {
        EngineError::System { action, message } if message.contains("is used by") => {
            let remedy = "name a free one as [selvedge] network";
            EngineError::system(action, format!("{message}; {remedy}"))
        }
        other => other,
    }
}

/// Waits for an engine that is taking its bridge away.
fn shared(mut file: File) -> io::Result<Flock<File>> {
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, error)) => return Err(error.into()),
        }
        std::thread::sleep(LOCK_TRY_EVERY);
    }
    Err(io::Error::other("another engine does not let go of it"))
}

fn candidate(bridge: &str, network: Subnet) -> Value {
    json!({"bridge": bridge, "address": network.with_prefix(network.gateway())})
}

/// Where the namespace of the container `id` is pinned.
pub(super) fn namespace(id: &str) -> PathBuf {
    Path::new(NAMESPACES).join(id)
}

/// The host's end of the wire of the container `id`, which ends in a digest of its folder.
pub(super) fn host_interface(id: &str) -> String {
    let digest = id.rsplit('-').next().unwrap_or_default();
    // `veth` and 11 of its digits are the 15 bytes that the kernel allows.
    format!("veth{}", digest.get(..11).unwrap_or(digest))
}
