//! What the kernel counts, as `/proc` tells it. Source: `proc(5)`, kernel
//! `Documentation/admin-guide/iostats.rst`.
//!
//! Lines and fields that the kernel may add are passed over, for that is its promise to
//! readers; what is needed and cannot be read is an error that names file and line.

use std::collections::BTreeMap;

use thiserror::Error;

/// Most cores, disks or interfaces that are read from one file.
pub const ENTRIES_MAX: usize = 4096;
/// Sectors in `diskstats` have this many bytes, whatever the disk says.
const SECTOR_BYTES: u64 = 512;
const KIBIBYTE: u64 = 1024;

/// Why the text of a file cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UnreadableCounters {
    /// A line that every kernel writes is not there.
    #[error("{file}: there is no {name:?}")]
    Missing {
        /// The file below `/proc`.
        file: &'static str,
        /// What was looked for.
        name: &'static str,
    },
    /// A field is missing or is no number.
    #[error("{file}, line {line}: field {field} is missing or no number")]
    Field {
        /// The file below `/proc`.
        file: &'static str,
        /// Which line, from 1.
        line: usize,
        /// Which field, from 1.
        field: usize,
    },
    /// More entries than any machine has.
    #[error("{file}: more than {ENTRIES_MAX} entries")]
    TooMany {
        /// The file below `/proc`.
        file: &'static str,
    },
}

/// Everything of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// From `stat`.
    pub cpu: CpuCounters,
    /// From `meminfo`.
    pub memory: Memory,
    /// From `diskstats`: whole disks by name.
    pub disks: BTreeMap<Box<str>, Transfer>,
    /// From `net/dev`: interfaces that face outwards, by name.
    pub interfaces: BTreeMap<Box<str>, Transfer>,
    /// From `loadavg`: over 1, 5 and 15 minutes.
    pub load: [f64; 3],
}

/// Clock ticks by what the processor did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// All cores together.
    pub total: CpuTimes,
    /// Each core that is on line, by number.
    pub cores: BTreeMap<u16, CpuTimes>,
}

/// Ticks: user, nice, system, idle, iowait, irq, softirq, steal. The guest fields behind them
/// are part of user and nice already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes(pub [u64; 8]);

/// Memory in bytes, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All there is.
    pub total_bytes: u64,
    /// What programs could still get.
    pub available_bytes: u64,
    /// Swap space that is used.
    pub swap_used_bytes: u64,
}

/// Bytes since the device appeared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Read from the disk, or received.
    pub in_bytes: u64,
    /// Written to the disk, or sent.
    pub out_bytes: u64,
}

/// Reads `stat`.
///
/// # Errors
/// [`UnreadableCounters`] if the line `cpu` is missing or broken.
pub fn parse_stat(text: &str) -> Result<CpuCounters, UnreadableCounters> {
    const FILE: &str = "stat";
    let mut total = None;
    let mut cores = BTreeMap::new();
    for (line, text) in numbered(text) {
        let mut words = text.split_ascii_whitespace();
        let Some(name) = words.next().and_then(|word| word.strip_prefix("cpu")) else { continue };
        let mut times = CpuTimes::default();
        for (index, slot) in times.0.iter_mut().enumerate() {
            match words.next().map(str::parse) {
                Some(Ok(ticks)) => *slot = ticks,
                // Kernels before 2.6.33 end after fewer fields; idle is the fourth.
                None if index >= 4 => break,
                _ => return Err(UnreadableCounters::Field { file: FILE, line, field: index + 2 }),
            }
        }
        if name.is_empty() {
            total = Some(times);
            continue;
        }
        let core: u16 =
            name.parse().map_err(|_| UnreadableCounters::Field { file: FILE, line, field: 1 })?;
        cores.insert(core, times);
        bounded(FILE, cores.len())?;
    }
    let total = total.ok_or(UnreadableCounters::Missing { file: FILE, name: "cpu" })?;
    Ok(CpuCounters { total, cores })
}

/// Reads `meminfo`.
///
/// # Errors
/// [`UnreadableCounters`] if the total is missing, or a line that is needed is broken.
pub fn parse_meminfo(text: &str) -> Result<Memory, UnreadableCounters> {
    const FILE: &str = "meminfo";
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for (line, text) in numbered(text) {
        let Some((name, value)) = text.split_once(':') else { continue };
        let needed =
            ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree"];
        if needed.contains(&name) {
            let kibibytes = number(value.split_ascii_whitespace().next(), FILE, line, 2)?;
            found.insert(name, kibibytes.saturating_mul(KIBIBYTE));
        }
    }
    let bytes = |name: &str| found.get(name).copied();
    let sum =
        |names: [&str; 3]| names.into_iter().filter_map(bytes).fold(0_u64, u64::saturating_add);
    let total_bytes =
        bytes("MemTotal").ok_or(UnreadableCounters::Missing { file: FILE, name: "MemTotal" })?;
    // Kernels before 3.14 do not estimate what is available.
    let available = bytes("MemAvailable").unwrap_or_else(|| sum(["MemFree", "Buffers", "Cached"]));
    let swap = |name: &str| bytes(name).unwrap_or_default();
    Ok(Memory {
        total_bytes,
        available_bytes: available.min(total_bytes),
        swap_used_bytes: swap("SwapTotal").saturating_sub(swap("SwapFree")),
    })
}

