//! The proxy's configuration: `config/myclothes.toml`, with the addresses of this system filled in.
//!
//! Only addresses, the session key file and the time for a drain are set; whatever else is in that file stays as it is written there.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use selvedge::config::{Config, Overrides, keys};

use crate::trouble::Trouble;
use crate::trust::{self, Certificates};

/// The file as it was when this program was built.
const BUILT_IN: &str = include_str!("../../config/myclothes.toml");

/// Reads a configuration as the proxy will read it.
pub(crate) fn load(file: &Path) -> Result<Config, Trouble> {
    Config::load(file, &Overrides::default()).map_err(|errors| Trouble::in_config(errors.to_string()))
}

/// Writes `config/myclothes.toml` into the data folder, with this system's addresses and session keys; `dns` answers for the
/// instances, which leave within `drain` seconds; with `certificates`, the proxy and they show each other theirs.
pub(crate) fn write(
    data: &Path,
    (listen, admin, dns): (SocketAddr, SocketAddr, SocketAddr),
    drain: u32,
    certificates: Option<&Certificates>,
) -> Result<PathBuf, Trouble> {
    let keys_file = data.join("session.keys");
    if !keys_file.exists() {
        write_secret(&keys_file, &format!("{}\n", keys::fresh_line()))?;
    }
    let mut config: toml::Table = BUILT_IN
        .parse()
        .map_err(|error| Trouble::new(format!("config/myclothes.toml, as built in, is wrong: {error}")))?;
    let mut entries: Vec<(&[&str], toml::Value)> = vec![
        (&["listener", "0", "address"], listen.to_string().into()),
        (&["admin", "address"], admin.to_string().into()),
        (&["session_keys", "file"], keys_file.to_string_lossy().into_owned().into()),
        (&["resolver", "nameservers"], vec![dns.to_string()].into()),
        (&["pool", "shop", "drain", "deadline"], format!("{drain}s").into()),
    ];
    if let Some(Certificates { instance_ca, balancer: [cert, key], .. }) = certificates {
        let file = |path: &Path| path.to_string_lossy().into_owned().into();
        entries.extend([
            (&["pool", "shop", "tls", "ca"][..], file(instance_ca)),
            (&["pool", "shop", "tls", "server_name"], trust::INSTANCES.into()),
            (&["pool", "shop", "tls", "cert"], file(cert)),
            (&["pool", "shop", "tls", "key"], file(key)),
        ]);
    }
    for (path, value) in entries {
        set(&mut config, path, value)
            .ok_or_else(|| Trouble::new(format!("config/myclothes.toml lacks {}", path.join("."))))?;
    }
    let file = data.join("selvedge.toml");
    write_file(&file, &config.to_string())?;
    Ok(file)
}

/// Sets a value; its table is made when absent, a list must be there.
fn set(table: &mut toml::Table, path: &[&str], value: toml::Value) -> Option<()> {
    match path {
        [key] => drop(table.insert((*key).into(), value)),
        [list, place, rest @ ..] if place.parse::<usize>().is_ok() => {
            let entry = table.get_mut(*list)?.as_array_mut()?.get_mut(place.parse::<usize>().ok()?)?;
            set(entry.as_table_mut()?, rest, value)?;
        }
        [key, rest @ ..] => {
            let inner = table.entry(*key).or_insert_with(|| toml::Table::new().into());
            set(inner.as_table_mut()?, rest, value)?;
        }
        [] => {}
    }
    Some(())
}

/// Writes a new file that nobody else can read.
fn write_secret(file: &Path, text: &str) -> Result<(), Trouble> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    opened
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(|error| Trouble::new(format!("{} cannot be written: {error}", file.display())))
}

fn write_file(file: &Path, text: &str) -> Result<(), Trouble> {
    std::fs::write(file, text)
        .map_err(|error| Trouble::new(format!("{} cannot be written: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_set_in_tables_and_lists_that_are_there_and_in_new_tables() {
        let mut config: toml::Table = "[[listener]]\nname = 'web'".parse().unwrap();
        set(&mut config, &["listener", "0", "address"], "127.0.0.1:80".into()).unwrap();
        set(&mut config, &["admin", "address"], "127.0.0.1:81".into()).unwrap();
        assert!(set(&mut config, &["route", "0", "path"], "/".into()).is_none());
        let expected: toml::Table =
            "listener = [{name = 'web', address = '127.0.0.1:80'}]\nadmin.address = '127.0.0.1:81'"
                .parse()
                .unwrap();
        assert_eq!(config, expected);
    }
}
