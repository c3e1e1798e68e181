//! What goes to the terminal: colours where someone looks at them, and an end without noise where the reader has left.

use std::{
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
};

/// Colours for one stream: on a terminal, unless `NO_COLOR` is set to anything or `TERM` is `dumb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Palette {
    on: bool,
}

impl Palette {
    /// No colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { on: false };

    /// The palette for what is written to standard output.
    pub(crate) fn stdout() -> Self {
        Self {
            on: wanted(io::stdout().is_terminal()),
        }
    }

    /// The palette for what is written to standard error.
    pub(crate) fn stderr() -> Self {
        Self {
            on: wanted(io::stderr().is_terminal()),
        }
    }

    /// Things are well.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// Look here.
    pub(crate) fn caution(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    /// Something failed.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint("31;1", text)
    }

    /// Not what matters.
    pub(crate) fn quiet(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.on {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_string()
        }
    }
}

fn wanted(terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes to standard output and flushes. An error is to be returned from the command: `commands::run` takes a reader that
/// left (`| head`) for a good end.
pub(crate) fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    out.flush()
}

/// Writes a line to standard error; where that fails there is nobody left to tell.
pub(crate) fn complain(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether the error is a reader that left.
pub(crate) fn reader_left(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        assert_eq!(Palette::PLAIN.bad("no"), "no");
        assert_eq!(Palette { on: true }.bad("no"), "\u{1b}[31;1mno\u{1b}[0m");
        assert!(!wanted(false));
    }
}
