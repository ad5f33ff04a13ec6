//! How the shop of the lab reads its catalogue: from how many replicas, and from what cache.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::postgres::Postgres;
use super::redis;
use super::step::Step;
use crate::cache::Mode;
use crate::trouble::Trouble;

/// Options of `myclothes lab up`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub(crate) struct Reading {
    /// Replicas of PostgreSQL that the shop knows and reads from, where it has PostgreSQL
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) replicas: u8,
    /// How the catalogue is kept in Redis, too, where it has Redis
    #[arg(long, value_name = "HOW", default_value = "off")]
    pub(crate) cache: Mode,
}

impl Default for Reading {
    fn default() -> Self {
        Self { replicas: 2, cache: Mode::Off }
    }
}

impl Reading {
    /// Whether this step has what it needs.
    pub(crate) fn check(self, step: Step) -> Result<(), Trouble> {
        match self.cache == Mode::Off || step.has_redis() {
            true => Ok(()),
            false => Err(Trouble::new("a cache needs Redis: --step redis or --step full")),
        }
    }

    /// In a few words.
    pub(crate) fn title(self) -> String {
        let replicas = match self.replicas {
            0 => "the primary alone".to_owned(),
            1 => "1 replica".to_owned(),
            several => format!("{several} replicas"),
        };
        match self.cache {
            Mode::Off => replicas,
            cache => format!("{replicas}, {}", cache.word()),
        }
    }

    /// The same options on a command line.
    pub(crate) fn options(self) -> [String; 4] {
        ["--replicas".into(), self.replicas.to_string(), "--cache".into(), self.cache.word().into()]
    }

    /// What instances are told.
    pub(crate) fn instance_args(self, step: Step, postgres: Option<&Postgres>) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        if let Some(postgres) = postgres {
            args.extend(["--database".into(), postgres.url(self.replicas.into()).into()]);
        }
        if self.cache != Mode::Off {
            let url = if step.is_replicated() { redis::sentinel_url() } else { redis::url() };
            args.extend(["--cache".into(), self.cache.word().into(), "--cache-url".into(), url.into()]);
        }
        args
    }
}
