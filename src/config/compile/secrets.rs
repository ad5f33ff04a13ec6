//! `[session_keys]` and `[admin]`, and how files with a secret are read.
//!
//! Secrets are read here, once, so that a missing or unreadable file is a mistake like any other and known before the
//! first socket is bound.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Compiler;
use crate::config::file::{self, At, Field, Place};
use crate::config::units::Secret;
use crate::config::{Admin, AdminAddress, KeyRing, Listener, Pool, SessionKeys, StickinessMode};

/// Longest path of a unix socket, in bytes (`sun_path`, less the final zero).
const SOCKET_PATH_MAX: usize = 107;

impl Compiler<'_> {
    pub(super) fn session_keys(&mut self, file: Field<file::SessionKeys>, pools: &[Pool]) -> SessionKeys {
        let generated = || SessionKeys { ring: Arc::new(KeyRing::generate()), file: None };
        let file = file.or_default().file;
        if file.is_absent() && pools.iter().any(|pool| pool.stickiness.mode != StickinessMode::Off) {
            self.warnings.push(
                "session_keys.file: not set, so a key was made that no other node has and that ends with this process, \
                 and the sessions with it; `selvedge keys new` prints a line for such a file"
                    .to_owned(),
            );
        }
        let hint = |path: &Path| format!("make it with: selvedge keys new > {}", path.display());
        let Some((text, path, place)) = self.secret_file(file, hint) else { return generated() };
        match KeyRing::parse(&text) {
            Ok(ring) => SessionKeys { ring: Arc::new(ring), file: Some(path) },
            Err(error) => {
                let what = format!("{} cannot be used: {error}", path.display());
                self.problems.add(&place, what, "write lines that `selvedge keys new` prints");
                generated()
            }
        }
    }

    pub(super) fn admin(&mut self, file: Field<file::Admin>, listeners: &[Listener]) -> Option<Admin> {
        let file = file.or_default();
        if !file.enabled.or(true) {
            return None;
        }
        let default = AdminAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)));
        let (address, place) = match file.address.given() {
            Some(At { value: AdminAddress::Unix(path), place }) => {
                (AdminAddress::Unix(self.path(path)), place)
            }
            Some(At { value, place }) => (value, place),
            None => (default, Place::default().key("admin").key("address")),
        };
        self.admin_address(&address, &place, file.token_file.is_absent(), listeners);
        let token = self.admin_token(file.token_file);
        Some(Admin { address, token })
    }

    fn admin_address(&mut self, address: &AdminAddress, place: &Place, open: bool, listeners: &[Listener]) {
        match address {
            AdminAddress::Unix(path) if path.as_os_str().len() > SOCKET_PATH_MAX => {
                let what = format!("{} is too long for a socket", path.display());
                self.problems.add(place, what, format!("write a path of at most {SOCKET_PATH_MAX} bytes"));
            }
            AdminAddress::Unix(_) => {}
            AdminAddress::Tcp(address) => {
                if open && !address.ip().to_canonical().is_loopback() {
                    let what = format!("{address} can be reached from other machines, by anyone");
                    let hint = "write token_file = \"PATH\" too, or an address such as \"127.0.0.1:9900\"";
                    self.problems.add(place, what, hint);
                }
                let taken =
                    listeners.iter().find(|listener| listener.address == *address && address.port() != 0);
                if let Some(listener) = taken {
                    let what = format!("{address} is already taken by the listener {:?}", listener.name);
                    self.problems.add(place, what, "give the admin API its own address or port");
                }
            }
        }
    }

    fn admin_token(&mut self, field: Field<String>) -> Option<Arc<Secret>> {
        let hint = |path: &Path| format!("make it with: openssl rand -hex 32 > {}", path.display());
        let (text, path, place) = self.secret_file(field, hint)?;
        let token = text.trim();
        if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = format!("{} does not hold a token", path.display());
            self.problems.add(&place, what, "write one line of at least 16 visible ASCII characters into it");
        }
        Some(Arc::new(Secret::new(token.to_owned())))
    }

    /// The text of the file that `field` names, and where that is. `create` says how to make one.
    pub(super) fn secret_file(
        &mut self,
        field: Field<String>,
        create: impl Fn(&Path) -> String,
    ) -> Option<(String, PathBuf, Place)> {
        let At { value, place } = field.given()?;
        if value.is_empty() {
            self.problems.add(&place, "is empty", "write the path of a file");
            return None;
        }
        let path = self.path(value);
        self.read.push(path.clone());
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                self.warn_of_other_readers(&path, &place);
                Some((text, path, place))
            }
            Err(error) => {
                let hint = match error.kind() {
                    ErrorKind::NotFound => create(&path),
                    _ => "write the path of a text file that the user who runs selvedge may read".to_owned(),
                };
                self.problems.add(&place, format!("{} cannot be read: {error}", path.display()), hint);
                None
            }
        }
    }

    fn warn_of_other_readers(&mut self, path: &Path, place: &Place) {
        let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o006 != 0 {
            let path = path.display();
            let key = &place.key;
            self.warnings
                .push(format!("{key}: every user of this machine can read {path}; run chmod o= {path}"));
        }
    }
}
