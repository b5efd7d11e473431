//! What was aimed at, and whether it was reached; the reasons where it was not.

use std::fmt::Write as _;

/// On which side of its limit a figure should lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// One target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) bound: Bound,
    pub(crate) unit: &'static str,
    /// Why a figure on the wrong side lies there; found by looking, not by this program.
    pub(crate) why: &'static str,
}

/// How every line begins that [`collected`] finds again.
const MARKS: [&str; 3] = ["- **Met**", "- **Missed", "- **Not measured**"];

impl Target {
    /// One line about `found`.
    pub(crate) fn verdict(&self, found: f64) -> String {
        let (limit, words, missed) = match self.bound {
            Bound::AtLeast(limit) => (limit, "at least", limit - found),
            Bound::AtMost(limit) => (limit, "at most", found - limit),
        };
        let Self { name, unit, why, .. } = self;
        if found.is_nan() {
            return self.unknown("no figure");
        }
        let against = format!("{name}: {found:.2} {unit}, target {words} {limit} {unit}");
        if missed <= 0.0 {
            return format!("- **Met**: {against}.");
        }
        let percent = missed / limit * 100.0;
        let mut text = format!("- **Missed by {missed:.2} {unit} ({percent:.0} %)**: {against}");
        if why.is_empty() {
            text.push('.');
        } else {
            // Writing to a text cannot fail.
            write!(text, "; {why}").ok();
        }
        text
    }

    /// One line when there is no figure, because of `reason`.
    pub(crate) fn unknown(&self, reason: &str) -> String {
        format!("- **Not measured**: {}: {reason}.", self.name)
    }
}

/// The lines about targets in `page`, as they stand there; each once.
pub(crate) fn collected(page: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = Vec::new();
    for line in page.lines() {
        if MARKS.iter().any(|mark| line.starts_with(mark)) && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

pub(crate) const HUB_INGEST: Target = Target {
    name: "ingest of the hub at 200 × 16, synced, beside mosquitto",
    bound: Bound::AtLeast(3.0),
    unit: "times",
    why: "the hub waits for the disk before each acknowledgement and mosquitto does not, so a slow or busy disk shows in this ratio only on our side.",
};
pub(crate) const ROUTER_INGEST: Target = Target {
    name: "ingest of the router with 3,200 messages in flight (50 × 64), synced, beside mosquitto",
    bound: Bound::AtLeast(3.0),
    unit: "times",
    why: "the router waits for the disk before each acknowledgement and mosquitto does not, so a slow or busy disk shows in this ratio only on our side.",
};
pub(crate) const HUB_WRITTEN: Target = Target {
    name: "bytes that the hub sends to the block device per payload byte at 200 × 16",
    bound: Bound::AtMost(1.3),
    unit: "bytes",
    why: "each message of 256 bytes has some 66 beside it (frame and lane 36, sender, generation and method 25, index 5), and each commit writes its last page twice.",
};
pub(crate) const ROUTER_WRITTEN: Target = Target {
    name: "bytes that the router sends to the block device per payload byte at 50 × 64",
    bound: Bound::AtMost(1.3),
    unit: "bytes",
    why: "each message of 256 bytes has some 77 beside it (frame, expiry and lane 44, sender 15, generation 8, counts and properties 5, index 5), and each commit writes its last page twice.",
};
pub(crate) const IDLE_CONNECTION: Target = Target {
    name: "user memory of the hub per idle TLS connection",
    bound: Bound::AtMost(6.0),
    unit: "KiB",
    why: "",
};
pub(crate) const CONTAINER_START: Target = Target {
    name: "start of a created container, until its program runs, beside `runc run`",
    bound: Bound::AtMost(1.0),
    unit: "times",
    why: "ours mounts an overlay, installs a seccomp filter, opens logs and syncs a record that the module runs, which runc does not; on a busy disk that sync decides.",
};
pub(crate) const APPLY: Target = Target {
    name: "a new module applied at the hub until its program runs on the device, p50",
    bound: Bound::AtMost(200.0),
    unit: "ms",
    why: "each step on the way syncs what it stores (twins at the hub; manifest, identity, container and its start on the device), and each sync waits for a busy disk.",
};
pub(crate) const STACK: Target = Target {
    name: "the whole device stack idle with 3 modules, PSS without the modules' own programs",
    bound: Bound::AtMost(25.0),
    unit: "MiB",
    why: "",
};
pub(crate) const API_READY: Target = Target {
    name: "start of the runtime until its API answers, p50",
    bound: Bound::AtMost(50.0),
    unit: "ms",
    why: "launcher and runtime start one after the other, and eight syncs (three of SQLite, five of the journal's recovery) come before the first answer; on a quiet disk each takes a third of a millisecond, on a busy one several.",
};

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Target =
        Target { name: "a", bound: Bound::AtLeast(3.0), unit: "times", why: "w." };
    const MOST: Target = Target { name: "b", bound: Bound::AtMost(50.0), unit: "ms", why: "" };

    #[test]
    fn a_verdict_says_by_how_much_and_why() {
        let check = |target: Target, found: f64, expected: &str| {
            assert_eq!(target.verdict(found), expected);
        };
        check(LEAST, 3.0, "- **Met**: a: 3.00 times, target at least 3 times.");
        check(
            LEAST,
            2.4,
            "- **Missed by 0.60 times (20 %)**: a: 2.40 times, target at least 3 times; w.",
        );
        check(MOST, 49.99, "- **Met**: b: 49.99 ms, target at most 50 ms.");
        check(MOST, 60.0, "- **Missed by 10.00 ms (20 %)**: b: 60.00 ms, target at most 50 ms.");
        check(MOST, f64::NAN, "- **Not measured**: b: no figure.");
    }

    #[test]
    fn every_kind_of_verdict_is_found_again_once_and_nothing_else() {
        let lines = [LEAST.verdict(3.0), LEAST.verdict(1.0), MOST.unknown("no runc")];
        let page = format!(
            "- **Metal**: x\n{}\ntext\n- other\n{}\n{}\n{}\n",
            lines[0], lines[1], lines[2], lines[0]
        );
        assert_eq!(collected(&page), lines);
    }
}
