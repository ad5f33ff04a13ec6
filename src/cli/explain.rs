//! `selvedge explain`: where a request would go, and why, as a running node decides at this moment. Nothing is sent.

use std::net::IpAddr;

use clap::Args;
use http::Method;
use serde::Deserialize;

use super::admin_client::{AdminArguments, not_ours};
use super::{Failure, print};
use crate::decision::Query;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The request's Host
    #[arg(long)]
    host: String,

    /// The request's path, with its query if there is one
    #[arg(long, default_value = "/")]
    path: String,

    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,

    /// A field of the request, such as "X-Variant: b"; may be given several times
    #[arg(long = "header", value_name = "FIELD", value_parser = field)]
    headers: Vec<(String, String)>,

    /// The session cookie's value, or all that the client sends in Cookie
    #[arg(long)]
    cookie: Option<String>,

    /// The client's address [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,

    /// The listener that it comes to, by its name [default: any]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,

    /// Print the JSON of the admin API instead of sentences
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

/// What is shown of the answer.
#[derive(Debug, Deserialize)]
struct Explained {
    lines: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { host, path, method, headers, cookie, source, listener, .. } = arguments;
    let query = Query {
        host: host.clone(),
        path: path.clone(),
        method: method.clone(),
        headers: headers.clone(),
        cookie: cookie.clone(),
        source: *source,
        listener: listener.clone(),
    };
    let body = serde_json::to_value(&query).map_err(|error| Failure::Other(error.to_string()))?;
    let answer = arguments.admin.client()?.send(&Method::POST, "/v1/explain", &body)?;
    if arguments.json {
        return print(&format!("{}\n", String::from_utf8_lossy(&answer)));
    }
    let explained: Explained = serde_json::from_slice(&answer).map_err(not_ours)?;
    print(&explained.lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write \"NAME: VALUE\"")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
