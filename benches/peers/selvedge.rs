//! Selvedge with what an operator has on: sessions, health checks, metrics, its default forwarding fields.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::process;
use crate::proxy::{Proxy, Setup};

/// The binary that cargo built with this bench.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_selvedge");

/// A Selvedge binary under the name it has in the report.
pub(crate) fn find(name: &'static str, program: &Path) -> Result<Proxy> {
    let missing = || format!("{name}: {} not found, left out", program.display());
    let program = process::find_program(program).ok_or_else(missing)?;
    let version = process::version(&program, "--version")
        .ok_or_else(|| format!("{name}: {} does not start, left out", program.display()))?;
    Ok(Proxy { name, version, program, sticky: true, config, arguments })
}

/// The same, writing a line with all fields for each request into a file.
pub(crate) fn with_access_log(name: &'static str, program: &Path) -> Result<Proxy> {
    let config = |setup: &Setup| {
        let file = setup.folder.join("access.log");
        format!("{}\n[access_log]\noutput = \"{}\"\n", config(setup), file.display())
    };
    Ok(Proxy { config, ..find(name, program)? })
}

/// Writes the key file, as an operator would, before naming the configuration.
fn arguments(program: &Path, setup: &Setup) -> Result<Vec<String>> {
    let keys = Command::new(program).args(["keys", "new"]).output();
    match keys {
        Ok(output) if output.status.success() => fs::write(setup.folder.join("session.keys"), output.stdout)
            .map_err(|error| format!("cannot write the session keys: {error}"))?,
        Ok(output) => {
            return Err(format!("`selvedge keys new` failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Err(error) => return Err(format!("`selvedge keys new` failed: {error}")),
    }
    Ok(vec!["run".into(), "--config".into(), setup.config_file().display().to_string()])
}

fn config(setup: &Setup) -> String {
    let mode = if setup.sessions { "lb_cookie" } else { "off" };
    let targets: String = setup
        .targets
        .iter()
        .map(|target| format!("\n[[pool.bench.target]]\naddress = \"{target}\"\nzone = \"az-a\"\n"))
        .collect();
    let Setup { listen, listen_tls, certificate, folder, .. } = setup;
    let [chain, key, _] = certificate.each_ref().map(|file| file.display());
    let keys = folder.join("session.keys");
    let keys = keys.display();
    format!(
        "zone = \"az-a\"
workers = 1

[[listener]]
name = \"web\"
address = \"{listen}\"

[[listener]]
name = \"tls\"
address = \"{listen_tls}\"
tls.certificates = [{{ cert = \"{chain}\", key = \"{key}\" }}]

[[route]]
pool = \"bench\"

[pool.bench]
balance = \"round_robin\"

[pool.bench.stickiness]
mode = \"{mode}\"

[pool.bench.health]
path = \"/healthz\"
interval = \"2s\"
{targets}
[session_keys]
file = \"{keys}\"

[admin]
address = \"127.0.0.1:0\"
"
    )
}
