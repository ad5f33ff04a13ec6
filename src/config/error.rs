//! What is wrong with a configuration: every problem at once, each where it stands.

use std::fmt;
use std::path::PathBuf;

/// One mistake: where, what, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` when nothing is written where something should be.
    pub line: Option<usize>,
    /// Key path such as `pool.shop.health.interval`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write.
    pub hint: String,
}

/// All mistakes of one file; never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct ConfigErrors {
    /// The file they are in.
    pub file: PathBuf,
    /// In the order of the file.
    pub problems: Vec<Problem>,
    /// All files that were read, this one included: a change of any of them may help.
    pub read: Vec<PathBuf>,
}

impl ConfigErrors {
    /// Each mistake in a line of its own: where it is, what it is, what to do.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|problem| {
            let mut line = self.file.display().to_string();
            if let Some(number) = problem.line {
                line += &format!(":{number}");
            }
            line += ": ";
            if !problem.key.is_empty() {
                line += &format!("{}: ", problem.key);
            }
            line += &problem.what;
            if !problem.hint.is_empty() {
                line += &format!("; {}", problem.hint);
            }
            line
        })
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.lines().collect();
        f.write_str(&lines.join("\n"))
    }
}
