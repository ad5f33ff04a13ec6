//! What a client's certificate says of it, as targets hear of it.
//!
//! Made once for each connection. That nobody but us writes these fields is seen to in `proxy::headers`.

use http::{HeaderName, HeaderValue};
use rustls::Connection;

use crate::config::certificate::Facts;

/// Every field of this family is taken out of every request.
pub(crate) const FAMILY: &str = "x-client-cert-";

const VERIFY: HeaderName = HeaderName::from_static("x-client-cert-verify");
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");

/// See the module's documentation.
pub(crate) struct Identity {
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Identity {
    /// The client at the other end, whose certificate, if it has one, has been verified.
    pub(super) fn of(session: &Connection) -> Self {
        let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) else {
            return Self { fields: vec![(VERIFY, HeaderValue::from_static("NONE"))] };
        };
        let mut fields = vec![(VERIFY, HeaderValue::from_static("SUCCESS"))];
        let subject = Facts::read(certificate).and_then(|facts| HeaderValue::try_from(facts.subject).ok());
        fields.extend(subject.map(|subject| (SUBJECT, subject)));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        fields.extend(HeaderValue::try_from(digest).ok().map(|digest| (FINGERPRINT, digest)));
        Self { fields }
    }

    /// What targets are told.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields.iter().map(|(name, value)| (name, value))
    }
}
