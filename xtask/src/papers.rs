//! What README says in numbers is filled in from what measured it: the tree and the page of
//! benchmarks. `cargo xtask papers` fills, `tidy` says when somebody should.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{planted, root, say};

const README: &str = "README.md";
const BENCHMARKS: &str = "docs/benchmarks.md";
/// Pages whose citations are looked up.
const PAGES: &[&str] = &[README, "ARCHITECTURE.md", "docs/console.md", "docs/planted.md"];
/// Underscores that make a word in backticks the name of a test.
const TEST_UNDERSCORES_MIN: usize = 4;
/// Numbers that are constants of the tree: text before, text after, file, constant.
const CONSTANTS: &[(&str, &str, &str, &str)] = &[
    ("finds it within ", " seeds or", "xtask/src/planted.rs", "SEEDS_MAX"),
    ("console's budgets: ", " kB of brotli", "console/scripts/pack.mjs", "BUDGET_BYTES"),
    ("of which at least ", " within 2 ms", "crates/blackbox/tests/kill_edge.rs", "AFTER_ACK_MIN"),
];
/// Constants of the tree that README says in thousands.
const IN_THOUSANDS: &[&str] = &["BUDGET_BYTES"];

/// A line of README that begins with `start` is `whole`, or the number between `before` and
/// `after` is `value`.
enum Fact {
    Row { start: String, whole: String },
    Number { before: String, after: String, value: String },
}

/// Fills README in.
///
/// # Errors
/// If a page cannot be read or lacks what it should say.
pub(crate) fn fill() -> Result<()> {
    let path = root().join(README);
    let told = fs::read_to_string(&path).context("reading README.md")?;
    let filled = filled(&told, &facts(&root())?)?;
    if filled == told {
        say("README.md says what was measured");
        return Ok(());
    }
    fs::write(&path, filled).context("writing README.md")?;
    say("README.md is filled in");
    Ok(())
}

/// Finds numbers and citations that are not what the tree says.
///
/// # Errors
/// If a page cannot be read or lacks what it should say.
pub(crate) fn check(
    root: &Path,
    texts: &BTreeMap<String, String>,
    faults: &mut Vec<String>,
) -> Result<()> {
    let told = fs::read_to_string(root.join(README)).context("reading README.md")?;
    let filled = filled(&told, &facts(root)?)?;
    for (told, measured) in told.lines().zip(filled.lines()).filter(|(told, it)| told != it) {
        faults.push(format!(
            "{README}: `{told}` should be `{measured}`; `cargo xtask papers` fills it in"
        ));
    }
    let [simulator, _, _, tests] = planted::counts();
    for (heading, rows) in
        [("| sabotage that the simulator finds |", simulator), ("| sabotage | found by", tests)]
    {
        let found = rows_below(&told, heading);
        if found != rows {
            faults.push(format!("{README}: {found} rows under `{heading}`, {rows} faults listed"));
        }
    }
    let functions: BTreeSet<&str> = texts.values().flat_map(|text| functions(text)).collect();
    for page in PAGES {
        // A page that nobody has written yet cites nothing.
        let Ok(text) = fs::read_to_string(root.join(page)) else { continue };
        for cited in spans(&text) {
            if is_test(cited) && !functions.contains(cited) {
                faults.push(format!("{page}: there is no test `{cited}`"));
            }
            if is_path(cited) && !exists(root, cited) {
                faults.push(format!("{page}: there is no `{cited}`"));
            }
        }
        let path = root.join(page);
        let beside = path.parent().unwrap_or(root);
        for target in links(&text).filter(|target| !exists(beside, target)) {
            faults.push(format!("{page}: the link to {target} leads nowhere"));
        }
    }
    Ok(())
}