/// Reads `diskstats`: whole disks only, so that no byte is counted twice.
///
/// # Errors
/// [`UnreadableCounters`] if a line is broken.
pub fn parse_diskstats(text: &str) -> Result<BTreeMap<Box<str>, Transfer>, UnreadableCounters> {
    const FILE: &str = "diskstats";
    let mut all = BTreeMap::new();
    for (line, text) in numbered(text) {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let field = |index: usize| number(words.get(index).copied(), FILE, line, index + 1);
        let name = words.get(2).copied();
        let name = name.ok_or(UnreadableCounters::Field { file: FILE, line, field: 3 })?;
        let transfer = Transfer {
            in_bytes: field(5)?.saturating_mul(SECTOR_BYTES),
            out_bytes: field(9)?.saturating_mul(SECTOR_BYTES),
        };
        all.insert(Box::from(name), transfer);
        bounded(FILE, all.len())?;
    }
    let names: Vec<Box<str>> = all.keys().cloned().collect();
    all.retain(|name, _| !is_layer(name) && !names.iter().any(|disk| is_part(name, disk)));
    Ok(all)
}

/// Devices in memory, or made of other devices that are counted themselves.
fn is_layer(name: &str) -> bool {
    ["loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd"]
        .into_iter()
        .filter_map(|layer| name.strip_prefix(layer))
        .any(|rest| rest.starts_with(|sign: char| sign.is_ascii_digit()))
}

/// Whether `name` is a partition of `disk`: `sda1` of `sda`, `nvme0n1p2` of `nvme0n1`.
fn is_part(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else { return false };
    let number = if disk.ends_with(|sign: char| sign.is_ascii_digit()) {
        rest.strip_prefix('p').unwrap_or_default()
    } else {
        rest
    };
    !number.is_empty() && number.bytes().all(|sign| sign.is_ascii_digit())
}

/// Reads `net/dev`: interfaces that face outwards, so that no byte is counted twice.
///
/// # Errors
/// [`UnreadableCounters`] if a line is broken.
pub fn parse_net_dev(text: &str) -> Result<BTreeMap<Box<str>, Transfer>, UnreadableCounters> {
    const FILE: &str = "net/dev";
    let mut all = BTreeMap::new();
    // Two lines of headings.
    for (line, text) in numbered(text).skip(2) {
        // An alias has a colon in its name, numbers have none.
        let Some((name, numbers)) = text.rsplit_once(':') else { continue };
        let words: Vec<&str> = numbers.split_ascii_whitespace().collect();
        let field = |index: usize| number(words.get(index).copied(), FILE, line, index + 2);
        let transfer = Transfer { in_bytes: field(0)?, out_bytes: field(8)? };
        let name = name.trim();
        if !is_inward(name) {
            all.insert(Box::from(name), transfer);
        }
        bounded(FILE, all.len())?;
    }
    Ok(all)
}

/// The loopback, and bridges and pairs between containers, whose outward traffic the physical
/// interface counts again.
fn is_inward(name: &str) -> bool {
    const PREFIXES: [&str; 6] = ["veth", "docker", "br-", "virbr", "cni", "selvedge"];
    name == "lo" || PREFIXES.into_iter().any(|prefix| name.starts_with(prefix))
}

/// Reads `loadavg`.
///
/// # Errors
/// [`UnreadableCounters`] if one of the first three fields is no number.
pub fn parse_loadavg(text: &str) -> Result<[f64; 3], UnreadableCounters> {
    let mut words = text.split_ascii_whitespace();
    let mut load = [0.0; 3];
    for (index, slot) in load.iter_mut().enumerate() {
        *slot = words
            .next()
            .and_then(|word| word.parse().ok())
            .filter(|value: &f64| value.is_finite() && *value >= 0.0)
            .ok_or(UnreadableCounters::Field { file: "loadavg", line: 1, field: index + 1 })?;
    }
    Ok(load)
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn number(
    word: Option<&str>,
    file: &'static str,
    line: usize,
    field: usize,
) -> Result<u64, UnreadableCounters> {
    word.and_then(|word| word.parse().ok()).ok_or(UnreadableCounters::Field { file, line, field })
}

fn bounded(file: &'static str, entries: usize) -> Result<(), UnreadableCounters> {
    if entries > ENTRIES_MAX { Err(UnreadableCounters::TooMany { file }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
