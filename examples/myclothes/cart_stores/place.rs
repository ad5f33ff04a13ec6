//! What `--carts` may say.

use std::fmt;
use std::str::FromStr;

/// Where carts and logins live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `memory`
    Memory,
    /// `cookie`
    Cookie,
    /// `sqlite`
    Sqlite,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Self::Memory),
            "cookie" => Ok(Self::Cookie),
            "sqlite" => Ok(Self::Sqlite),
            _ => Err("write memory, cookie or sqlite".to_owned()),
        }
    }
}

/// As it is written on a command line.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Cookie => "cookie",
            Self::Sqlite => "sqlite",
        })
    }
}