fn facts(root: &Path) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    let mut number = |before: &str, after: &str, value: String| {
        facts.push(Fact::Number { before: before.to_owned(), after: after.to_owned(), value });
    };
    number("It is ", " kB (brotli)", thousands(compressed(&root.join("console/dist"))?));
    let [simulator, seldom, both, tests] = planted::counts();
    number("The simulator finds ", " of them, ", simulator.to_string());
    number(" of them, ", " of these also when", seldom.to_string());
    number("Tests of their own find ", " of the same", both.to_string());
    number(" of the same, and ", " that a scenario cannot show", tests.to_string());
    for (before, after, file, name) in CONSTANTS {
        let text =
            fs::read_to_string(root.join(file)).with_context(|| format!("reading {file}"))?;
        let value = constant(&text, name).with_context(|| format!("{file} has no {name}"))?;
        let shown = if IN_THOUSANDS.contains(name) { thousands(value) } else { grouped(value) };
        number(before, after, shown);
    }
    let page = fs::read_to_string(root.join(BENCHMARKS)).context("reading the benchmarks")?;
    let (met, missed) = (page.matches("\n- **Met**").count(), page.matches("\n- **Missed").count());
    // Each verdict stands in its section and in the summary.
    number("Targets missed: ", " of ", (missed / 2).to_string());
    number(" of ", "; the page says why", usize::midpoint(met, missed).to_string());
    facts.extend(measured(&Page(&page))?);
    Ok(facts)
}

/// The rows of README's tables of numbers.
fn measured(page: &Page<'_>) -> Result<Vec<Fact>> {
    let mut rows = Vec::new();
    let ingest =
        [("hub", "200 × 16", ""), ("router", "50 × 64", " (a device has at most 50 modules)")]
            .into_iter()
            .chain([("hub", "1 × 16", ""), ("hub", "1 × 1", "")]);
    for (server, load, note) in ingest {
        let ours = page.cells(&[load, &format!("selvedge {server}")])?;
        let peer = page.cells(&[load, "mosquitto"])?;
        let ratio = figure(&ours, 3)?;
        let ratio = if ratio < 1.0 { format!("{ratio:.2}") } else { format!("{ratio:.1}") };
        rows.push(row(
            format!("{server}, {load}{note}"),
            &format!("{} msg/s", rate(figure(&ours, 2)?)),
            &format!("{} msg/s | {ratio}", rate(figure(&peer, 2)?)),
        ));
    }
    let of = |start: &[&str], at: usize| page.cells(start).and_then(|cells| figure(&cells, at));
    let start = of(&["selvedge: start of a created container"], 2)?;
    let runc = of(&["`runc run --detach` of a bundle"], 2)?;
    let docker = of(&["Docker: start of a created container, by its API"], 2)?;
    rows.push(row(
        "start of a created container, until its program runs".to_owned(),
        &format!("{start:.0} ms"),
        &format!("{runc:.0} ms `runc run`, {docker:.0} ms Docker"),
    ));
    rows.push(row(
        "a new module, from the manifest at the hub until its program runs".to_owned(),
        &format!("{:.0} ms", of(&["selvedge: a new module, bridge, the default"], 1)?),
        &format!(
            "{:.0} ms Docker, create and start by its API",
            of(&["Docker: create and start by its API, host network"], 1)?
        ),
    ));
    rows.push(row(
        "start of the runtime until its API answers, until 3 modules run".to_owned(),
        &format!(
            "{:.0} ms, {:.0} ms",
            of(&["the workload API answers a module"], 1)?,
            of(&["all 3 modules run"], 1)?
        ),
        "",
    ));
    rows.push(row(
        "whole device stack at rest with 3 modules, PSS without the modules".to_owned(),
        &format!("{:.1} MiB", of(&["selvedge", "**all but modules**"], 3)?),
        &format!(
            "{:.1} MiB dockerd, containerd and shims",
            of(&["Docker", "**all but modules**"], 3)?
        ),
    ));
    let idle = page.cells(&["selvedge hub"])?;
    rows.push(row(
        format!("hub, per idle TLS connection ({})", grouped(whole(figure(&idle, 1)?))),
        &format!("{:.1} KiB", figure(&idle, 3)?),
        &format!("{:.1} KiB mosquitto", of(&["mosquitto"], 3)?),
    ));
    let live = page.cells(&["200"])?;
    rows.push(row(
        format!("hub, per browser's live stream (200, of which {} never read)", figure(&live, 1)?),
        &format!("{:.1} KiB", figure(&live, 2)?),
        "",
    ));
    Ok(rows)
}

