//! `selvedge upgrade`: puts another process, of the program as it is installed now, in the place of the one that runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;
use serde::Deserialize;

use super::admin_client::{AdminArguments, Content};
use super::reload::refusal;
use super::{Failure, print};

/// For the whole exchange: longer than any configuration lets the new process take.
const DEADLINE: Duration = Duration::from_secs(3700);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Program to start instead of the file that the node was started from [needs a token or a unix socket]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,

    #[command(flatten)]
    admin: AdminArguments,
}

#[derive(Deserialize)]
struct Successor {
    pid: u32,
    version: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let body = match &arguments.binary {
        None => None,
        Some(binary) => {
            let binary = std::path::absolute(binary)
                .map_err(|error| Failure::Other(format!("cannot use {}: {error}", binary.display())))?;
            Some(serde_json::json!({ "binary": binary }).to_string())
        }
    };
    let body: Option<Content> = body.map(|body| ("application/json", body.into()));
    let path = "/v1/upgrade";
    let (status, answer) = arguments.admin.client()?.ask(&Method::POST, path, body, DEADLINE)?;
    if status != http::StatusCode::OK {
        return Err(refusal(status, path, &answer));
    }
    let successor: Successor = serde_json::from_slice(&answer).map_err(|error| {
        Failure::Other(format!("the answer is not that of selvedge's admin API: {error}"))
    })?;
    print(&format!("process {} (version {}) serves now\n", successor.pid, successor.version))
}
