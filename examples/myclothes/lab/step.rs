//! The steps of the architecture, as the case study takes them: where carts live.
//!
//! Orders and accounts are in a file that all instances share, in every step, and no disaster reaches it. Redis and PostgreSQL run beside the
//! shop, which keeps nothing there yet.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

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
}

impl Step {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Sticky, Self::Cookie];

    /// As it is written on a command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sticky => "sticky",
            Self::Cookie => "cookie",
        }
    }

    /// In a few words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Memory => "carts in memory, no stickiness",
            Self::Sticky => "carts in memory, stickiness",
            Self::Cookie => "carts in the cookie",
        }
    }

    /// Whether shoppers stay on their instance.
    pub(crate) fn is_sticky(self) -> bool {
        self != Self::Memory
    }

    /// What instances are told.
    pub(crate) fn instance_args(self) -> [OsString; 2] {
        let carts = match self {
            Self::Memory | Self::Sticky => "memory",
            Self::Cookie => "cookie",
        };
        ["--carts".into(), carts.into()]
    }
}
