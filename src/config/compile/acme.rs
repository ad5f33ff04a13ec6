//! `[acme]`: from whom certificates are obtained, for which names, and whether a listener can prove them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use super::{Compiler, DAY, millis, seconds};
use crate::config::Listener;
use crate::config::acme::{Acme, Challenge, ExternalAccount};
use crate::config::file::{self, At, Field, Place};
use crate::config::tls::ClientCertificates;

/// Most names that authorities put on one certificate.
const NAMES_MAX: usize = 100;

const RETRY: Duration = seconds(60);

impl Compiler<'_> {
    pub(super) fn acme(&mut self, field: Field<file::Acme>, listeners: &[Listener]) -> Option<Acme> {
        let Some(At { value: file, place }) = field.given() else {
            for listener in listeners.iter().filter(|listener| wants(listener)) {
                let hint =
                    "write [acme] with directory, storage, terms_of_service_agreed and [[acme.certificate]]";
                let what = format!("is missing, and listener {} says acme = true", listener.name);
                self.problems.add(&Place::default().key("acme"), what, hint);
            }
            return None;
        };
        if !file.terms_of_service_agreed.or(false) {
            let hint = "read the terms of the authority, and write terms_of_service_agreed = true if you agree to them";
            self.problems.add(&place.key("terms_of_service_agreed"), "is not true", hint);
        }
        let challenge = file.challenge.or(Challenge::TlsAlpn01);
        self.provable(challenge, listeners, &place);
        Some(Acme {
            directory: self.directory(file.directory, &place),
            contacts: super::plain(file.contacts.or_default())
                .into_iter()
                .map(|mailbox| format!("mailto:{}", mailbox.0))
                .collect(),
            challenge,
            storage: self.storage(file.storage, &place),
            ca: file.ca.given().map(|at| self.path(at.value)),
            retry: self.within(file.retry, RETRY, millis(100)..=DAY),
            external_account: self.external_account(file.external_account),
            certificates: self.names(file.certificate, &place),
        })
    }

    fn directory(&mut self, field: Field<String>, table: &Place) -> Box<str> {
        let hint = "write the https:// address that your authority gives for ACME, such as directory = \"https://acme-v02.api.letsencrypt.org/directory\"";
        match field.given() {
            None => self.problems.add(&table.key("directory"), "is missing", hint),
            Some(At { value, .. })
                if value
                    .parse::<http::Uri>()
                    .is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some()) =>
            {
                return value.into();
            }
            Some(At { value, place }) => {
                self.problems.add(&place, format!("{value:?} is not an https:// address"), hint)
            }
        }
        Box::default()
    }

    fn storage(&mut self, field: Field<String>, table: &Place) -> std::path::PathBuf {
        match field.given() {
            Some(At { value, .. }) => self.path(value),
            None => {
                let hint = "write storage = \"acme\", a folder that only the user who runs selvedge may read";
                self.problems.add(&table.key("storage"), "is missing", hint);
                std::path::PathBuf::new()
            }
        }
    }

    fn external_account(&mut self, field: Field<file::ExternalAccount>) -> Option<ExternalAccount> {
        let At { value: file, place } = field.given()?;
        for (key, absent) in
            [("key_id", file.key_id.is_absent()), ("hmac_key_file", file.hmac_key_file.is_absent())]
        {
            if absent {
                let hint =
                    "write { key_id = \"…\", hmac_key_file = \"acme.hmac\" } as your authority gave them";
                self.problems.add(&place.key(key), "is missing", hint);
            }
        }
        let key_id = file.key_id.given()?.value;
        let hint =
            |_: &std::path::Path| "write the path of the file with the secret of the account".to_owned();
        let (text, path, place) = self.secret_file(file.hmac_key_file, hint)?;
        let text = text.trim();
        match URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)) {
            Ok(hmac_key) if !hmac_key.is_empty() => Some(ExternalAccount { key_id, hmac_key }),
            _ => {
                let hint = "write the secret as the authority gave it: letters, digits, \"-\" and \"_\"";
                self.problems.add(&place, format!("{} holds no secret in base64url", path.display()), hint);
                None
            }
        }
    }

    fn names(&mut self, field: Field<Vec<At<file::AcmeCertificate>>>, table: &Place) -> Vec<Vec<Box<str>>> {
        let hint = "write [[acme.certificate]] with names = [\"myclothes.test\", \"www.myclothes.test\"]";
        let Some(At { value: list, .. }) = field.given().filter(|at| !at.value.is_empty()) else {
            self.problems.add(&table.key("certificate"), "is missing", hint);
            return Vec::new();
        };
        let mut first = std::collections::HashSet::new();
        let mut certificates = Vec::new();
        for At { value, place } in list {
            let names = self.filled_at(value.names, hint);
            if names.is_empty() {
                self.problems.add(&place.key("names"), "names nothing", hint);
            }
            if names.len() > NAMES_MAX {
                let what = format!("{} names are too many for one certificate", names.len());
                self.problems.add(
                    &place.key("names"),
                    what,
                    "write at most 100, and another [[acme.certificate]]",
                );
            }
            for At { value: name, place } in &names {
                if name.0.parse::<std::net::IpAddr>().is_ok() || !name.0.contains('.') {
                    let what = format!("{} is not a public name", name.0);
                    self.problems.add(place, what, "write a name that leads to this node for everybody");
                }
            }
            // Its file is called so.
            if let Some(At { value: name, place }) = names.first()
                && !first.insert(name.0.clone())
            {
                let what = format!("{} is the first name of another certificate already", name.0);
                self.problems.add(place, what, "write another name first, or both lists as one");
            }
            certificates.push(names.into_iter().map(|at| at.value.0).collect());
        }
        certificates
    }

    /// Whether the challenge can be passed at all.
    fn provable(&mut self, challenge: Challenge, listeners: &[Listener], place: &Place) {
        if !listeners.iter().any(wants) {
            self.warnings.push(
                "acme: no listener shows the certificates; write acme = true in [listener.tls]".to_owned(),
            );
        }
        match challenge {
            Challenge::Http01 if listeners.iter().all(|listener| listener.tls.is_some()) => {
                let hint = "add a listener without TLS at port 80, or write challenge = \"tls-alpn-01\"";
                self.problems.add(&place.key("challenge"), "needs a listener without TLS", hint);
            }
            Challenge::TlsAlpn01 => {
                let asks = |listener: &&Listener| {
                    let required = |tls: &crate::config::tls::ListenerTls| {
                        matches!(tls.clients, ClientCertificates::Require(_))
                    };
                    wants(listener) && listener.tls.as_deref().is_some_and(required)
                };
                for listener in listeners.iter().filter(asks) {
                    self.warnings.push(format!(
                        "listener {}: the authority has no client certificate, so tls-alpn-01 cannot be passed there; write challenge = \"http-01\"",
                        listener.name
                    ));
                }
            }
            Challenge::Http01 => {}
        }
    }
}

/// Whether a listener shows certificates obtained by ACME.
fn wants(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.acme)
}
