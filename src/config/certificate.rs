//! What a certificate says: names, subject, and when it is valid.
//!
//! For people and for headers. Whether a certificate is believed is decided by rustls, which reads it by itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// DNS names, lower case, wildcards as `*.myclothes.test`; then addresses.
    pub names: Vec<Box<str>>,
    /// Distinguished name in the form of RFC 4514, the most specific part first: `CN=shop,O=MyClothes`. Visible ASCII.
    pub subject: String,
    /// First moment at which it is valid.
    pub not_before: SystemTime,
    /// Last moment at which it is valid.
    pub not_after: SystemTime,
}

/// How a certificate stands at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It is valid, and will be for a while.
    Valid,
    /// It is valid, but not for long.
    EndsSoon,
    /// Its time has not come.
    NotYet,
    /// Its time is over.
    Expired,
}

/// Less than this is not long.
pub const SOON: Duration = Duration::from_secs(14 * 86_400);

impl Facts {
    /// Reads a certificate in DER; `None` when it is none.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            names: names(&certificate),
            subject: rfc4514(certificate.subject()),
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        })
    }

    /// Whether a client that asks for `host` (lower case) accepts this certificate.
    pub fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => **name == *host,
        })
    }

    /// How it stands at `now`.
    pub fn validity(&self, now: SystemTime) -> Validity {
        if now < self.not_before {
            Validity::NotYet
        } else if now > self.not_after {
            Validity::Expired
        } else if now + SOON > self.not_after {
            Validity::EndsSoon
        } else {
            Validity::Valid
        }
    }
}

fn moment(unix: i64) -> SystemTime {
    match u64::try_from(unix) {
        Ok(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH),
        Err(_) => UNIX_EPOCH,
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<Box<str>> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string().into()),
            16 => Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string().into()),
            _ => None,
        },
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}

/// Names of attributes that RFC 4514 lists; others are written by their number.
fn attribute(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        _ => return None,
    })
}

fn rfc4514(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let part = |attributes: &x509_parser::x509::RelativeDistinguishedName<'_>| {
        let attributes = attributes.iter().map(|one| {
            let oid = one.attr_type().to_id_string();
            match (attribute(&oid), one.as_str()) {
                (Some(key), Ok(value)) => format!("{key}={}", escaped(value)),
                (None, Ok(value)) => format!("{oid}={}", escaped(value)),
                (key, Err(_)) => {
                    let bytes: String = one.as_slice().iter().map(|byte| format!("\\{byte:02X}")).collect();
                    format!("{}={bytes}", key.unwrap_or(&oid))
                }
            }
        });
        attributes.collect::<Vec<_>>().join("+")
    };
    parts.iter().rev().map(|attributes| part(attributes)).collect::<Vec<_>>().join(",")
}

/// `value` with everything escaped that has a meaning in a distinguished name or is not visible ASCII.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(names: &[&str]) -> Facts {
        let names = names.iter().map(|name| (*name).into()).collect();
        let at = |days: u64| UNIX_EPOCH + Duration::from_secs(days * 86_400);
        Facts { names, subject: String::new(), not_before: at(100), not_after: at(200) }
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let facts = facts(&["shop.test", "*.shop.test"]);
        assert!(facts.covers("shop.test") && facts.covers("www.shop.test"));
        assert!(!facts.covers("a.b.shop.test") && !facts.covers("test") && !facts.covers("myshop.test"));
    }

    #[test]
    fn validity_has_a_beginning_an_end_and_a_warning_before_it() {
        let facts = facts(&[]);
        let on = |day: u64| facts.validity(UNIX_EPOCH + Duration::from_secs(day * 86_400));
        assert_eq!([on(99), on(100), on(185)], [Validity::NotYet, Validity::Valid, Validity::Valid]);
        assert_eq!([on(187), on(200), on(201)], [Validity::EndsSoon, Validity::EndsSoon, Validity::Expired]);
    }

    #[test]
    fn a_subject_is_read_with_the_most_specific_part_first_and_cannot_break_out_of_a_field() {
        let mut parameters = rcgen::CertificateParams::new(vec!["Shop.Test".to_owned()]).unwrap();
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::OrganizationName, "MyClothes, Inc.");
        name.push(rcgen::DnType::CommonName, "Zoë\r\nx-forged: 1");
        parameters.distinguished_name = name;
        let key = rcgen::KeyPair::generate().unwrap();
        let facts = Facts::read(parameters.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(facts.subject, r"CN=Zo\C3\AB\0D\0Ax-forged: 1,O=MyClothes\, Inc.");
        assert_eq!(facts.names, ["shop.test".into()]);
    }
}
