//! DNS answers from outside: the built binary, asked over UDP and TCP on loopback, beside Debian's `knotd` and `named`.
//!
//! Queries are bytes made here; answers are read by hickory, which the program does not use. Needs the packages `knot`,
//! `bind9` and `bind9-dnsutils`, which `tests/run.sh` installs; without them the tests that need them fail and say so.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod ask;
mod form;
mod handover;
mod limits;
mod nodes;
mod peers;
mod policies;

use std::net::SocketAddr;
use std::path::PathBuf;

use support::{Edge, Setup};

/// A running node that answers DNS, and where.
struct Answering {
    edge: Edge,
    dns: SocketAddr,
}

impl Answering {
    /// A node without a pool, with these lines of `[dns]` and tables below it.
    async fn start(lines: &str) -> Self {
        let dns = format!("[dns]\naddresses = [\"127.0.0.1:0\"]\n{lines}");
        let mut edge = Setup::default().and(&dns).start_unready().await;
        let dns = edge.dns_address().await;
        Self { edge, dns }
    }
}

/// Where the program of this name is; fails with what to install.
fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: apt-get install {package}, or run tests/run.sh"))
}
