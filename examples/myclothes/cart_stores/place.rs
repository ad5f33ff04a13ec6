//! What `--carts` may say.

use std::fmt;
use std::str::FromStr;

use super::dynamodb;
use crate::redis;

/// Where carts and logins live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `memory`
    Memory,
    /// `cookie`
    Cookie,
    /// `sqlite`
    Sqlite,
    /// `redis://…`, `redis+sentinel://…`, `redis+cluster://…`
    Redis(redis::Address),
    /// `dynamodb://…`
    DynamoDb(dynamodb::Address),
}

impl Place {
    /// Whether it is a file in the data folder.
    pub(crate) fn is_in_folder(&self) -> bool {
        *self == Self::Sqlite
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Self::Memory),
            "cookie" => Ok(Self::Cookie),
            "sqlite" => Ok(Self::Sqlite),
            _ => {
                let redis = || Some(redis::Address::parse(text)?.map(Self::Redis));
                let dynamodb = || Some(dynamodb::Address::parse(text)?.map(Self::DynamoDb));
                redis().or_else(dynamodb).unwrap_or_else(|| {
                    Err("write memory, cookie, sqlite, redis://…, redis+sentinel://…, redis+cluster://… or dynamodb://…"
                        .to_owned())
                })
            }
        }
    }
}

/// As it is written on a command line.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Cookie => f.write_str("cookie"),
            Self::Sqlite => f.write_str("sqlite"),
            Self::Redis(address) => address.fmt(f),
            Self::DynamoDb(address) => address.fmt(f),
        }
    }
}
