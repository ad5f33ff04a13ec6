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
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{file}")?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": ")?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            write!(f, "{}", problem.what)?;
            if !problem.hint.is_empty() {
                write!(f, "; {}", problem.hint)?;
            }
        }
        Ok(())
    }
}
