use proptest::prelude::*;

use super::*;

const NOW: Now = Now { tick: Tick(3_600_000_000_000), wall: WallTime(1_000_000_000) };

/// `name:spec[@order][=stopped][/policy]`, separated by blanks.
fn desired(text: &str) -> Desired {
    text.split_whitespace()
        .map(|word| {
            let (word, policy) = word.split_once('/').unwrap_or((word, "always"));
            let (word, status) = word.split_once('=').unwrap_or((word, "running"));
            let (word, order) = word.split_once('@').unwrap_or((word, "5"));
            let (name, spec) = word.split_once(':').unwrap();
            let wanted = Wanted {
                spec: spec.into(),
                status: if status == "stopped" {
                    DesiredStatus::Stopped
                } else {
                    DesiredStatus::Running
                },
                restart: match policy {
                    "never" => RestartPolicy::Never,
                    "on-failure" => RestartPolicy::OnFailure,
                    _ => RestartPolicy::Always,
                },
                startup_order: order.parse().unwrap(),
            };
            (name.parse().unwrap(), wanted)
        })
        .collect()
}

/// `name:spec[=state]`; states are up, made, dead, unknown, ok<seconds ago>, bad<seconds ago>;
/// the last two with `-before-us` if this runtime had not begun then.
fn current(text: &str) -> Observed {
    text.split_whitespace()
        .map(|word| {
            let (word, state) = word.split_once('=').unwrap_or((word, "up"));
            let (name, spec) = word.split_once(':').unwrap();
            let ended = |failed, ago: &str| {
                let (ago, is_earlier) = match ago.strip_suffix("-before-us") {
                    Some(ago) => (ago, true),
                    None => (ago, false),
                };
                let ago: i64 = ago.parse().unwrap();
                let at = Some(WallTime(NOW.wall.0 - ago * 1000));
                State::Ended(Exit { failed, at, is_earlier })
            };
            let state = match (state, state.split_at(2)) {
                ("up", _) => State::Running(Some(NOW.wall)),
                ("made", _) => State::Created,
                ("dead", _) => State::Dead,
                ("unknown", _) => State::Unknown,
                (_, ("ok", ago)) => ended(false, ago),
                (_, ("ba", ago)) => ended(true, ago.trim_start_matches('d')),
                _ => panic!("{state}"),
            };
            (name.parse().unwrap(), Current { spec: spec.into(), state })
        })
        .collect()
}

/// `name[+prepared][~preparing][!failed spec times][*restarts][?]`.
fn memories(text: &str) -> Memories {
    text.split_whitespace()
        .map(|word| {
            let end = word.find(['+', '~', '!', '*', '?']).unwrap_or(word.len());
            let (name, mut rest) = word.split_at(end);
            let mut memory = Memory::default();
            while !rest.is_empty() {
                let (sign, tail) = rest.split_at(1);
                let end = tail.find(['+', '~', '!', '*', '?']).unwrap_or(tail.len());
                let (value, next) = tail.split_at(end);
                match sign {
                    "+" => memory.prepared = Some(value.into()),
                    "~" => memory.preparing = Some(value.into()),
                    "!" => {
                        memory.failure = Some(Failure {
                            spec: value.into(),
                            times: 1,
                            at: NOW.tick,
                            words: String::new(),
                        });
                    }
                    "*" => memory.history.restarts = value.parse().unwrap(),
                    _ => memory.restart_asked = true,
                }
                rest = next;
            }
            (name.parse().unwrap(), memory)
        })
        .collect()
}

fn say(command: &Command) -> String {
    let verb = match command {
        Command::Prepare(_) => "prepare",
        Command::Stop(_) => "stop",
        Command::Remove(_) => "remove",
        Command::Create(_) => "create",
        Command::Start(_) => "start",
        Command::Restart(_) => "restart",
        Command::Forget(_) => "forget",
    };
    format!("{verb} {}", command.module())
}

#[track_caller]
fn check(want: &str, is: &str, memory: &str, expected: &[&str]) -> Option<Duration> {
    let plan = plan(&desired(want), &current(is), &memories(memory), NOW);
    assert_eq!(plan.commands.iter().map(say).collect::<Vec<_>>(), expected);
    plan.wake
}

#[test]
fn what_is_as_desired_is_left_alone() {
    assert_eq!(check("a:1 b:1", "a:1 b:1", "", &[]), None);
    assert_eq!(check("", "", "", &[]), None);
    check("a:1=stopped b:1=stopped", "a:1=made b:1=bad1", "", &[]);
}

