//! `selvedge up` on a machine that has nothing: our static binaries, a shell, Debian's kernel.
//!
//! It shows what a device needs: no Docker, no libraries, no name service, cgroup v2 as modern
//! systems have it, a file system in memory.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::vm::Machine;
use crate::{release_dir, root, say};

/// Programs of a device and of the hub beside it.
const PROGRAMS: &[&str] = &["selvedge", "selvedge-edge", "selvedge-monitor"];
const IMAGES: &[&str] = &["host-sensor.tar", "anomaly.tar"];
/// Readings that must arrive at the hub, in order.
const READINGS: usize = 6;

/// What happens in the machine. `up` is ended as Ctrl-C ends it.
const SCRIPT: &str = "
export PATH=/bin:/opt SELVEDGE_DATA=/root/d
selvedge up --images /opt/images > /root/up.log 2>&1 &
UP=$!
tries=0
until selvedge -o jsonl monitor --from start --count @READINGS@ > /root/readings 2> /root/monitor.log
do
  tries=$((tries + 1))
  if [ $tries = 120 ]; then cat /root/monitor.log /root/up.log /root/d/edge/runtime.log; break; fi
  sleep 1
done
sed 's/^/reading: /' /root/readings
for pid in $(pidof selvedge selvedge-edge selvedge-monitor); do
  echo \"memory: $(grep ^Pss: /proc/$pid/smaps_rollup) $(tr '\\0' ' ' < /proc/$pid/cmdline)\"
done
ls /sys/fs/cgroup/selvedge
kill -INT $UP
wait $UP
echo \"up ended with $?\"
for left in /sys/fs/cgroup/selvedge /run/selvedge; do [ -e $left ] && echo left behind: $left; done
pidof selvedge-edge selvedge-monitor host-sensor anomaly || echo nothing is left
";

/// Boots the machine and runs the pipeline in it.
///
/// # Errors
/// If readings do not arrive in order, `up` does not end well, or leaves something behind.
pub(crate) fn run() -> Result<()> {
    let machine = Machine::new("bare")?;
    let release = release_dir()?;
    for program in PROGRAMS {
        machine.add_program(&release.join(program), &Path::new("/opt").join(program))?;
    }
    for image in IMAGES {
        machine.add(
            &root().join("target/images").join(image),
            &Path::new("/opt/images").join(image),
        )?;
    }
    let printed = machine.run(&SCRIPT.replace("@READINGS@", &READINGS.to_string()))?;
    if let Err(fault) = judge(&printed) {
        Machine::show(&printed);
        bail!("{fault:#}; all words: {}", machine.words().display());
    }
    say(&format!(
        "   {READINGS} readings of containers on a machine with nothing but a shell; the device's \
         processes take {} kB (PSS), the hub {} kB",
        memory(&printed, "selvedge-edge ") + memory(&printed, "selvedge-monitor "),
        memory(&printed, "selvedge "),
    ));
    Ok(())
}

fn judge(printed: &str) -> Result<()> {
    let readings: Vec<&str> =
        printed.lines().filter_map(|line| line.trim().strip_prefix("reading: ")).collect();
    let sensor: Vec<u64> = readings
        .iter()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["moduleId"] == "host-sensor")
        .filter_map(|message| sequence(message.get("body")?))
        .collect();
    ensure!(sensor.len() + 2 >= READINGS, "too few readings of host-sensor arrived: {sensor:?}");
    ensure!(
        sensor.iter().zip(1..).all(|(found, expected)| *found == expected),
        "readings are missing or out of order: {sensor:?}"
    );
    ensure!(memory(printed, "selvedge-monitor ") > 0, "the containers have no monitors");
    ensure!(printed.contains("up ended with 0"), "`up` did not end well");
    ensure!(printed.contains("nothing is left"), "processes are left behind");
    let left: Vec<&str> = printed.lines().filter(|line| line.contains("left behind: ")).collect();
    ensure!(left.is_empty(), "folders of the machine are {left:?}");
    Ok(())
}

/// The memory of all processes of `program`, kB.
fn memory(printed: &str, program: &str) -> u64 {
    let lines = printed.lines().filter_map(|line| line.trim().strip_prefix("memory: Pss:"));
    lines
        .filter_map(|line| line.trim().split_once(" kB "))
        .filter(|(_, command)| {
            command.starts_with(program) || command.starts_with(&format!("/opt/{program}"))
        })
        .filter_map(|(size, _)| size.parse::<u64>().ok())
        .sum()
}

/// The sequence number in a reading's body, which is JSON or JSON in a text.
fn sequence(body: &serde_json::Value) -> Option<u64> {
    let parsed = match body {
        serde_json::Value::String(text) => serde_json::from_str(text).ok()?,
        other => other.clone(),
    };
    parsed.get("seq")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sequence: &[u64], end: &str) -> String {
        let line = |seq: &u64| {
            let body = format!("{{\\\"seq\\\":{seq}}}");
            format!("reading: {{\"moduleId\":\"host-sensor\",\"body\":\"{body}\"}}\r\n")
        };
        sequence.iter().map(line).collect::<String>() + end
    }

    #[test]
    fn only_a_whole_run_is_green() {
        let monitors = "memory: Pss: 9 kB /opt/selvedge-monitor run\r\n";
        let end = format!("{monitors}up ended with 0\r\nnothing is left\r\n");
        let end = end.as_str();
        judge(&said(&[1, 2, 3, 4, 5, 6], end)).expect("whole");
        judge(&said(&[1, 2, 4, 5, 6], end)).expect_err("a reading is missing");
        judge(&said(&[1, 2], end)).expect_err("too few");
        judge(&said(&[1, 2, 3, 4, 5, 6], "up ended with 1\nnothing is left\n"))
            .expect_err("bad end");
        judge(&said(&[1, 2, 3, 4, 5, 6], "up ended with 0\n12\n")).expect_err("left behind");
        let folder = format!("{end}left behind: /run/selvedge\r\n");
        judge(&said(&[1, 2, 3, 4, 5, 6], &folder)).expect_err("a folder is left");
    }

    #[test]
    fn memory_is_added_up_by_program() {
        let printed = "memory: Pss:   120 kB selvedge up --images x\r\n\
            memory: Pss:  30 kB /opt/selvedge-edge engine\nmemory: Pss: 5 kB selvedge-edge run\n";
        assert_eq!(memory(printed, "selvedge "), 120);
        assert_eq!(memory(printed, "selvedge-edge "), 35);
    }
}
