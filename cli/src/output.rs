//! What goes to standard output and which progress is shown, by `--json` and `-q`.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// From this length on a transfer shows its progress.
pub(crate) const PROGRESS_FROM_BYTES: u64 = 64 << 20;

/// Standard output was closed by whoever read it, as `head` does: no failure, and nothing to say.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for ReaderGone {}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Output {
        Output { json, quiet }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// A result: the JSON document with `--json`, else the text, which is what was asked for and so not silenced.
    pub(crate) fn result(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> anyhow::Result<()> {
        if self.json {
            return write_stdout(format!("{:#}\n", json()).as_bytes());
        }
        write_stdout(text().as_bytes())
    }

    /// A confirmation: as a result, but silenced by `-q`.
    pub(crate) fn done(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> anyhow::Result<()> {
        if self.quiet && !self.json {
            return Ok(());
        }
        self.result(|| format!("{}\n", text()), json)
    }

    /// A remark on standard error, for people only.
    pub(crate) fn remark(self, text: &str) {
        if !self.quiet && !self.json {
            // A closed standard error must not stop the work that the remark is about.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A bar over bytes on standard error: only for people who can see it, and only from `PROGRESS_FROM_BYTES` on.
    pub(crate) fn transfer(self, what: &str, len_bytes: u64) -> ProgressBar {
        if len_bytes < PROGRESS_FROM_BYTES {
            return ProgressBar::hidden();
        }
        self.bar(what, len_bytes)
    }

    /// A bar over bytes of any length.
    pub(crate) fn bar(self, what: &str, len_bytes: u64) -> ProgressBar {
        self.drawn(
            ProgressBar::with_draw_target(Some(len_bytes), ProgressDrawTarget::hidden()),
            "{msg:<10} [{bar:40}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            what,
        )
    }

    /// A turning mark for work whose extent is not known.
    pub(crate) fn spinner(self, what: &str) -> ProgressBar {
        let spinner = self.drawn(ProgressBar::new_spinner(), "{spinner} {msg}", what);
        if !spinner.is_hidden() {
            spinner.enable_steady_tick(Duration::from_millis(100));
        }
        spinner
    }

    fn drawn(self, bar: ProgressBar, template: &str, what: &str) -> ProgressBar {
        if self.quiet || self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        // The template is a constant of this file; a wrong one would only mean a plainer bar.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what.to_owned());
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar
    }
}

/// Writes to standard output; a closed pipe is [`ReaderGone`].
pub(crate) fn write_stdout(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(stdout_error)
}

/// What a failed write to standard output means.
pub(crate) fn stdout_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ReaderGone.into();
    }
    anyhow::Error::new(error).context("cannot write to standard output")
}

/// Which way a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Figures.
    Right,
}

/// Rows in aligned columns, two spaces apart, without spaces at the ends of lines.
pub(crate) fn columns(align: &[Align], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..align.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(align).zip(&widths).map(|((cell, align), &width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        let line: Vec<String> = cells.collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and its noun: `1 block`, `2,000 blocks`, `2 processes`.
pub(crate) fn counted(value: u64, noun: &str) -> String {
    let plural = match value {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {noun}{plural}", count(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "5".to_owned()]];
        assert_eq!(columns(&[Align::Left, Align::Right], &rows), "a     10\nlong   5\n");
        let rows = [vec!["1".to_owned(), "é".to_owned()], vec!["22".to_owned(), String::new()]];
        assert_eq!(columns(&[Align::Right, Align::Left], &rows), " 1  é\n22\n");
    }

    #[test]
    fn thousands_are_apart() {
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), text);
        }
        for (text, expected) in [
            (counted(1, "block"), "1 block"),
            (counted(0, "block"), "0 blocks"),
            (counted(2_000, "process"), "2,000 processes"),
        ] {
            assert_eq!(text, expected);
        }
    }
}
