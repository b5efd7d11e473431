//! The sentences of the oracle, by name: what a run must not break, and what a hunt for a planted
//! fault says that it broke.

use std::fmt;

use anyhow::{Error, Result};

/// One promise. [`Sentence::name`] is what `xtask/src/planted.rs` expects of a hunt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// What was acknowledged is there.
    Kept,
    /// First copies stand in the order in which they were sent.
    Ordered,
    /// Nothing is there that nobody sent.
    Invented,
    /// A message comes again only for a death at which it was not acknowledged.
    Copies,
    /// A message has the properties that its sender gave it.
    Properties,
    /// Over an older connection nothing comes once a newer one is open.
    Lives,
    /// Every time in the log was shown by the hub's clock.
    Times,
    /// Answers come to whom they belong, in order, and are no refusals.
    Answered,
    /// A method is called once.
    CalledOnce,
    /// A method's caller gets the answer to the call.
    Caller,
    /// What a module hears of its desired properties never goes back.
    Desired,
    /// Of what was reported the newest value stays.
    Reported,
    /// A module that failed is started again after a pause only.
    Paused,
    /// A machine starts again on what its end left.
    Starts,
    /// In the end the operator could do everything.
    Operator,
    /// In the end every sender has everything acknowledged.
    Sent,
    /// In the end a receiver has got everything.
    Received,
    /// In the end no message waits.
    Drained,
    /// In the end the engine runs what is desired, and nothing else.
    Running,
    /// In the end a device reports what it runs and what it has seen.
    Told,
    /// In the end modules have heard what is desired of them.
    Heard,
    /// In the end a device that is called answers.
    Listening,
    /// A runtime that is told to end does.
    Closed,
    /// Everything is over in time.
    Over,
    /// The same seed gives the same run.
    Replayed,
}

impl Sentence {
    /// Its name, short and for good.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Ordered => "ordered",
            Self::Invented => "invented",
            Self::Copies => "copies",
            Self::Properties => "properties",
            Self::Lives => "lives",
            Self::Times => "times",
            Self::Answered => "answered",
            Self::CalledOnce => "called-once",
            Self::Caller => "caller",
            Self::Desired => "desired",
            Self::Reported => "reported",
            Self::Paused => "paused",
            Self::Starts => "starts",
            Self::Operator => "operator",
            Self::Sent => "sent",
            Self::Received => "received",
            Self::Drained => "drained",
            Self::Running => "running",
            Self::Told => "told",
            Self::Heard => "heard",
            Self::Listening => "listening",
            Self::Closed => "closed",
            Self::Over => "over",
            Self::Replayed => "replayed",
        }
    }

    /// It is broken, as `words` say.
    pub fn broken(self, words: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Error {
        Error::msg(words).context(self)
    }

    /// It is broken unless `holds`.
    ///
    /// # Errors
    /// With what `words` give.
    pub fn check(self, holds: bool, words: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { Err(self.broken(words())) }
    }

    /// The sentence that `error` breaks, if it names one.
    pub fn of(error: &Error) -> Option<Self> {
        error.downcast_ref::<Self>().copied()
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sentence `{}` is broken", self.name())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_broken_sentence_is_found_beneath_whatever_was_said_about_it() {
        let error = Sentence::Kept.broken("7 is missing");
        let error = Err::<(), _>(error).context("device-0").context("seed 3").unwrap_err();
        assert_eq!(Sentence::of(&error), Some(Sentence::Kept));
        let words = "seed 3: device-0: the sentence `kept` is broken: 7 is missing";
        assert_eq!(format!("{error:#}"), words);
        assert_eq!(Sentence::of(&anyhow::anyhow!("no sentence")), None);
        assert!(Sentence::Kept.check(true, String::new).is_ok());
    }
}
