//! From two samples of counters to one reading.
//!
//! Counters only grow, until they do not: they wrap at 32 bits on small machines, start again
//! with a device that was plugged anew, and `iowait` is known to step back. Such a step never
//! becomes a rate.

use sdk::{Tick, WallTime};
use serde::Serialize;

use crate::counters::{Counters, CpuTimes, Transfer};

/// Positions in [`CpuTimes`] that mean "did nothing": idle and iowait.
const IDLE: [usize; 2] = [3, 4];
/// Counters of 32 bits start again here.
const WRAP: u64 = 1 << 32;

/// Counters and when they were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// When, for rates.
    pub tick: Tick,
    /// When, for people.
    pub wall: WallTime,
    /// What was read.
    pub counters: Counters,
}

/// One reading, as it is sent. Absent numbers are `null`: not measured, which is not zero.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// Counts from 1 within a run; a gap is a reading that was never sent.
    pub seq: u64,
    /// Changes whenever the module starts.
    pub run: Box<str>,
    /// When the second sample was taken, RFC 3339 in UTC.
    pub time: String,
    /// How busy the processor was.
    pub cpu: Cpu,
    /// Memory at the end.
    pub memory: Memory,
    /// All whole disks together.
    pub disk: Disk,
    /// All outward interfaces together.
    pub network: Network,
    /// Waiting and running tasks.
    pub load: Load,
}

/// How busy the processor was, in percent of the time between the samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// All cores together, 0 to 100.
    pub percent: Option<f64>,
    /// Each core by its number, 0 to 100; `null` where a core is off line.
    pub cores: Vec<Option<f64>>,
}

/// Memory in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// All there is.
    pub total_bytes: u64,
    /// What programs could still get.
    pub available_bytes: u64,
    /// The rest, in percent of all.
    pub used_percent: Option<f64>,
    /// Swap space that is used.
    pub swap_used_bytes: u64,
}

/// Bytes a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Read.
    pub read_bytes_per_second: Option<f64>,
    /// Written.
    pub written_bytes_per_second: Option<f64>,
}

/// Bytes a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Received.
    pub received_bytes_per_second: Option<f64>,
    /// Sent.
    pub sent_bytes_per_second: Option<f64>,
}

/// Load averages.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Over one minute.
    pub one: f64,
    /// Over five minutes.
    pub five: f64,
    /// Over fifteen minutes.
    pub fifteen: f64,
}

impl Reading {
    /// What happened from `before` to `after`.
    pub fn between(before: &Sample, after: &Sample, run: &str, seq: u64) -> Self {
        let (old, new) = (&before.counters, &after.counters);
        let seconds = after.tick.since(before.tick).as_secs_f64();
        let rate = |bytes: Option<u64>| {
            bytes.filter(|_| seconds > 0.0).map(|bytes| round(real(bytes) / seconds))
        };
        let pairs = |old: &Devices, new: &Devices| -> Vec<(Transfer, Transfer)> {
            new.iter().filter_map(|(name, new)| Some((*old.get(name)?, *new))).collect()
        };
        let disks = pairs(&old.disks, &new.disks);
        let interfaces = pairs(&old.interfaces, &new.interfaces);
        let [one, five, fifteen] = new.load;
        Self {
            seq,
            run: run.into(),
            time: after.wall.to_string(),
            cpu: cpu(old, new),
            memory: memory(new),
            disk: Disk {
                read_bytes_per_second: rate(grown(&disks, |all| all.in_bytes, SECTORS_WRAP)),
                written_bytes_per_second: rate(grown(&disks, |all| all.out_bytes, SECTORS_WRAP)),
            },
            network: Network {
                received_bytes_per_second: rate(grown(&interfaces, |all| all.in_bytes, WRAP)),
                sent_bytes_per_second: rate(grown(&interfaces, |all| all.out_bytes, WRAP)),
            },
            load: Load { one, five, fifteen },
        }
    }
}

type Devices = std::collections::BTreeMap<Box<str>, Transfer>;

