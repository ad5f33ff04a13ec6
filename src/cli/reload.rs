//! `selvedge reload`: makes a running node take on what its configuration's files say now.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::admin_client::{AdminArguments, AdminClient, Content, not_ours};
use super::{Failure, print};

/// For the whole exchange: a node answers once all of its workers follow the new configuration.
const DEADLINE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    admin: AdminArguments,
}

/// What a reload has done, or would do.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    generation: u64,
    changes: Vec<Change>,
    sessions: Vec<String>,
    restart_needed: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Change {
    text: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: Refused,
}

#[derive(Deserialize)]
struct Refused {
    code: String,
    message: String,
    #[serde(default)]
    problems: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let report = ask(&arguments.admin.client()?, "/v1/reload", None)?;
    let runs = format!("configuration {} runs\n", report.generation);
    print(&(runs + &words(&report.lines())))
}

/// What a reload of the node would do if its file said `text`.
pub(super) fn preview(client: &AdminClient, text: String) -> Result<Report, Failure> {
    ask(client, "/v1/reload?dry_run=true", Some(("application/toml", text.into())))
}

fn ask(client: &AdminClient, path: &str, body: Option<Content>) -> Result<Report, Failure> {
    let (status, answer) = client.ask(&Method::POST, path, body, DEADLINE)?;
    if status == StatusCode::OK {
        return serde_json::from_slice(&answer).map_err(not_ours);
    }
    Err(refusal(status, path, &answer))
}

/// What the API says of something that it has not done.
pub(super) fn refusal(status: StatusCode, path: &str, answer: &[u8]) -> Failure {
    match serde_json::from_slice::<Refusal>(answer) {
        Ok(Refusal { error }) if error.code == "bad_config" => Failure::Refused(error.problems),
        Ok(Refusal { error }) => Failure::Other(error.message),
        Err(_) => Failure::Other(format!("{status} to POST {path}; is this the admin API of selvedge?")),
    }
}

/// The parts of what a configuration changes, each with its title.
pub(super) struct Lines {
    pub(super) changes: Vec<String>,
    pub(super) sessions: Vec<String>,
    pub(super) restart: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    pub(super) fn lines(self) -> Lines {
        Lines {
            changes: self.changes.into_iter().map(|change| change.text).collect(),
            sessions: self.sessions,
            restart: self.restart_needed,
            warnings: self.warnings,
        }
    }
}

/// What a configuration changes, for people.
pub(super) fn words(lines: &Lines) -> String {
    let mut text = String::new();
    let mut part = |title: &str, none: &str, lines: &[String]| {
        if lines.is_empty() && none.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", if lines.is_empty() { none } else { title });
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    };
    part("changes:", "nothing changes", &lines.changes);
    part("sessions:", "no session moves or ends", &lines.sessions);
    part("waits for a restart:", "", &lines.restart);
    part("warnings:", "", &lines.warnings);
    text
}
