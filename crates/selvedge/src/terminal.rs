//! The one place that prints: data to standard output, words to standard error.

use std::io::{IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::cli::Output;
use crate::failure::Failure;

/// Printing, in the format that was asked for.
pub(crate) struct Terminal {
    pub(crate) output: Output,
    pub(crate) show_secrets: bool,
    data: Mutex<Box<dyn Write + Send>>,
    words: Mutex<Box<dyn Write + Send>>,
    reader: Reader,
}

/// Where words go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// To a terminal.
    Person,
    /// Into a file, a pipe, or the log of a service manager.
    Machine,
}

impl Terminal {
    pub(crate) fn new(output: Output, show_secrets: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self {
            output,
            show_secrets,
            data: Mutex::new(Box::new(std::io::stdout())),
            words: Mutex::new(Box::new(std::io::stderr())),
            reader: if is_terminal { Reader::Person } else { Reader::Machine },
        }
    }

    /// Whether words go to a person and nowhere else.
    pub(crate) fn is_read_by_a_person(&self) -> bool {
        self.reader == Reader::Person
    }

    /// A line of data.
    pub(crate) fn line(&self, text: &str) {
        write_line(&self.data, text);
    }

    /// A line of words.
    pub(crate) fn say(&self, text: &str) {
        write_line(&self.words, text);
    }

    pub(crate) fn error(&self, failure: &Failure) {
        self.say(&failure.to_string());
    }

    /// Prints `value` as JSON.
    pub(crate) fn json<T: Serialize>(&self, value: &T) {
        let text = match self.output {
            Output::Jsonl => serde_json::to_string(value),
            Output::Table | Output::Json => serde_json::to_string_pretty(value),
        };
        match text {
            Ok(text) => self.line(&text),
            Err(error) => self.say(&format!("cannot print the answer: {error}")),
        }
    }

    /// Prints `all`: as a table of `rows`, or as JSON.
    pub(crate) fn list<T: Serialize, const N: usize>(
        &self,
        all: &[T],
        head: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) {
        match self.output {
            Output::Json => self.json(&all),
            Output::Jsonl => all.iter().for_each(|one| self.json(one)),
            Output::Table => {
                let mut table = Table::new();
                table.load_style(presets::NOTHING).set_header(head);
                for one in all {
                    table.add_row(row(one));
                }
                self.line(&table.to_string());
            }
        }
    }
}

fn write_line(to: &Mutex<Box<dyn Write + Send>>, text: &str) {
    let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
    // A reader that went away (`| head`) wants no more.
    writeln!(to, "{text}").and_then(|()| to.flush()).ok();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn printed(output: Output) -> String {
        let data = Shared::default();
        let mut terminal = Terminal::new(output, false);
        terminal.data = Mutex::new(Box::new(data.clone()));
        terminal.list(&["a", "b"], ["NAME", "TWICE"], |one| [(*one).to_owned(), one.repeat(2)]);
        String::from_utf8(data.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_list_is_a_table_or_one_document_or_a_document_a_line() {
        let table = printed(Output::Table);
        assert!(table.starts_with(" NAME") && table.contains("bb"), "{table}");
        assert_eq!(printed(Output::Jsonl), "\"a\"\n\"b\"\n");
        let all: Vec<String> = serde_json::from_str(&printed(Output::Json)).unwrap();
        assert_eq!(all, ["a", "b"]);
    }
}
