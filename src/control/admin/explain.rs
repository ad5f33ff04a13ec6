//! `POST /v1/explain`: where a request would go, and why. The deciding is done by the data plane's own code, which this node was
//! given a way to at its start.

use http::StatusCode;
use serde::Serialize;

use super::reply::{ApiError, Reply, json};
use crate::control::Control;
use crate::decision::{Query, Trace};

/// The decision, and the same in sentences.
#[derive(Serialize)]
struct ExplainView {
    lines: Vec<String>,
    #[serde(flatten)]
    trace: Trace,
}

pub(super) fn explain(control: &Control, query: &Query) -> Result<Reply, ApiError> {
    let config = &control.running().config;
    let trace = (control.node.explain)(query, config, &control.shared_pools())
        .map_err(|wrong| ApiError::new(StatusCode::BAD_REQUEST, "bad_query", wrong.to_string()))?;
    Ok(json(StatusCode::OK, &ExplainView { lines: trace.lines(), trace }))
}