/// Disks count sectors, so their bytes wrap later.
const SECTORS_WRAP: u64 = WRAP * 512;

fn cpu(old: &Counters, new: &Counters) -> Cpu {
    let last = new.cpu.cores.keys().next_back().copied();
    let cores = last.map_or_else(Vec::new, |last| {
        (0..=last)
            .map(|core| busy_percent(*old.cpu.cores.get(&core)?, *new.cpu.cores.get(&core)?))
            .collect()
    });
    Cpu { percent: busy_percent(old.cpu.total, new.cpu.total), cores }
}

/// `None` if no tick passed.
fn busy_percent(old: CpuTimes, new: CpuTimes) -> Option<f64> {
    let (mut busy, mut all) = (0_u64, 0_u64);
    for (position, (old, new)) in old.0.into_iter().zip(new.0).enumerate() {
        let ticks = new.saturating_sub(old);
        all = all.saturating_add(ticks);
        if !IDLE.contains(&position) {
            busy = busy.saturating_add(ticks);
        }
    }
    (all > 0).then(|| round(100.0 * real(busy) / real(all)))
}

fn memory(new: &Counters) -> Memory {
    let memory = new.memory;
    let used = memory.total_bytes.saturating_sub(memory.available_bytes);
    Memory {
        total_bytes: memory.total_bytes,
        available_bytes: memory.available_bytes,
        used_percent: (memory.total_bytes > 0)
            .then(|| round(100.0 * real(used) / real(memory.total_bytes))),
        swap_used_bytes: memory.swap_used_bytes,
    }
}

/// The growth of all devices whose growth is known; `None` if there is no such device.
fn grown(
    devices: &[(Transfer, Transfer)],
    field: impl Fn(&Transfer) -> u64,
    wrap: u64,
) -> Option<u64> {
    devices
        .iter()
        .filter_map(|(old, new)| growth(field(old), field(new), wrap))
        .reduce(u64::saturating_add)
}

/// How much a counter grew that may start again at `wrap`. A step back from the upper half of
/// the range to the lower half is a wrap; any other is a device that started anew, and nobody
/// knows what it moved before.
pub fn growth(old: u64, new: u64, wrap: u64) -> Option<u64> {
    if new >= old {
        return Some(new - old);
    }
    (old < wrap && old >= wrap / 2 && new < wrap / 2).then(|| wrap - old + new)
}

#[expect(clippy::cast_precision_loss, reason = "rates are rounded to two digits anyway")]
fn real(count: u64) -> f64 {
    count as f64
}

