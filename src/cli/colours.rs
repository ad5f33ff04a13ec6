//! When output is coloured, and what each state looks like. Colour is for state alone, and never the only sign of it.

use std::io::IsTerminal as _;

/// How a state is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// As it should be.
    Good,
    /// Out on purpose, or not yet in.
    Out,
    /// Wrong.
    Bad,
}

impl Mood {
    /// That of a target's status, or of a zone's state.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "healthy" | "ok" => Self::Good,
            "unhealthy" | "ejected" | "failed" => Self::Bad,
            _ => Self::Out,
        }
    }

    /// `text` in its colour, for a terminal.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Good => 32,
            Self::Out => 33,
            Self::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether colours are wanted at all: see <https://no-color.org>.
pub(super) fn wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Whether standard output shows them.
pub(super) fn on_stdout() -> bool {
    std::io::stdout().is_terminal() && wanted()
}
