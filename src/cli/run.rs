//! `selvedge run`: serves. The whole start is here, in its order; what serving means is in `server`.

use std::sync::Arc;

use super::{ConfigArguments, Failure};
use crate::handover::predecessor::Predecessor;
use crate::{server, telemetry};

pub(super) fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    let mut predecessor = Predecessor::from_env().map_err(Failure::Other)?;
    let mut config = arguments.load().inspect_err(|failure| {
        if let (Some(predecessor), Failure::Config(errors)) = (&mut predecessor, failure) {
            predecessor.fail(true, errors.lines().collect());
        }
    })?;
    telemetry::init(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", arguments.config.display());
    }
    if let Some(predecessor) = &predecessor {
        predecessor.keep_key(&mut config);
    }
    server::run(&Arc::new(config), predecessor).map_err(|error| Failure::Other(error.to_string()))
}