/// Two digits behind the point; more would be noise.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::counters::CpuCounters;

    fn sample(millis: u64, counters: Counters) -> Sample {
        Sample { tick: Tick(millis * 1_000_000), wall: WallTime(0), counters }
    }

    fn disks(entries: &[(&str, u64, u64)]) -> Counters {
        let disks = entries
            .iter()
            .map(|(name, read, written)| {
                ((*name).into(), Transfer { in_bytes: *read, out_bytes: *written })
            })
            .collect();
        Counters { disks, ..Counters::default() }
    }

    #[test]
    fn a_reading_has_the_shape_that_is_promised() {
        let times = |busy, idle| CpuTimes([busy, 0, 0, idle, 0, 0, 0, 0]);
        let counters = |scale: u64| Counters {
            cpu: CpuCounters {
                total: times(30 * scale, 70 * scale),
                cores: [(0, times(10 * scale, 90 * scale)), (2, times(50 * scale, 50 * scale))]
                    .into(),
            },
            memory: crate::counters::Memory {
                total_bytes: 1000,
                available_bytes: 750,
                swap_used_bytes: 5,
            },
            disks: [("sda".into(), Transfer { in_bytes: 100 * scale, out_bytes: 50 * scale })]
                .into(),
            interfaces: [("eth0".into(), Transfer { in_bytes: scale, out_bytes: 2 * scale })]
                .into(),
            load: [0.5, 0.25, 0.1],
        };
        let reading =
            Reading::between(&sample(0, counters(1)), &sample(2000, counters(2)), "r1", 7);
        let expected = serde_json::json!({
            "seq": 7,
            "run": "r1",
            "time": "1970-01-01T00:00:00.000Z",
            "cpu": { "percent": 30.0, "cores": [10.0, null, 50.0] },
            "memory": {
                "totalBytes": 1000, "availableBytes": 750, "usedPercent": 25.0, "swapUsedBytes": 5,
            },
            "disk": { "readBytesPerSecond": 50.0, "writtenBytesPerSecond": 25.0 },
            "network": { "receivedBytesPerSecond": 0.5, "sentBytesPerSecond": 1.0 },
            "load": { "one": 0.5, "five": 0.25, "fifteen": 0.1 },
        });
        assert_eq!(serde_json::to_value(reading).unwrap(), expected);
    }

    #[test]
    fn a_step_back_is_a_wrap_or_a_new_start_and_never_a_rate() {
        let check =
            |old, new, expected| assert_eq!(growth(old, new, WRAP), expected, "{old} {new}");
        check(5, 9, Some(4));
        check(WRAP - 10, 20, Some(30));
        check(WRAP / 2, 0, Some(WRAP / 2));
        check(100, 20, None);
        check(WRAP - 10, WRAP - 20, None);
        check(WRAP + 10, 20, None);
        check(u64::MAX, 0, None);
    }

    #[test]
    fn devices_that_come_go_or_start_anew_do_not_spoil_the_others() {
        let rate = |old: &[(&str, u64, u64)], new: &[(&str, u64, u64)]| {
            let reading =
                Reading::between(&sample(0, disks(old)), &sample(1000, disks(new)), "r", 1);
            (reading.disk.read_bytes_per_second, reading.disk.written_bytes_per_second)
        };
        assert_eq!(rate(&[("a", 1, 1)], &[("a", 2, 3), ("b", 900, 900)]), (Some(1.0), Some(2.0)));
        assert_eq!(rate(&[("a", 1, 1), ("b", 9, 9)], &[("a", 2, 3)]), (Some(1.0), Some(2.0)));
        assert_eq!(
            rate(&[("a", 0, 0), ("b", 900, 0)], &[("a", 1, 0), ("b", 7, 4)]),
            (Some(1.0), Some(4.0))
        );
        assert_eq!(rate(&[("a", 9, 9)], &[("a", 1, 1)]), (None, None));
        assert_eq!(rate(&[], &[]), (None, None));
    }

    #[test]
    fn no_time_and_no_ticks_give_no_numbers() {
        let still = sample(5, disks(&[("a", 1, 1)]));
        let reading = Reading::between(&still, &still, "r", 1);
        assert_eq!(reading.disk.read_bytes_per_second, None);
        assert_eq!((reading.cpu.percent, reading.cpu.cores), (None, vec![]));
        assert_eq!(reading.memory.used_percent, None);
    }

    #[test]
    fn a_field_that_steps_back_counts_as_no_time() {
        let old = CpuTimes([10, 0, 0, 100, 50, 0, 0, 0]);
        let new = CpuTimes([20, 0, 0, 130, 40, 0, 0, 0]);
        assert_eq!(busy_percent(old, new), Some(25.0));
    }

    proptest! {
        #[test]
        fn percentages_and_rates_stay_in_range(old: [u64; 8], new: [u64; 8], bytes: [u64; 4]) {
            if let Some(percent) = busy_percent(CpuTimes(old), CpuTimes(new)) {
                prop_assert!((0.0..=100.0).contains(&percent), "{percent}");
            }
            let [a, b, c, d] = bytes;
            let reading = Reading::between(
                &sample(0, disks(&[("x", a, b)])),
                &sample(1, disks(&[("x", c, d)])),
                "r",
                1,
            );
            for rate in [reading.disk.read_bytes_per_second, reading.disk.written_bytes_per_second] {
                prop_assert!(rate.is_none_or(|rate| rate.is_finite() && rate >= 0.0));
            }
        }
    }
}
