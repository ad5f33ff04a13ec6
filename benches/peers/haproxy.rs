//! HAProxy as Debian packages it, with its inserted cookie when sessions are on.

use std::path::Path;

use crate::Result;
use crate::process;
use crate::proxy::{Proxy, Setup};

/// The installed HAProxy, or what to install.
pub(crate) fn find(program: &Path) -> Result<Proxy> {
    let missing = || format!("haproxy: {} not found, left out; `apt-get install haproxy`", program.display());
    let program = process::find_program(program).ok_or_else(missing)?;
    let version = process::version(&program, "-v").unwrap_or_default();
    Ok(Proxy { name: "haproxy", version, program, sticky: true, config, arguments })
}

/// `-db`: stay in the foreground, one process.
fn arguments(_program: &Path, setup: &Setup) -> Result<Vec<String>> {
    Ok(vec!["-db".into(), "-f".into(), setup.config_file().display().to_string()])
}

/// HAProxy refuses to start when two files for each of `maxconn` connections are more than it may open.
fn config(setup: &Setup) -> String {
    let max_connections = (setup.files.saturating_sub(1000) / 2).min(20_000);
    let cookie = if setup.sessions { "    cookie SRV insert indirect nocache\n" } else { "" };
    let servers: String = (1..)
        .zip(&setup.targets)
        .map(|(number, target)| {
            let value = if setup.sessions { format!(" cookie s{number}") } else { String::new() };
            format!("    server s{number} {target} check inter 2s{value}\n")
        })
        .collect();
    let Setup { listen, listen_tls, certificate: [_, _, both], .. } = setup;
    let both = both.display();
    format!(
        "global
    nbthread 1
    maxconn {max_connections}
defaults
    mode http
    maxconn {max_connections}
    option http-keep-alive
    option forwardfor
    http-reuse always
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout client 60s
    timeout connect 1s
    timeout server 60s
    timeout queue 5s
    timeout check 2s
frontend web
    bind {listen} backlog 4096
    bind {listen_tls} backlog 4096 ssl crt {both} curves X25519 alpn h2,http/1.1
    default_backend bench
backend bench
    balance roundrobin
    option httpchk GET /healthz
{cookie}{servers}"
    )
}
