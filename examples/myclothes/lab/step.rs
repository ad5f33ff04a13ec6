//! The steps of the architecture, as the case study takes them: where carts live, and everything else.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::postgres::Postgres;
use super::reading::Reading;
use super::redis;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Carts in the instances' memory, and shoppers go anywhere
    Memory,
    /// Carts in the instances' memory, and shoppers stay on theirs
    Sticky,
    /// Carts in the shoppers' cookies
    Cookie,
    /// Carts in one Redis, found by the session's id in the cookie
    Redis,
    /// Carts in Redis with replicas and Sentinels, orders in PostgreSQL with replicas
    Full,
}

impl Step {
    pub(crate) const ALL: [Self; 5] = [Self::Memory, Self::Sticky, Self::Cookie, Self::Redis, Self::Full];

    /// As it is written on a command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sticky => "sticky",
            Self::Cookie => "cookie",
            Self::Redis => "redis",
            Self::Full => "full",
        }
    }

    /// In a few words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Memory => "carts in memory, no stickiness",
            Self::Sticky => "carts in memory, stickiness",
            Self::Cookie => "carts in the cookie",
            Self::Redis => "carts in one Redis",
            Self::Full => "Redis with replicas, PostgreSQL",
        }
    }

    /// Whether shoppers stay on their instance.
    pub(crate) fn is_sticky(self) -> bool {
        self != Self::Memory
    }

    pub(crate) fn has_redis(self) -> bool {
        matches!(self, Self::Redis | Self::Full)
    }

    /// Replicas of Redis, and PostgreSQL. Without PostgreSQL, orders are in a file that all instances share and that no disaster
    /// reaches.
    pub(crate) fn is_replicated(self) -> bool {
        self == Self::Full
    }

    /// What instances are told.
    pub(crate) fn instance_args(self, reading: Reading, postgres: Option<&Postgres>) -> Vec<OsString> {
        let carts = match self {
            Self::Memory | Self::Sticky => "memory".to_owned(),
            Self::Cookie => "cookie".to_owned(),
            Self::Redis => redis::url(),
            Self::Full => redis::sentinel_url(),
        };
        let mut args = vec!["--carts".into(), carts.into()];
        args.extend(reading.instance_args(self, postgres));
        args
    }
}
