//! `selvedge run`: serves. The whole start is here, in its order; what serving means is in `server`.

use std::sync::Arc;

use super::{ConfigArguments, Failure};
use crate::{server, telemetry};

pub(super) fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    let config = arguments.load()?;
    telemetry::init(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", arguments.config.display());
    }
    server::run(&Arc::new(config)).map_err(|error| Failure::Other(error.to_string()))
}
