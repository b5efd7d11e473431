//! Which seeds are run: fixed ones, the corpus of those that once failed, and fresh ones that the
//! commit decides.

use anyhow::{Context, Result, bail, ensure};
use testkit::chance::Chance;

use crate::sentence::Sentence;

/// The corpus, one seed a line: the seed, what it does, and why it is there.
pub const CORPUS: &str = include_str!("../seeds.txt");

/// What a seed of the corpus does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It holds.
    Passes,
    /// It breaks this sentence, for a reason that is known and not mended yet.
    Fails(&'static str),
}

/// One seed that is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The seed.
    pub number: u64,
    /// What it is to do.
    pub expected: Expected,
}

impl Seed {
    /// A seed that must hold.
    pub fn passing(number: u64) -> Self {
        Self { number, expected: Expected::Passes }
    }

    /// Whether `outcome` is what is expected of it: its value, or none where it failed as known.
    ///
    /// # Errors
    /// What failed; or that it holds now, so that its line in the corpus is out of date.
    pub fn judge<T>(&self, outcome: Result<T>) -> Result<Option<T>> {
        let Expected::Fails(sentence) = self.expected else { return outcome.map(Some) };
        match outcome {
            Ok(_) => {
                bail!("seed {} passes; the corpus says that it breaks `{sentence}`", self.number)
            }
            Err(error) if Sentence::of(&error).is_some_and(|it| it.name() == sentence) => Ok(None),
            Err(error) => Err(error.context(format!("not `{sentence}`, as the corpus says"))),
        }
    }
}

/// The seeds of a corpus.
///
/// # Errors
/// The line that is none.
pub fn parse(corpus: &'static str) -> Result<Vec<Seed>> {
    let mut all: Vec<Seed> = Vec::new();
    for (line, text) in corpus.lines().enumerate() {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let seed = seed_of(text).with_context(|| format!("line {} of the corpus", line + 1))?;
        let is_new = all.iter().all(|other| other.number != seed.number);
        ensure!(is_new, "seed {} stands twice in the corpus", seed.number);
        all.push(seed);
    }
    Ok(all)
}

fn seed_of(line: &'static str) -> Result<Seed> {
    let (facts, why) = line.split_once('#').context("it does not say why, after a `#`")?;
    ensure!(why.split_whitespace().count() >= 3, "a reason has more words");
    let mut facts = facts.split_whitespace();
    let number = facts.next().context("no seed")?.parse().context("the seed is no number")?;
    let expected = match (facts.next(), facts.next()) {
        (Some("passes"), None) => Expected::Passes,
        (Some("fails"), Some(sentence)) => Expected::Fails(sentence),
        _ => bail!("a seed `passes` or `fails <sentence>`"),
    };
    ensure!(facts.next().is_none(), "there is more than a seed and what it does");
    Ok(Seed { number, expected })
}

/// `count` seeds that `commit`, a hash in hexadecimal digits, decides.
///
/// # Errors
/// If it is none.
pub fn of_commit(commit: &str, count: u64) -> Result<Vec<u64>> {
    let start = commit.get(..16).with_context(|| format!("`{commit}` is no hash of a commit"))?;
    let start = u64::from_str_radix(start, 16).context("the commit's hash is not hexadecimal")?;
    let chance = Chance::new(start);
    // Small enough to be typed.
    Ok((0..count).map(|_| chance.next() >> 32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_the_tree_can_be_read() {
        assert!(!parse(CORPUS).unwrap().is_empty());
    }

    #[test]
    fn a_line_of_the_corpus_says_the_seed_what_it_does_and_why() {
        let check =
            |line, expected: Option<Seed>| assert_eq!(seed_of(line).ok(), expected, "{line}");
        check("17 passes # order at the hub", Some(Seed::passing(17)));
        let fails = Seed { number: 182, expected: Expected::Fails("told") };
        check("182 fails told # a manifest is lost", Some(fails));
        check("17 passes", None);
        check("17 passes # why", None);
        check("17 fails # a reason is here", None);
        check("17 fails told twice # a reason is here", None);
        check("x passes # a reason is here", None);
        assert!(parse("1 passes # it once failed\n1 passes # it once failed\n").is_err());
        assert_eq!(parse("# nothing yet\n\n").unwrap(), []);
    }

    #[test]
    fn a_known_failure_must_come_as_it_is_known_and_a_mended_one_is_told() {
        let seed = Seed { number: 182, expected: Expected::Fails("told") };
        assert_eq!(seed.judge(Err::<(), _>(Sentence::Told.broken("no"))).unwrap(), None);
        assert!(seed.judge(Err::<(), _>(Sentence::Kept.broken("no"))).is_err());
        assert!(seed.judge(Ok(())).unwrap_err().to_string().contains("seed 182 passes"));
        let seed = Seed::passing(1);
        assert_eq!(seed.judge(Ok(7)).unwrap(), Some(7));
        assert!(seed.judge(Err::<(), _>(Sentence::Told.broken("no"))).is_err());
    }

    #[test]
    fn a_commit_decides_its_seeds() {
        let commit = "12668eec0ffee00000000000000000000000000a";
        let seeds = of_commit(commit, 3).unwrap();
        assert_eq!(seeds, of_commit(commit, 3).unwrap());
        assert_ne!(seeds, of_commit("22668eec0ffee00000000000000000000000000a", 3).unwrap());
        assert!(of_commit("unknown", 1).is_err() && of_commit("zzzzzzzzzzzzzzzzzz", 1).is_err());
    }
}
