//! Standard output and standard error, for people or for machines.

use crate::failure::Failure;
use crate::progress;
use backup_core::{Error, Result as CoreResult};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// How this run talks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// JSON on standard output.
    pub(crate) json: bool,
    /// No progress, no remarks.
    pub(crate) quiet: bool,
}

impl Output {
    /// A line of the result for people; nothing with `--json`.
    pub(crate) fn line(self, text: impl Display) -> Result<(), Failure> {
        if self.json { Ok(()) } else { write_line(&text.to_string()).map_err(output_error) }
    }

    /// A JSON document on one line; nothing without `--json`.
    pub(crate) fn document(self, value: &impl Serialize) -> Result<(), Failure> {
        if self.json { write_line(&to_json(value)?).map_err(output_error) } else { Ok(()) }
    }

    /// As [`line`](Self::line), while work goes on that does not stop because nobody reads any more.
    pub(crate) fn tell(self, text: impl Display) {
        let _ = self.line(text);
    }

    /// As [`document`](Self::document), while work goes on that does not stop because nobody reads any more.
    pub(crate) fn event(self, value: &impl Serialize) {
        let _ = self.document(value);
    }

    /// A remark beside the result, on standard error; left out with `-q` and `--json`.
    pub(crate) fn note(self, text: impl Display) {
        if !self.quiet && !self.json {
            // A remark that nobody can read is no reason to stop.
            let _ = write_error(&text.to_string());
        }
    }

    /// Whether a question can be put to a person.
    pub(crate) fn is_interactive(self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }
}

/// Many lines of standard output, written in large pieces.
pub(crate) struct Lines(BufWriter<Stdout>);

impl Lines {
    /// Starts writing.
    pub(crate) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout()))
    }

    /// A line as it is.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.0, "{text}").map_err(output_error)
    }

    /// A line of JSON.
    pub(crate) fn document(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = to_json(value)?;
        self.line(text)
    }

    /// Brings everything out.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(output_error)
    }
}

/// A table for people: columns as wide as their widest cell, the last one free.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.truncate(text.trim_end().len());
        text
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// One line on standard output; flushed, since a reader may wait for it. Never panics when the reader is gone.
pub(crate) fn write_line(text: &str) -> io::Result<()> {
    progress::suspend(|| {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    })
}

/// One or more lines on standard error.
pub(crate) fn write_error(text: &str) -> io::Result<()> {
    progress::suspend(|| writeln!(io::stderr().lock(), "{text}"))
}

fn to_json(value: &impl Serialize) -> CoreResult<String> {
    serde_json::to_string(value).map_err(|e| Error::permanent("cannot write this as JSON").because(e))
}

/// What an error in writing to standard output means.
pub(crate) fn output_error(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::OutputClosed
    } else {
        Error::io(error, "cannot write to standard output").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_no_line_ends_in_blanks() {
        let rows =
            vec![vec!["a".into(), "long cell".into(), String::new()], vec!["bbbb".into(), "ü".into(), "x".into()]];
        assert_eq!(table(&["ID", "WHAT", "NOTE"], &rows), "ID    WHAT       NOTE\na     long cell\nbbbb  ü          x");
    }
}
