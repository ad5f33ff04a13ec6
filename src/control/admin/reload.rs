//! `POST /v1/reload`: asks for a reload, or with `?dry_run=true` for what one would do, and tells what came of it.
//!
//! A dry run may bring the text of a configuration as its body: it is judged as if the node's own file said that. The answer
//! of a reload comes when requests follow the new configuration.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;

use super::reply::{ApiError, Reply, json};
use super::{is_dry_run, read_body};
use crate::config::changes::KeyChange;
use crate::control::Control;
use crate::control::reloads::{Refused, Report, Wanted};

/// Bytes of a configuration that is asked about.
const CONFIG_MAX: usize = 4 << 20;

/// What a reload has done, or would do.
#[derive(Serialize)]
struct ReportView {
    /// `done`, or `possible` after a dry run.
    result: &'static str,
    /// Number of the configuration that runs.
    generation: u64,
    changes: Vec<ChangeView>,
    /// What becomes of sessions, in words; empty when none moves or ends.
    sessions: Vec<String>,
    /// What waits for a restart, in words.
    restart_needed: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ChangeView {
    key: String,
    before: Option<String>,
    after: Option<String>,
    /// The three in words.
    text: String,
}

pub(super) async fn reload(control: &Control, request: Request<Incoming>) -> Result<Reply, ApiError> {
    let bad = |message: &str| ApiError::new(StatusCode::BAD_REQUEST, "bad_query", message);
    let dry_run = is_dry_run(request.uri())?;
    let body = read_body(request.into_body(), CONFIG_MAX).await?;
    // Some clients send an empty object when there is nothing to send.
    let wanted = match (dry_run, matches!(body.trim_ascii(), b"" | b"{}")) {
        (true, true) => Wanted::Preview(None),
        (true, false) => {
            let text = String::from_utf8(body.into()).map_err(|_| bad("the body is not text"))?;
            Wanted::Preview(Some(text))
        }
        (false, true) => Wanted::Reload,
        (false, false) => {
            return Err(bad("a configuration can be sent with dry_run=true only: write it into its file"));
        }
    };
    let report = control.reloads.ask(wanted).await?;
    Ok(json(StatusCode::OK, &ReportView::of(report, if dry_run { "possible" } else { "done" })))
}

impl ReportView {
    fn of(report: Report, result: &'static str) -> Self {
        let change = |change: KeyChange| ChangeView {
            text: change.to_string(),
            key: change.key,
            before: change.before,
            after: change.after,
        };
        Self {
            result,
            generation: report.generation,
            changes: report.changes.keys.into_iter().map(change).collect(),
            sessions: report.changes.sessions.iter().map(ToString::to_string).collect(),
            restart_needed: report.changes.restart,
            warnings: report.warnings,
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match &refused {
            Refused::Config(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_config"),
            Refused::Listener(_) => (StatusCode::CONFLICT, "listener_not_bound"),
            Refused::AccessLog(_) => (StatusCode::CONFLICT, "access_log_not_opened"),
            Refused::NotNow(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_now"),
        };
        let problems = refused.lines();
        let message = format!("nothing was changed: {}", problems.join("\n"));
        Self::new(status, code, message).with_problems(problems)
    }
}