/// A row of README; it is found by what stands before its first bracket.
fn row(what: String, ours: &str, peer: &str) -> Fact {
    let start = what.split(" (").next().unwrap_or_default();
    let peer = if peer.is_empty() { String::new() } else { format!(" {peer}") };
    Fact::Row { start: format!("| {start} "), whole: format!("| {what} | {ours} |{peer} |") }
}

/// README with every fact in it.
fn filled(told: &str, facts: &[Fact]) -> Result<String> {
    let mut text = told.to_owned();
    for fact in facts {
        match fact {
            Fact::Row { start, whole } => {
                let at = text.lines().position(|line| line.starts_with(start.as_str()));
                let at = at.with_context(|| format!("README.md has no row `{start}…`"))?;
                let lines = text.lines().enumerate();
                let lines = lines.map(|(place, line)| if place == at { whole } else { line });
                text = lines.fold(String::new(), |text, line| text + line + "\n");
            }
            Fact::Number { before, after, value } => {
                text = with_number(&text, before, after, value).with_context(|| {
                    format!("README.md says nowhere `{before}`, a number, `{after}`")
                })?;
            }
        }
    }
    Ok(text)
}

fn with_number(text: &str, before: &str, after: &str, value: &str) -> Option<String> {
    let is_number = |part: &str| {
        !part.is_empty() && part.chars().all(|sign| sign.is_ascii_digit() || sign == ',')
    };
    text.match_indices(before).find_map(|(at, _)| {
        let (head, rest) = text.split_at_checked(at + before.len())?;
        let (number, tail) = rest.split_once(after)?;
        is_number(number).then(|| format!("{head}{value}{after}{tail}"))
    })
}

/// A page with tables.
struct Page<'a>(&'a str);

impl<'a> Page<'a> {
    /// The cells of the first row that begins with these.
    fn cells(&self, start: &[&str]) -> Result<Vec<&'a str>> {
        let rows = self.0.lines().filter_map(|line| line.strip_prefix("| "));
        rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
            .find(|cells| cells.starts_with(start))
            .with_context(|| format!("{BENCHMARKS} has no row {start:?}"))
    }
}

/// The first number of a cell.
fn figure(cells: &[&str], at: usize) -> Result<f64> {
    let cell = cells.get(at).copied().unwrap_or_default().trim_matches('*');
    let number: String =
        cell.chars().take_while(|sign| sign.is_ascii_digit() || *sign == '.').collect();
    number.parse().with_context(|| format!("no number in cell {at} of {cells:?}"))
}

/// Messages per second, to the thousand.
fn rate(value: f64) -> String {
    grouped(whole(value / 1000.0) * 1000)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded counts")]
fn whole(value: f64) -> u64 {
    value.round().max(0.0) as u64
}

fn thousands(value: u64) -> String {
    grouped((value + 500) / 1000)
}

/// `12,345`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let signs = digits.chars().enumerate();
    signs.fold(String::new(), |mut text, (at, sign)| {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(sign);
        text
    })
}

/// Bytes of all files of `folder` that are packed with brotli.
fn compressed(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += compressed(&entry.path())?;
        } else if entry.path().extension().is_some_and(|ending| ending == "br") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// The value of a constant that is a plain number, in Rust or JavaScript.
