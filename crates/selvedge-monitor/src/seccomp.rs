//! The system call filters of a container, with the meaning of Docker's default profile.
//!
//! Two filters, as one can answer only one error number: the first allows what the table lists
//! and answers EPERM to the rest; the second answers ENOSYS to `clone3`, so that programs fall
//! back to `clone`, whose flags a filter can read. If a filter cannot be loaded, nothing runs.
//! Loading sets no-new-privileges: a confined container cannot opt out of it.

mod table;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use crate::files::Profile;

/// Flags of `clone` that make a namespace.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The personalities that Docker allows.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Compiled filters, in the order of loading.
#[derive(Debug)]
pub(crate) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// The filters for a container with these capabilities in its bounding set.
    pub(crate) fn compile(profile: Profile, capabilities: &[String]) -> Result<Self, String> {
        if profile == Profile::Unconfined {
            return Ok(Self(Vec::new()));
        }
        let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
        let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
        let refused = program(allowed(capabilities)?, errno(libc::EPERM), SeccompAction::Allow)?;
        // Who may make namespaces by `clone` may also do it by `clone3`.
        if has(capabilities, "CAP_SYS_ADMIN") {
            return Ok(Self(vec![refused]));
        }
        let absent = program(clone3, SeccompAction::Allow, errno(libc::ENOSYS))?;
        Ok(Self(vec![absent, refused]))
    }

    /// Loads them into this process, for good.
    pub(crate) fn apply(&self) -> Result<(), String> {
        self.0.iter().try_for_each(|filter| apply_filter(filter).map_err(|error| error.to_string()))
    }
}

/// A capability may be spelled with or without its prefix.
fn has(capabilities: &[String], wanted: &str) -> bool {
    capabilities
        .iter()
        .any(|name| name.trim_start_matches("CAP_") == wanted.trim_start_matches("CAP_"))
}

fn program(
    rules: Rules,
    other: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, String> {
    let arch = std::env::consts::ARCH.try_into();
    let arch = arch.map_err(|error| format!("no filter for this processor: {error}"))?;
    let filter = SeccompFilter::new(rules, other, listed, arch);
    let program = filter.and_then(BpfProgram::try_from);
    program.map_err(|error| format!("cannot compile the system call filter: {error}"))
}

fn allowed(capabilities: &[String]) -> Result<Rules, String> {
    let mut rules = Rules::new();
    let plain = table::ALWAYS.iter().chain(table::OLDER);
    rules.extend(plain.map(|call| (*call, Vec::new())));
    let namespaces = rule(0, SeccompCmpOp::MaskedEq(NAMESPACE_FLAGS), 0)?;
    rules.insert(libc::SYS_clone, vec![namespaces]);
    // Virtual machine sockets would reach the host past every network namespace.
    let vsock = u64::from(libc::AF_VSOCK.unsigned_abs());
    rules.insert(libc::SYS_socket, vec![rule(0, SeccompCmpOp::Ne, vsock)?]);
    let personalities: Result<Vec<_>, _> =
        PERSONALITIES.iter().map(|value| rule(0, SeccompCmpOp::Eq, *value)).collect();
    rules.insert(libc::SYS_personality, personalities?);
    for (capability, calls) in table::WITH {
        if has(capabilities, capability) {
            rules.extend(calls.iter().map(|call| (*call, Vec::new())));
        }
    }
    Ok(rules)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    // The kernel reads these arguments as 32 bits; higher ones must not change the verdict.
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.map_err(|error| format!("cannot compile the system call filter: {error}"))
}