#[test]
fn until_the_image_of_a_new_version_is_there_the_old_one_is_started_again() {
    check("a:2", "a:1=bad20", "", &["prepare a", "restart a"]);
    check("a:2", "a:1=bad20", "a~2", &["restart a"]);
    check("a:2", "a:1=bad20", "a!2", &["restart a"]);
    check("a:2", "a:1=dead", "a!2", &["restart a"]);
    check("a:2", "a:1=bad20", "a+2", &["remove a", "create a", "start a"]);
    check("a:2", "a:1=bad1-before-us", "", &["prepare a", "start a"]);
    check("a:2/never", "a:1=bad20", "a!2", &[]);
    check("a:2=stopped", "a:1=bad20", "a!2", &[]);
    check("a:2", "a:1=up", "a!2", &[]);
    let wake = check("a:2", "a:1=bad1", "a~2", &[]);
    assert!(wake.is_some_and(|wake| wake > Duration::from_secs(5)));
}

#[test]
fn a_module_that_is_just_ending_is_neither_made_again_nor_forgotten() {
    for memory in ["", "a+1", "a+1?"] {
        let wake = check("a:1", "a:1=unknown", memory, &[]);
        assert!(wake.is_some_and(|wake| wake < Duration::from_secs(1)), "{memory}: {wake:?}");
    }
    check("a:2", "a:1=unknown", "a+2", &["remove a", "create a", "start a"]);
    check("", "a:1=unknown", "", &["remove a"]);
}

#[test]
fn a_new_module_is_prepared_then_created_and_started() {
    check("a:1", "", "", &["prepare a"]);
    check("a:1", "", "a~1", &[]);
    check("a:1", "", "a+1", &["create a", "start a"]);
    check("a:1=stopped", "", "a+1", &["create a"]);
    check("a:1", "a:1=made", "a+1", &["start a"]);
}

#[test]
fn the_old_version_runs_until_the_new_one_is_prepared() {
    check("a:2", "a:1", "", &["prepare a"]);
    check("a:2", "a:1", "a+1", &["prepare a"]);
    check("a:2", "a:1", "a~2", &[]);
    check("a:2", "a:1", "a+2", &["remove a", "create a", "start a"]);
}

#[test]
fn what_is_gone_is_removed_first_and_starts_follow_their_order() {
    check(
        "late:1@9 early:1@1",
        "old:1",
        "late+1 early+1",
        &["remove old", "create early", "start early", "create late", "start late"],
    );
    check("b:1 a:1", "", "a+1 b+1", &["create a", "start a", "create b", "start b"]);
}

#[test]
fn creating_waits_for_lower_orders_that_prepare_but_restarting_waits_for_nobody() {
    check("early:1@1 late:1@9", "", "early~1 late+1", &[]);
    check("early:1@1 same:1@1", "", "early~1 same+1", &["create same", "start same"]);
    check("early:1@1 late:1@9", "late:1=bad11", "early~1", &["restart late"]);
    // A lower order whose image cannot be had holds nobody back for ever.
    check("early:1@1 late:1@9", "", "early!1 late+1", &["create late", "start late"]);
}

#[test]
fn the_desired_status_is_followed() {
    check("a:1=stopped", "a:1", "", &["stop a"]);
    check("a:1", "a:1=ok11", "", &["restart a"]);
    check("a:1/never", "a:1=bad99", "", &[]);
    check("a:1/on-failure", "a:1=ok99", "", &[]);
    check("a:1", "a:1=dead", "", &["remove a"]);
}

#[test]
fn a_module_that_crashes_waits_longer_each_time() {
    let wait = check("a:1", "a:1=bad4", "a*0", &[]);
    assert_eq!(wait, Some(Duration::from_millis(6001)));
    check("a:1", "a:1=bad21", "a*1", &["restart a"]);
    assert_eq!(check("a:1", "a:1=bad999", "a*20", &[]), None);
}

#[test]
fn what_ended_before_this_runtime_began_starts_at_once_and_that_is_no_restart() {
    check("a:1", "a:1=bad1-before-us", "a*5", &["start a"]);
    check("a:1", "a:1=ok1-before-us", "", &["start a"]);
    check("a:1/on-failure", "a:1=bad1-before-us", "", &["start a"]);
    // What its policy leaves alone stays alone, and so does what nobody tries any more.
    check("a:1/on-failure", "a:1=ok1-before-us", "", &[]);
    check("a:1/never", "a:1=bad1-before-us", "", &[]);
    assert_eq!(check("a:1", "a:1=bad999-before-us", "a*20", &[]), None);
}

#[test]
fn a_failed_command_is_tried_again_later_or_when_the_specification_changes() {
    assert_eq!(check("a:2", "a:1", "a!2", &[]), Some(Duration::from_secs(10)));
    check("a:3", "a:1", "a!2", &["prepare a"]);
    assert_eq!(check("", "a:1", "a!", &[]), Some(Duration::from_secs(10)));
}

