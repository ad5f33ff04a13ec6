//! `POST /v1/upgrade`: asks for another process in the place of this one, and tells what came of it.
//!
//! Without a body it is the file that this process was started from, as it is now. Another file may be named only where not
//! everybody on the machine can ask: whoever names a program has it run as the node's user.

use std::path::PathBuf;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::reply::{ApiError, Reply, json};
use crate::config::AdminAddress;
use crate::control::Control;
use crate::control::upgrades::Refused;

/// Body of the request; may be left out.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// An absolute path.
    binary: Option<PathBuf>,
}

/// The process that serves now.
#[derive(Serialize)]
struct SuccessorView {
    pid: u32,
    version: String,
}

pub(super) async fn upgrade(control: &Control, wanted: Wanted) -> Result<Reply, ApiError> {
    if let Some(binary) = &wanted.binary {
        let running = control.running();
        let guarded = running
            .config
            .admin
            .as_ref()
            .is_some_and(|admin| admin.token.is_some() || matches!(admin.address, AdminAddress::Unix(_)));
        if !guarded {
            let message = "a program can be named only over an admin API with a token or on a unix socket, as every user \
                           of this machine can ask this one: install it as the file that runs, and ask without naming one";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "binary_not_allowed", message));
        }
        if !binary.is_absolute() {
            let message = format!("{} is not an absolute path", binary.display());
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_body", message));
        }
    }
    let successor = control.upgrades.ask(wanted.binary).await?;
    Ok(json(StatusCode::OK, &SuccessorView { pid: successor.pid, version: successor.version }))
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match &refused {
            Refused::Config(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_config"),
            Refused::Program(_) => (StatusCode::BAD_GATEWAY, "bad_program"),
            Refused::NotNow(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_now"),
        };
        let problems = refused.lines();
        let message = format!("no upgrade, the old process goes on: {}", problems.join("\n"));
        Self::new(status, code, message).with_problems(problems)
    }
}
