//! The router's certificate for clients whose TLS knows RSA alone: an authority and a key of its
//! own in files, made once.
//!
//! | file | what |
//! |---|---|
//! | `edge-ca-rsa.pem`, `edge-ca-rsa.key.pem` | the authority, unless the operator gave a device CA |
//! | `server-rsa.key.pem` | the key of the router's certificate |

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use credentials::certificate::{Authority, Issued, Validity};
use credentials::key_store::{LeafRequest, UseKeyError};
use credentials::renewal::{CERTIFICATE as POLICY, Renewal, renewal};
use credentials::rsa_key;
use model::secret::Secret;
use model::world::World;

use super::key_store::{LEAF_LIFE, OpenKeysError, authority, read, write};

const CERTIFICATE: &str = "edge-ca-rsa.pem";
const KEY: &str = "edge-ca-rsa.key.pem";
const SERVER_KEY: &str = "server-rsa.key.pem";

/// What an authority of this device's own is made with.
#[derive(Clone, Debug)]
pub(super) struct Own {
    /// The common name of its subject.
    pub(super) name: String,
    /// How long it holds.
    pub(super) life: Duration,
}

/// The key of the router, and who issues for it.
#[derive(Debug)]
pub(super) struct Rsa {
    key: Secret,
    issuer: Arc<Authority>,
    own: Option<String>,
}

impl Rsa {
    /// What earlier starts made, if they did. `given` issues where `own` is not wanted. An
    /// authority that is due gets a fresh certificate for its old key.
    pub(super) fn kept(
        folder: &Path,
        own: Option<&Own>,
        given: &Arc<Authority>,
        world: &World,
    ) -> Result<Option<Self>, OpenKeysError> {
        // Written last, so the others are there too.
        if !folder.join(SERVER_KEY).exists() {
            return Ok(None);
        }
        let key = Secret::from(read(&folder.join(SERVER_KEY))?);
        let Some(own) = own else {
            return Ok(Some(Self { key, issuer: Arc::clone(given), own: None }));
        };
        let mut issuer = authority(&folder.join(CERTIFICATE), &folder.join(KEY))?;
        if renewal(issuer.life(), POLICY, None, world.now().wall) == Renewal::Due {
            issuer = signed(own, &issuer.key_pem(), world)?;
            write(&folder.join(CERTIFICATE), issuer.to_pem().as_bytes())?;
        }
        Ok(Some(Self::of(key, issuer)))
    }

    /// Makes the keys, which takes seconds, and keeps them.
    pub(super) fn made(
        folder: &Path,
        own: Option<&Own>,
        given: &Arc<Authority>,
        world: &World,
    ) -> Result<Self, OpenKeysError> {
        let key = rsa_key::generate()?;
        let issuer = match own {
            None => None,
            Some(own) => {
                let issuer = signed(own, &rsa_key::generate()?, world)?;
                write(&folder.join(KEY), issuer.key_pem().expose())?;
                write(&folder.join(CERTIFICATE), issuer.to_pem().as_bytes())?;
                Some(issuer)
            }
        };
        write(&folder.join(SERVER_KEY), key.expose())?;
        Ok(match issuer {
            Some(issuer) => Self::of(key, issuer),
            None => Self { key, issuer: Arc::clone(given), own: None },
        })
    }

    fn of(key: Secret, issuer: Authority) -> Self {
        let own = Some(issuer.to_pem().to_owned());
        Self { key, issuer: Arc::new(issuer), own }
    }

    /// The certificate of an authority that only this exists for, PEM.
    pub(super) fn authority(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// A server certificate for the kept key.
    pub(super) fn issue(
        &self,
        request: &LeafRequest<'_>,
        world: &World,
    ) -> Result<Issued, UseKeyError> {
        let now = world.now().wall;
        let ends = self.issuer.life().until;
        if ends <= now {
            return Err(UseKeyError::Expired(ends));
        }
        let validity = Validity { now, life: LEAF_LIFE, serial: world.random.number() };
        let LeafRequest { common_name, names, .. } = request;
        Ok(self.issuer.issue_server_for(&self.key, common_name, names, validity)?)
    }
}

fn signed(own: &Own, key: &Secret, world: &World) -> Result<Authority, OpenKeysError> {
    let serial = world.random.number();
    let validity = Validity { now: world.now().wall, life: own.life, serial };
    Ok(Authority::with_key(&own.name, validity, key)?)
}