#[test]
fn a_restart_on_request_waits_for_no_cool_off() {
    check("a:1", "a:1", "a?", &["stop a", "start a"]);
    check("a:1", "a:1=bad1", "a*20?", &["start a"]);
}

#[test]
fn recovered_modules_are_forgiven() {
    let memory = memories("a*3");
    let mut is = current("a:1");
    for it in is.values_mut() {
        it.state = State::Running(Some(WallTime(NOW.wall.0 - 601_000)));
    }
    let plan = plan(&desired("a:1"), &is, &memory, NOW);
    assert_eq!(plan.commands, [Command::Forget("a".parse().unwrap())]);
    assert_eq!(check("a:1", "a:1", "a*3", &[]), Some(Duration::from_millis(600_001)));
}

/// What an engine would do, in a few lines, with commands failing as the script says.
fn execute(
    command: &Command,
    fails: bool,
    desired: &Desired,
    current: &mut Observed,
    memories: &mut Memories,
    now: Now,
) {
    let name = command.module().clone();
    let spec = desired.get(&name).map(|wanted| wanted.spec.clone()).unwrap_or_default();
    let memory = memories.entry(name.clone()).or_default();
    if fails {
        let times = memory.failure.take().filter(|it| it.spec == spec).map_or(1, |it| it.times + 1);
        memory.failure = Some(Failure { spec, times, at: now.tick, words: String::new() });
        return;
    }
    memory.failure = None;
    let running = State::Running(Some(now.wall));
    match command {
        Command::Prepare(_) => memory.prepared = Some(spec),
        Command::Stop(_) => {
            current.get_mut(&name).unwrap().state =
                State::Ended(Exit { failed: false, at: Some(now.wall), is_earlier: false });
        }
        Command::Remove(_) => drop(current.remove(&name)),
        Command::Create(_) => {
            let old = current.insert(name, Current { spec, state: State::Created });
            assert!(old.is_none(), "created beside an older one");
        }
        Command::Start(_) => {
            memory.restart_asked = false;
            current.get_mut(&name).unwrap().state = running;
        }
        Command::Restart(_) => {
            memory.history.restarts += 1;
            current.get_mut(&name).unwrap().state = running;
        }
        Command::Forget(_) => memory.history = History::default(),
    }
}

proptest! {
    /// From any state, with a third of the first hundred commands failing, the modules end
    /// as desired, and then nothing more is planned.
    #[test]
    fn the_plan_converges(
        wants in proptest::collection::btree_map(0..6_u8, (0..3_u8, 0..3_u32, any::<bool>()), 0..6),
        has in proptest::collection::btree_map(0..6_u8, (0..3_u8, 0..4_u8), 0..6),
        fails in proptest::collection::vec(0..3_u8, 100),
    ) {
        let name = |number: u8| format!("m{number}").parse::<ModuleName>().unwrap();
        let desired: Desired = wants.iter().map(|(key, (spec, order, run))| (name(*key), Wanted {
            spec: format!("s{spec}").into(),
            status: if *run { DesiredStatus::Running } else { DesiredStatus::Stopped },
            restart: RestartPolicy::Always,
            startup_order: *order,
        })).collect();
        let mut now = NOW;
        let mut current: Observed = has.iter().map(|(key, (spec, state))| (name(*key), Current {
            spec: format!("s{spec}").into(),
            state: match state {
                0 => State::Created,
                1 => State::Running(Some(now.wall)),
                2 => State::Ended(Exit { failed: true, at: Some(now.wall), is_earlier: false }),
                _ => State::Dead,
            },
        })).collect();
        let mut memories = Memories::new();
        let mut fails = fails.into_iter();
        for _ in 0..400 {
            let plan = plan(&desired, &current, &memories, now);
            let mut failed: Vec<ModuleName> = Vec::new();
            for command in &plan.commands {
                if failed.contains(command.module()) {
                    continue;
                }
                let fail = fails.next() == Some(0);
                execute(command, fail, &desired, &mut current, &mut memories, now);
                if fail {
                    failed.push(command.module().clone());
                }
            }
            let pause = plan.wake.unwrap_or(Duration::from_secs(5));
            now = Now { tick: now.tick.after(pause), wall: now.wall.after(pause) };
        }
        for (name, wanted) in &desired {
            let is = &current[name];
            prop_assert_eq!(&is.spec, &wanted.spec);
            let running = matches!(is.state, State::Running(_));
            prop_assert_eq!(running, wanted.status == DesiredStatus::Running, "{} {:?}", name, is);
        }
        prop_assert_eq!(current.len(), desired.len());
        prop_assert_eq!(plan(&desired, &current, &memories, now), Plan::default());
    }
}