fn constant(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| {
        line.split_once(name).is_some_and(|(before, rest)| {
            before.trim_end().ends_with("const") && rest.starts_with([':', ' ', '='])
        })
    })?;
    let (_, value) = line.split_once('=')?;
    let digits: String = value.chars().filter(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// How many rows the table has whose heading begins so.
fn rows_below(text: &str, heading: &str) -> usize {
    let below = text.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    below.take_while(|line| line.starts_with('|')).count()
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("fn ").filter_map(|(at, _)| text.get(at + 3..)?.split(['(', '<']).next())
}

/// What stands in backticks, outside of blocks of code.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines()
        .filter(move |line| {
            let fence = line.starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("](")
        .filter_map(|(at, _)| text.get(at + 2..)?.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

fn is_test(cited: &str) -> bool {
    let plain = |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '_';
    cited.matches('_').count() >= TEST_UNDERSCORES_MIN && cited.chars().all(plain)
}

fn is_path(cited: &str) -> bool {
    ["crates/", "console/", "docs/", "modules/", "xtask/", ".ci/"]
        .iter()
        .any(|start| cited.starts_with(start))
        && !cited.contains(['*', ' '])
}

/// Whether a file or folder is there, also if its ending was left out.
fn exists(root: &Path, cited: &str) -> bool {
    root.join(cited).exists() || root.join(format!("{cited}.rs")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_rows_are_filled_in_where_they_stand() {
        let number = |value: &str| Fact::Number {
            before: "It is ".to_owned(),
            after: " kB".to_owned(),
            value: value.to_owned(),
        };
        let told = "It is late. It is 456 kB of files.\n| hub, 1 × 1 | old |\n";
        let facts = [number("475"), row("hub, 1 × 1".to_owned(), "4,000 msg/s", "0.30")];
        let expected = "It is late. It is 475 kB of files.\n| hub, 1 × 1 | 4,000 msg/s | 0.30 |\n";
        assert_eq!(filled(told, &facts).expect("both are there"), expected);
        assert_eq!(filled(expected, &facts).expect("both are there"), expected);
        filled("nothing", &[number("1")]).expect_err("the number is nowhere");
        filled("nothing", &[row("x".to_owned(), "1", "")]).expect_err("the row is nowhere");
    }

    #[test]
    fn figures_are_read_from_the_rows_of_a_page() {
        let page = Page("| load | server |\n| 1 × 1 | hub | 3980 (3626–4482) | **19.77** |\n");
        let cells = page.cells(&["1 × 1", "hub"]).expect("a row");
        assert_eq!(rate(figure(&cells, 2).expect("a rate")), "4,000");
        assert_eq!(whole(figure(&cells, 3).expect("a size")), 20);
        page.cells(&["1 × 2"]).expect_err("no such row");
        figure(&cells, 1).expect_err("no number");
    }

    #[test]
    fn values_are_read_from_constants() {
        let check = |text: &str, expected| assert_eq!(constant(text, "A_MAX"), expected, "{text}");
        check("const A_MAX: u64 = 12_000;", Some(12_000));
        check("const A_MAX: &str = \"200\";", Some(200));
        check("const A_MAX = 500_000", Some(500_000));
        check("const OTHER_A_MAX: u64 = 1;", None);
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
        assert_eq!(thousands(474_900), "475");
    }

    #[test]
    fn citations_are_tests_and_paths() {
        let text = "`a_test_of_five_words` and `short_one`\n```\n`in_a_block_of_code`\n```\n\
                    `crates/hub`, `crates/*/golden` [page](docs/x.md#part) [web](https://x.y)";
        let cited: Vec<&str> = spans(text).collect();
        assert_eq!(cited.iter().filter(|it| is_test(it)).count(), 1);
        assert_eq!(cited.iter().filter(|it| is_path(it)).count(), 1);
        assert_eq!(rows_below("| a |\n|---|\n| 1 |\n| 2 |\n\n| 3 |\n", "| a"), 2);
        assert!(links(text).eq(["docs/x.md"]));
        assert!(functions("fn a_b() {}\nasync fn c<T>() {}").eq(["a_b", "c"]));
    }
}
