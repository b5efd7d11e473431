//! Access as the doors ask for it: the rules, and the log that hears what the caller may not.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use credentials::sas::SasToken;
use model::log_limit::LogLimit;
use model::refusal::Refusal;
use model::time::WallTime;
use model::waist::Claim;

use super::{Access, Denied, Proven, Rights};
use crate::registry::Entry;

/// The rules of access, with a log.
#[derive(Debug)]
pub(crate) struct Guard {
    access: Access,
    told: Mutex<LogLimit>,
}

impl Deref for Guard {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

impl Guard {
    pub(crate) fn new(access: Access) -> Self {
        Self { access, told: Mutex::default() }
    }

    /// As [`Access::check_claim`].
    pub(crate) fn prove(
        &self,
        claim: &Claim,
        entry: &Entry,
        device: &Entry,
        now: WallTime,
    ) -> Result<Proven, Refusal> {
        let proven = self.access.check_claim(claim, entry, device, now);
        proven.map_err(|denied| self.tell(entry.identity.as_str(), denied, now))
    }

    /// As [`Access::check_token`].
    pub(crate) fn prove_token(
        &self,
        token: &SasToken,
        entry: &Entry,
        device: &Entry,
        now: WallTime,
    ) -> Result<Proven, Refusal> {
        let proven = self.access.check_token(token, entry, device, now);
        proven.map_err(|denied| self.tell(entry.identity.as_str(), denied, now))
    }

    /// As [`Access::check_service`].
    pub(crate) fn service(
        &self,
        token: &SasToken,
        path: &str,
        wanted: Rights,
        now: WallTime,
    ) -> Result<(), Refusal> {
        let allowed = self.access.check_service(token, path, wanted, now);
        allowed.map_err(|denied| self.tell(token.policy().unwrap_or_default(), denied, now))
    }

    /// Whoever hears the refusal hears no reason; whoever runs the hub reads it, if it is only
    /// that a clock is wrong or nobody renewed.
    fn tell(&self, who: &str, denied: Denied, now: WallTime) -> Refusal {
        if let Some(untimely) = denied.untimely {
            let admitted = self.told.lock().unwrap_or_else(PoisonError::into_inner).admit(now.0);
            if let Some(silenced) = admitted {
                tracing::warn!(who, silenced, reason = %untimely, "credentials refused");
            }
        }
        denied.refusal
    }
}
