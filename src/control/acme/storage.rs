//! The folder that keeps the account and the certificates: `account.json`, and for each certificate `NAME.pem` with its key and
//! its chain in one file, so that the two always belong to each other. Named after the certificate's first name.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use instant_acme::AccountCredentials;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::config::certificate::Facts;
use crate::config::tls::provider;
use crate::control::durable;

/// A certificate that was obtained, with its key.
#[derive(Clone)]
pub(super) struct Obtained {
    /// Ready to use.
    pub(super) certified: Arc<CertifiedKey>,
    /// What it says.
    pub(super) facts: Facts,
}

impl Obtained {
    /// Reads key and chain.
    pub(super) fn read(pem: &str) -> Result<Self, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let chain = chain.map_err(|error| format!("holds no certificate that can be read: {error}"))?;
        let facts = chain.first().and_then(|first| Facts::read(first)).ok_or("holds no certificate")?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("holds no key: {error}"))?;
        let certified = CertifiedKey::from_der(chain, key, provider())
            .map_err(|error| format!("holds a key and a certificate that do not go together: {error}"))?;
        Ok(Self { certified: Arc::new(certified), facts })
    }

    /// Whether it holds all of these names.
    pub(super) fn covers(&self, names: &[Box<str>]) -> bool {
        names.iter().all(|name| self.facts.covers(name))
    }

    /// From when until when it is valid.
    pub(super) fn validity(&self) -> RangeInclusive<SystemTime> {
        self.facts.not_before..=self.facts.not_after
    }
}

/// See the module's documentation. Its functions block for as long as the disk does.
pub(super) struct Storage(PathBuf);

#[derive(Serialize, Deserialize)]
struct Account {
    /// Accounts belong to the authority that they were made at.
    directory: String,
    credentials: AccountCredentials,
}

impl Storage {
    /// The storage in `folder`, which need not exist yet.
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The account at `directory`; `None` if there is none.
    pub(super) fn account(&self, directory: &str) -> Result<Option<AccountCredentials>, String> {
        let file = self.0.join("account.json");
        let Some(text) = read(&file)? else { return Ok(None) };
        let account: Account = serde_json::from_str(&text).map_err(|error| {
            format!("{} is not an account: {error}; move it away to begin with a new one", file.display())
        })?;
        Ok((account.directory == directory).then_some(account.credentials))
    }

    /// Takes an account away that its authority does not know; what became of it, in words.
    pub(super) fn put_account_aside(&self) -> String {
        let file = self.0.join("account.json");
        let aside = durable::beside(&file, "unknown");
        match fs::rename(&file, &aside) {
            Ok(()) => format!("the account was put aside as {}, and another one is made", aside.display()),
            Err(error) => format!("move {} away: {error}", file.display()),
        }
    }

    /// Keeps the account at `directory`.
    pub(super) fn keep_account(
        &self,
        directory: &str,
        credentials: AccountCredentials,
    ) -> Result<(), String> {
        let account = Account { directory: directory.to_owned(), credentials };
        let text = serde_json::to_vec_pretty(&account).map_err(|error| error.to_string())?;
        self.write("account.json", &text)
    }

    /// The certificate with these names; `None` if there is none.
    pub(super) fn certificate(&self, names: &[Box<str>]) -> Result<Option<Obtained>, String> {
        let file = self.0.join(file_of(names));
        let Some(text) = read(&file)? else { return Ok(None) };
        Obtained::read(&text).map(Some).map_err(|wrong| format!("{} {wrong}", file.display()))
    }

    /// Keeps the certificate with these names.
    pub(super) fn keep_certificate(&self, names: &[Box<str>], pem: &str) -> Result<(), String> {
        self.write(&file_of(names), pem.as_bytes())
    }

    fn write(&self, file: &str, text: &[u8]) -> Result<(), String> {
        let file = self.0.join(file);
        let written = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        written
            .and_then(|()| durable::replace(&file, text))
            .map_err(|error| format!("{} cannot be written: {error}", file.display()))
    }
}

fn file_of(names: &[Box<str>]) -> String {
    format!("{}.pem", names.first().map_or("unnamed", |name| name))
}

fn read(file: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn unreadable(file: &Path, error: &io::Error) -> String {
    format!("{} cannot be read: {error}", file.display())
}
