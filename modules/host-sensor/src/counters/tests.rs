use proptest::prelude::*;

use super::*;

const STAT: &str = "\
cpu  10132153 290696 3084719 46828483 16683 0 25195 0 175628 0
cpu0 1393280 32966 572056 13343292 6130 0 17875 0 23933 0
cpu12 1 2 3 4 5 6 7 8 9 10
intr 199292 69 0 0
ctxt 1990473
btime 1062191376
";

#[test]
fn stat_gives_total_and_cores_by_number_without_the_guest_fields() {
    let cpu = parse_stat(STAT).unwrap();
    assert_eq!(cpu.total.0, [10_132_153, 290_696, 3_084_719, 46_828_483, 16_683, 0, 25_195, 0]);
    assert_eq!(cpu.cores.keys().copied().collect::<Vec<_>>(), [0, 12]);
    assert_eq!(cpu.cores[&12].0, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn stat_is_read_with_four_fields_and_refused_with_three() {
    assert_eq!(parse_stat("cpu 1 2 3 4\n").unwrap().total.0, [1, 2, 3, 4, 0, 0, 0, 0]);
    let field = |line, field| Err(UnreadableCounters::Field { file: "stat", line, field });
    assert_eq!(parse_stat("x\ncpu 1 2 3\n"), field(2, 5));
    assert_eq!(parse_stat("cpu 1 2 -3 4\n"), field(1, 4));
    assert_eq!(parse_stat("cpu 1 2 3 4\ncpufreq 1 2 3 4\n"), field(2, 1));
    let missing = UnreadableCounters::Missing { file: "stat", name: "cpu" };
    assert_eq!(parse_stat("cpu0 1 2 3 4\n"), Err(missing.clone()));
    assert_eq!(missing.to_string(), "stat: there is no \"cpu\"");
}

#[test]
fn meminfo_is_in_bytes_and_old_kernels_estimate_what_is_available() {
    let check = |text: &str, expected: (u64, u64, u64)| {
        let memory = parse_meminfo(text).unwrap();
        let got = (memory.total_bytes, memory.available_bytes, memory.swap_used_bytes);
        assert_eq!(got, expected, "{text}");
    };
    check("MemTotal:  8 kB\nMemFree: 1 kB\nMemAvailable:  3 kB\n", (8192, 3072, 0));
    check("MemTotal: 8 kB\nMemFree: 1 kB\nBuffers: 1 kB\nCached: 2 kB\n", (8192, 4096, 0));
    check(
        "MemTotal: 8 kB\nMemAvailable: 99 kB\nSwapTotal: 9 kB\nSwapFree: 4 kB",
        (8192, 8192, 5120),
    );
    check("MemTotal: 8 kB\nSwapTotal: 1 kB\nSwapFree: 4 kB\nHuge: x", (8192, 0, 0));
    let missing = UnreadableCounters::Missing { file: "meminfo", name: "MemTotal" };
    assert_eq!(parse_meminfo("MemFree: 1 kB"), Err(missing));
    let broken = UnreadableCounters::Field { file: "meminfo", line: 1, field: 2 };
    assert_eq!(parse_meminfo("MemTotal: lots"), Err(broken.clone()));
    assert_eq!(broken.to_string(), "meminfo, line 1: field 2 is missing or no number");
}

#[test]
fn diskstats_counts_whole_disks_once() {
    let text = "\
   8       0 sda 100 1 2000 3 200 5 4000 7 0 8 9 0 0 0 0 0 0
   8       1 sda1 90 1 1900 3 190 5 3900 7 0 8 9
 259       0 nvme0n1 1 0 10 0 1 0 20 0 0 0 0
 259       1 nvme0n1p1 1 0 10 0 1 0 20 0 0 0 0
 202       1 xvdb1 1 0 3 0 1 0 4 0 0 0 0
   7       0 loop0 1 0 10 0 1 0 20 0 0 0 0
 253       0 dm-0 1 0 10 0 1 0 20 0 0 0 0
   9     127 md127 1 0 10 0 1 0 20 0 0 0 0
 251       0 zram0 1 0 10 0 1 0 20 0 0 0 0

";
    let disks = parse_diskstats(text).unwrap();
    let names: Vec<&str> = disks.keys().map(|name| &**name).collect();
    // xvdb1 has no xvdb beside it: some machines are given bare partitions.
    assert_eq!(names, ["nvme0n1", "sda", "xvdb1"]);
    assert_eq!(disks["sda"], Transfer { in_bytes: 2000 * 512, out_bytes: 4000 * 512 });
    let broken = UnreadableCounters::Field { file: "diskstats", line: 2, field: 10 };
    assert_eq!(parse_diskstats("8 0 sda 1 1 1 1 1 1 1\n8 1 sdb 1 1 1 1"), Err(broken));
}

#[test]
fn net_dev_counts_what_faces_outwards() {
    let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo: 2776770   11307    0    0    0     0          0         0  2776770   11307    0    0
  eth0:1215645    2751    0    0    0     0          0         0  1782404    4324    0    0
eth0:1: 7 0 0 0 0 0 0 0 8 0 0 0
  veth3: 7 0 0 0 0 0 0 0 8 0 0 0
  br-ab: 7 0 0 0 0 0 0 0 8 0 0 0
";
    let found = parse_net_dev(text).unwrap();
    assert_eq!(found.keys().map(|name| &**name).collect::<Vec<_>>(), ["eth0", "eth0:1"]);
    assert_eq!(found["eth0"], Transfer { in_bytes: 1_215_645, out_bytes: 1_782_404 });
    let broken = UnreadableCounters::Field { file: "net/dev", line: 3, field: 10 };
    assert_eq!(parse_net_dev("a\nb\neth0: 1 2 3"), Err(broken));
    assert!(parse_net_dev("").unwrap().is_empty());
}

#[test]
fn loadavg_has_three_numbers() {
    assert_eq!(parse_loadavg("0.20 0.18 12.12 1/80 11206\n"), Ok([0.20, 0.18, 12.12]));
    for (text, field) in [("", 1), ("1.0 x", 2), ("1 2 nan", 3), ("-1 2 3", 1)] {
        let expected = UnreadableCounters::Field { file: "loadavg", line: 1, field };
        assert_eq!(parse_loadavg(text), Err(expected), "{text:?}");
    }
}

#[test]
fn absurdly_many_entries_are_refused() {
    let lines: Vec<String> =
        (0..=ENTRIES_MAX).map(|n| format!("8 {n} s{n}x 1 1 1 1 1 1 1")).collect();
    assert_eq!(
        parse_diskstats(&lines.join("\n")),
        Err(UnreadableCounters::TooMany { file: "diskstats" })
    );
}

#[test]
fn the_files_of_this_machine_are_read() {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{name}")).unwrap();
    let cpu = parse_stat(&read("stat")).unwrap();
    assert!(!cpu.cores.is_empty());
    assert!(parse_meminfo(&read("meminfo")).unwrap().total_bytes > 0);
    parse_diskstats(&read("diskstats")).unwrap();
    parse_net_dev(&read("net/dev")).unwrap();
    parse_loadavg(&read("loadavg")).unwrap();
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "(cpu|cpu1|MemTotal:|8 0 sda|eth0:|[0-9]{1,25}|[ \n:.x-]){0,40}") {
        parse_stat(&text).ok();
        parse_meminfo(&text).ok();
        parse_diskstats(&text).ok();
        parse_net_dev(&text).ok();
        parse_loadavg(&text).ok();
    }
}
