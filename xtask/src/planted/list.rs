//! The list: every fault that the code has, how often it strikes, who must find it, and the
//! sentence that must be broken.

/// A fault and who must find it.
#[derive(Debug)]
pub(super) struct Plant {
    /// As the code names it.
    pub(super) fault: &'static str,
    /// It strikes one time in so many.
    pub(super) one_in: u32,
    /// Who must find it.
    pub(super) finder: Finder,
}

/// Who finds a fault.
#[derive(Debug)]
pub(super) enum Finder {
    /// The simulator, by breaking one of these sentences of its oracle; a second one stands
    /// here only where the seed decides which of two is broken first.
    Simulator(&'static [&'static str]),
    /// A test of a crate's own binary.
    Test {
        /// The crate.
        package: &'static str,
        /// Which of its test programs: `--lib`, or `--test=` and a name.
        target: &'static str,
        /// The test's name, or its end.
        test: &'static str,
        /// What the failing test says.
        words: &'static str,
    },
}

impl Plant {
    /// As `model::planted` reads it from its variable.
    pub(super) fn text(&self) -> String {
        match self.one_in {
            1 => self.fault.to_owned(),
            one_in => format!("{}/{one_in}", self.fault),
        }
    }
}

const fn sim(fault: &'static str, sentences: &'static [&'static str]) -> Plant {
    rare(fault, 1, sentences)
}

const fn rare(fault: &'static str, one_in: u32, sentences: &'static [&'static str]) -> Plant {
    Plant { fault, one_in, finder: Finder::Simulator(sentences) }
}

const fn test(
    fault: &'static str,
    package: &'static str,
    (test, words): (&'static str, &'static str),
) -> Plant {
    let finder = Finder::Test { package, target: "--lib", test, words };
    Plant { fault, one_in: 1, finder }
}

const SUITE: &str = "the_hub_keeps_every_promise_of_the_waist";
/// The journal's own tests, the hub's, the edge's and the engine's find what a scenario cannot
/// show: expiry, because clocks jump by weeks; a pump that stalls while its sender connects
/// again; the files of the engine, which the simulator replaces.
///
/// What the simulator finds late comes first, so that the hunts end together.
pub(super) const PLANTED: &[Plant] = &[
    sim("reported_patch_lost", &["reported", "heard", "told"]),
    sim("lost_takeover", &["lives"]),
    sim("chain_not_torn", &["ordered"]),
    sim("any_clock_believed", &["kept"]),
    sim("ack_before_sync", &["kept"]),
    rare("ack_before_sync", 100, &["kept"]),
    sim("ack_before_commit", &["kept"]),
    sim("failed_batch_accepted", &["kept"]),
    sim("disk_error_is_success", &["kept"]),
    sim("cursor_before_delivery", &["kept"]),
    sim("cursor_before_upstream_ack", &["kept"]),
    rare("cursor_before_upstream_ack", 100, &["kept"]),
    sim("input_done_when_handed_out", &["kept"]),
    rare("input_done_when_handed_out", 100, &["kept"]),
    sim("route_swap_drops_queue", &["kept"]),
    sim("clock_back_expires", &["kept"]),
    sim("resend_out_of_order", &["ordered"]),
    sim("forgotten_feature", &["listening"]),
    sim("method_answer_mixed", &["caller"]),
    rare("method_answer_mixed", 100, &["caller"]),
    sim("method_handed_out_twice", &["called-once"]),
    rare("method_handed_out_twice", 100, &["called-once"]),
    sim("desired_lost_reconnecting", &["heard", "told", "running"]),
    sim("last_good_not_kept", &["running", "sent"]),
    sim("plan_step_skipped", &["running"]),
    sim("backoff_forgotten", &["paused"]),
    sim("properties_lost", &["properties"]),
    rare("properties_lost", 100, &["properties"]),
    sim("older_reported_wins", &["reported"]),
    sim("written_twice", &["copies"]),
    rare("written_twice", 100, &["copies"]),
    Plant {
        fault: "router_lost_takeover",
        one_in: 1,
        finder: Finder::Test {
            package: "sim",
            target: "--test=runtime",
            test: "a_newer_session_takes_over_and_a_bad_token_opens_none",
            words: "an event",
        },
    },
    test("ack_before_sync", "journal", ("what_is_acknowledged_survives_a_power_cut", "is_some()")),
    test(
        "cursor_before_delivery",
        "journal",
        ("what_was_only_handed_out_comes_again", "is_some()"),
    ),
    test(
        "expired_delivered",
        "journal",
        ("what_has_expired_is_not_delivered", "left: Some(Delivery"),
    ),
    test(
        "tables_not_synced",
        "hub",
        ("an_acknowledged_twin_is_there_wherever_the_power_fails", "Some(Lost"),
    ),
    test("lost_takeover", "hub", (SUITE, "")),
    test("forgotten_feature", "hub", (SUITE, "")),
    test(
        "chain_not_torn",
        "hub",
        ("what_was_sent_behind_a_message_that_met_a_failing_disk_does_not_overtake_it", ""),
    ),
    test("any_clock_believed", "hub", ("a_clock_that_jumps_for_a_while_costs_no_telemetry", "")),
    test(
        "newer_session_overtakes",
        "edge",
        ("over_a_newer_session_nothing_is_sent_before_the_older_one_answered", ""),
    ),
    test(
        "plan_step_skipped",
        "edge",
        ("what_is_gone_is_removed_first_and_starts_follow_their_order", ""),
    ),
    test(
        "layer_named_before_sync",
        "engine",
        ("images_are_whole_or_absent_wherever_the_power_fails", ""),
    ),
    test(
        "record_before_bundle",
        "engine",
        ("modules_are_of_one_generation_wherever_the_power_fails", ""),
    ),
    test(
        "last_good_not_kept",
        "sim",
        ("a_device_runs_one_generation_wherever_the_power_fails", ""),
    ),
];
