//! Why a command does not run: one line for the person who typed it, and the exit status.

use std::fmt;
use std::process::ExitCode;

/// Exit status for a wrong configuration, as `selvedge` itself uses it (EX_CONFIG of sysexits.h).
const WRONG_CONFIG: u8 = 78;

/// Why a command does not run. Its text is complete: it says what, where and what to do.
#[derive(Debug)]
pub(crate) struct Trouble {
    text: String,
    status: u8,
}

impl Trouble {
    /// Trouble with the machine: an address, a folder, a process.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), status: 1 }
    }

    /// Trouble with what somebody wrote into a configuration.
    pub(crate) fn in_config(text: impl Into<String>) -> Self {
        Self { text: text.into(), status: WRONG_CONFIG }
    }

    /// Writes the text to standard error, and gives the status to exit with.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("myclothes: {}", self.text.trim_end());
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
