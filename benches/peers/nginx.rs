//! nginx as Debian packages it, set up as a reverse proxy that is meant to be fast.
//!
//! It has no sticky sessions outside its commercial edition, so it is the measure of what forwarding alone costs.

use std::path::Path;

use crate::Result;
use crate::process;
use crate::proxy::{Proxy, Setup};

/// The installed nginx, or what to install.
pub(crate) fn find(program: &Path) -> Result<Proxy> {
    let missing =
        || format!("nginx: {} not found, left out; `apt-get install nginx-light`", program.display());
    let program = process::find_program(program).ok_or_else(missing)?;
    let version = process::version(&program, "-v").unwrap_or_default();
    Ok(Proxy { name: "nginx", version, program, sticky: false, config, arguments })
}

fn arguments(_program: &Path, setup: &Setup) -> Result<Vec<String>> {
    let path = |file: &Path| file.display().to_string();
    Ok(vec![
        "-p".into(),
        path(&setup.folder),
        "-e".into(),
        path(&setup.folder.join("error.log")),
        "-c".into(),
        path(&setup.config_file()),
    ])
}

/// Buffering is left on, but never into files: a client on the same machine is slow only because it shares its core
/// with the origin.
fn config(setup: &Setup) -> String {
    let servers: String = setup.targets.iter().map(|target| format!("        server {target};\n")).collect();
    let Setup { listen, listen_tls, certificate, .. } = setup;
    let [chain, key, _] = certificate.each_ref().map(|file| file.display());
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log error.log crit;
events {{
    worker_connections 10240;
}}
http {{
    access_log off;
    keepalive_timeout 60s;
    keepalive_requests 1000000;
    client_body_temp_path temporary_client;
    proxy_temp_path temporary_proxy;
    fastcgi_temp_path temporary_fastcgi;
    uwsgi_temp_path temporary_uwsgi;
    scgi_temp_path temporary_scgi;
    upstream bench {{
{servers}        keepalive 256;
        keepalive_requests 1000000;
    }}
    server {{
        listen {listen} backlog=4096;
        listen {listen_tls} ssl http2 backlog=4096;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ecdh_curve X25519;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"
    )
}
