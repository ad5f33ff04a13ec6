//! `selvedge target drain|up|down`: take a target out, and back.

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::{AdminArguments, not_ours, segment};
use super::outlook::TargetOutlook;
use super::{Failure, print};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let it keep its bound sessions until the deadline, and give it no new ones
    Drain(Drain),
    /// Back into service
    Up(Which),
    /// Out at once: its sessions move
    Down(Which),
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    which: Which,

    /// How long bound sessions may stay, such as 10m [default: drain.deadline of the pool]
    #[arg(long, value_name = "DURATION")]
    deadline: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Name of the pool
    pool: String,

    /// The target, as ZONE/ADDRESS, such as az-a/127.0.1.1:9001
    target: String,

    /// Only show what would become of its sessions and its share
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

/// What is shown of the answer.
#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    status: String,
    reason: String,
}

/// The same of the answer to a dry run.
#[derive(Debug, Deserialize)]
struct Planned {
    name: String,
    figures: TargetOutlook,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let (which, state, deadline, done) = match command {
        Command::Drain(drain) => (&drain.which, "drain", drain.deadline.as_ref(), "drained"),
        Command::Up(which) => (which, "up", None, "brought up"),
        Command::Down(which) => (which, "down", None, "taken down"),
    };
    let body = json!({ "state": state, "deadline": deadline, "dry_run": which.dry_run });
    let path = format!("/v1/pools/{}/targets/{}/state", segment(&which.pool), segment(&which.target));
    let answer = which.admin.client()?.send(&Method::PUT, &path, &body)?;
    if which.dry_run {
        let Planned { name, figures } = serde_json::from_slice(&answer).map_err(not_ours)?;
        let line = format!("{name} of pool {} can be {done}; nothing was done\n", which.pool);
        return print(&(line + &figures.words()));
    }
    let target: Target = serde_json::from_slice(&answer).map_err(not_ours)?;
    print(&format!("{} of pool {} is {}: {}\n", target.name, which.pool, target.status, target.reason))
}
