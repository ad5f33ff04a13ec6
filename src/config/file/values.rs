//! Values that stand for themselves: numbers, sizes, times, addresses, names. Form only; limits are in `compile`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use serde_json::{Value, json};
use toml::de::DeValue;

use super::document::{FromToml, Place, Reader, Wrong, quoted};
use crate::config::units::{self, Percent, Size};
use crate::config::{self, AdminAddress, HostPattern};

/// Something that is written as text.
pub(in crate::config) trait Text: Sized {
    /// What it is, with its article.
    const KIND: &'static str;
    /// What to write instead of something else.
    const WRITE: &'static str;

    fn parse(text: &str) -> Result<Self, Wrong>;

    /// Its form as JSON Schema.
    fn form() -> Value {
        json!({ "type": "string" })
    }

    /// The error that says no more than the two constants.
    fn wrong(text: &str) -> Wrong {
        Wrong::new(format!("{} is not {}", quoted(text), Self::KIND), Self::WRITE)
    }
}

impl<T: Text> FromToml for T {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::String(text) => match Self::parse(&text) {
                Ok(value) => Some(value),
                Err(wrong) => reader.wrong(place, wrong),
            },
            other => reader.mismatch(place, &other, Self::KIND, Self::WRITE),
        }
    }

    fn schema() -> Value {
        Self::form()
    }
}

/// Types whose text is read by one function that returns an `Option`. `matches` is a regular expression for editors, which
/// every such text matches.
macro_rules! text {
    ($($type:ty: $kind:literal, $write:literal, $parse:expr $(, matches $pattern:literal)?;)+) => {$(
        impl Text for $type {
            const KIND: &'static str = $kind;
            const WRITE: &'static str = $write;

            fn parse(text: &str) -> Result<Self, Wrong> {
                let parse: fn(&str) -> Option<Self> = $parse;
                parse(text).ok_or_else(|| Self::wrong(text))
            }

            $(fn form() -> Value {
                json!({ "type": "string", "pattern": $pattern })
            })?
        }
    )+};
}

/// Name of a zone, a listener or a pool: it appears in metrics, paths and cookies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::config) struct Name(pub(in crate::config) Arc<str>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a cookie.
#[derive(Debug, Clone)]
pub(in crate::config) struct CookieName(pub(in crate::config) Box<str>);

/// A DNS name or an IP address without a port, lower case.
#[derive(Debug, Clone)]
pub(in crate::config) struct HostName(pub(in crate::config) Box<str>);

/// A DNS name, lower case, without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::config) struct DomainName(pub(in crate::config) Box<str>);

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An e-mail address, its domain in lower case.
#[derive(Debug, Clone)]
pub(in crate::config) struct Mailbox(pub(in crate::config) Box<str>);

/// A host name, with a port if one is wanted.
#[derive(Debug, Clone)]
pub(in crate::config) struct Authority(pub(in crate::config) Box<str>);

/// A path that begins with `/` and holds nothing that must be encoded; a query is still in it if there was one.
#[derive(Debug, Clone)]
pub(in crate::config) struct UriPath(pub(in crate::config) Box<str>);

/// What `balance = "hash"` is computed from.
#[derive(Debug, Clone)]
pub(in crate::config) struct HashOn(pub(in crate::config) config::HashOn);

/// A share of a pool's sessions for each second; everything at once without limit.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(in crate::config) struct Rate(pub(in crate::config) f64);

/// So many requests in such a time: `"100/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct RequestsPer(pub(in crate::config) i64, pub(in crate::config) Duration);

text! {
    String: "text", "write it in quotes", |text| Some(text.to_owned());
    Duration: "a duration", r#"write a number and a unit (ms, s, m, h, d), such as "500ms" or "5s""#,
        units::parse_duration, matches r"^\s*([0-9]+(ms|s|m|h|d))+\s*$";
    Percent: "a percentage", r#"write a number and a percent sign, such as "50%""#, units::parse_percent,
        matches r"^\s*[0-9.]+\s*%\s*$";
    IpNet: "a range of addresses", r#"write it such as "10.0.0.0/8", "2001:db8::/32" or "192.0.2.7""#, parse_net;
    IpAddr: "an IP address", r#"write it without a port, such as "203.0.113.10" or "2001:db8::10""#, |text| text.parse().ok();
    Ipv4Addr: "an IPv4 address", r#"write it without a port, such as "203.0.113.10""#, |text| text.parse().ok();
    Ipv6Addr: "an IPv6 address", r#"write it without a port and without brackets, such as "2001:db8::10""#,
        |text| text.parse().ok();
    SocketAddr: "an IP address with a port", r#"write it such as "127.0.0.1:8080" or "[::1]:8080""#,
        |text| text.parse().ok(), matches ":[0-9]+$";
    AdminAddress: "an IP address with a port, or a socket", r#"write it such as "127.0.0.1:9900" or "unix:/run/selvedge.sock""#,
        |text| match text.strip_prefix("unix:") {
            Some(path) => (!path.is_empty()).then(|| AdminAddress::Unix(path.into())),
            None => text.parse().ok().map(AdminAddress::Tcp),
        }, matches "^unix:.|:[0-9]+$";
    HeaderName: "a field name", r#"write it such as "x-variant""#, |text| HeaderName::from_bytes(text.as_bytes()).ok();
    HeaderValue: "a field value", "write visible ASCII characters and single spaces",
        |text| Some(text).filter(|text| text.trim() == *text).and_then(|text| HeaderValue::from_str(text).ok());
    Method: "a method", r#"write it in capitals, such as "GET""#,
        |text| Method::from_bytes(text.as_bytes()).ok().filter(|_| !text.bytes().any(|b| b.is_ascii_lowercase())),
        matches "^[^a-z]+$";
    Name: "a name", "write 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit",
        |text| is_name(text).then(|| Self(text.into())), matches "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$";
    CookieName: "a cookie name", "write 1 to 64 letters, digits or any of !#$%&'*+-.^_`|~",
        |text| (text.len() <= 64 && is_token(text)).then(|| Self(text.into()));
    HostName: "a host name", r#"write it without a port and without "*", such as "myclothes.test""#,
        |text| is_host(text).then(|| Self(text.to_ascii_lowercase().into()));
    DomainName: "a domain name", r#"write letters, digits and "-" between dots, such as "lb.myclothes.test""#,
        |text| domain_name(text).map(Self);
    Mailbox: "an e-mail address", r#"write it such as "hostmaster@myclothes.test""#, |text| mailbox(text).map(Self);
    Authority: "a host", r#"write it such as "myclothes.test" or "myclothes.test:8443""#,
        |text| is_authority(text).then(|| Self(text.to_ascii_lowercase().into()));
    HashOn: "something to hash", r#"write "header:NAME", "cookie:NAME", "path" or "source""#, parse_hash_on,
        matches "^(header:.+|cookie:.+|path|source)$";
    RequestsPer: "a rate of requests", r#"write a number of requests for each second, minute or hour, such as "100/s""#,
        parse_requests_per, matches r"^\s*[0-9]+\s*/\s*[smh]\s*$";
    Rate: "a rate", r#"write "at_once", or a percentage for each second such as "5%/s""#,
        |text| match text {
            "at_once" => Some(Self(f64::INFINITY)),
            _ => units::parse_percent(text.strip_suffix("/s")?).map(|share| Self(share.0)),
        }, matches r"^(at_once|\s*[0-9.]+\s*%\s*/s)$";
    UriPath: "a path", r#"write it with a leading "/", such as "/shop", and encode what is not plain ASCII"#,
        |text| is_path(text).then(|| Self(text.into())), matches "^/";
}

impl Text for HostPattern {
    const KIND: &'static str = "a host";
    const WRITE: &'static str = r#"write "myclothes.test", or "*.myclothes.test" for all names below it"#;

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text == "*" {
            return Err(Wrong::new("\"*\" is not a host", "leave the key out to match any host"));
        }
        if let Some((host, port)) = text.rsplit_once(':')
            && is_host(host.strip_prefix("*.").unwrap_or(host))
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            let what = format!("{} has a port, which routes do not look at", quoted(text));
            return Err(Wrong::new(what, format!("write {host:?}")));
        }
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix('*') {
            Some(suffix) if suffix.strip_prefix('.').is_some_and(is_host) => {
                Ok(Self::Wildcard(suffix.into()))
            }
            None if is_host(&lower) => Ok(Self::Exact(lower.into())),
            _ => Err(Self::wrong(text)),
        }
    }
}

fn parse_requests_per(text: &str) -> Option<RequestsPer> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let digits = !count.trim().starts_with('+');
    let count = count.trim().parse().ok().filter(|count: &i64| digits && *count >= 0)?;
    Some(RequestsPer(count, Duration::from_secs(seconds)))
}

/// A range, or a single address as a range of one.
fn parse_net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address)))
}

fn parse_hash_on(text: &str) -> Option<HashOn> {
    let on = match text.split_once(':') {
        Some(("header", name)) => config::HashOn::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        Some(("cookie", name)) if is_token(name) => config::HashOn::Cookie(name.into()),
        None if text == "path" => config::HashOn::Path,
        None if text == "source" => config::HashOn::Source,
        _ => return None,
    };
    Some(HashOn(on))
}

pub(in crate::config) fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether this is a DNS name of letters, digits, `-` and `_`, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    if let Some(v6) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// A name that can be asked for: no address, and short enough for a message.
fn domain_name(text: &str) -> Option<Box<str>> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_address = name.parse::<Ipv4Addr>().is_ok() || name.starts_with('[');
    (is_host(&name) && !is_address).then(|| name.into())
}

fn mailbox(text: &str) -> Option<Box<str>> {
    let (local, domain) = text.rsplit_once('@')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
    let domain = domain_name(domain)?;
    // In a record it becomes a name: the part before the "@" is a label of it.
    let fits = (1..=63).contains(&local.len()) && local.len() + domain.len() < 252;
    (fits && local.bytes().all(plain)).then(|| format!("{local}@{domain}").into())
}

fn is_authority(text: &str) -> bool {
    let port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    is_host(text) || text.rsplit_once(':').is_some_and(|(host, digits)| is_host(host) && port(digits))
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&b))
}

impl FromToml for bool {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::Boolean(value) => Some(value),
            other => reader.mismatch(place, &other, "a yes or no", "write true or false, without quotes"),
        }
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

impl FromToml for i64 {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        match integer(&value) {
            Some(number) => Some(number),
            None => reader.mismatch(place, &value, "a whole number", "write digits, without quotes"),
        }
    }

    fn schema() -> Value {
        json!({ "type": "integer" })
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(number) = value else { return None };
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

impl FromToml for f64 {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        let number = match &value {
            DeValue::Float(number) => number.as_str().parse().ok().filter(|number: &Self| number.is_finite()),
            whole => integer(whole).map(|number| number as Self),
        };
        number.or_else(|| reader.mismatch(place, &value, "a number", "write it such as 1.4, without quotes"))
    }

    fn schema() -> Value {
        json!({ "type": "number" })
    }
}

/// A number of things, or a share of all of them.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) enum OrShare {
    Number(i64),
    Share(Percent),
}

impl FromToml for OrShare {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::Integer(_) => i64::read(value, place, reader).map(Self::Number),
            other => Percent::read(other, place, reader).map(Self::Share),
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [i64::schema(), Percent::form()] })
    }
}

impl FromToml for Size {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        let size = match &value {
            DeValue::String(text) => units::parse_size(text),
            number => integer(number).and_then(|bytes| u64::try_from(bytes).ok()).map(Self),
        };
        let hint =
            r#"write a number and a unit (B, KiB, MiB, GiB), such as "64KiB", or a plain number of bytes"#;
        size.or_else(|| reader.mismatch(place, &value, "a size", hint))
    }

    fn schema() -> Value {
        let text = json!({ "type": "string", "pattern": r"^\s*[0-9]+\s*(B|KiB|MiB|GiB)\s*$" });
        json!({ "anyOf": [text, { "type": "integer", "minimum": 0 }] })
    }
}

/// One status, or a range of them.
#[derive(Debug, Clone)]
pub(in crate::config) struct Statuses(pub(in crate::config) RangeInclusive<u16>);

impl FromToml for Statuses {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        let status =
            |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=999).contains(status));
        let range = match &value {
            DeValue::String(text) => {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                status(first).zip(status(last)).filter(|(first, last)| first <= last)
            }
            number => integer(number).and_then(|n| status(&n.to_string())).map(|status| (status, status)),
        };
        match range {
            Some((first, last)) => Some(Self(first..=last)),
            None => reader.mismatch(
                place,
                &value,
                "a range of statuses",
                r#"write it such as "200-299" or "204""#,
            ),
        }
    }

    fn schema() -> Value {
        let text = json!({ "type": "string", "pattern": r"^\s*[0-9]{3}\s*(-\s*[0-9]{3}\s*)?$" });
        json!({ "anyOf": [text, { "type": "integer", "minimum": 100, "maximum": 999 }] })
    }
}

/// `"off"`, or a value.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) enum OrOff<T> {
    Off,
    On(T),
}

impl<T: FromToml> FromToml for OrOff<T> {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::String(text) if text == "off" => Some(Self::Off),
            other => T::read(other, place, reader).map(Self::On),
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "const": "off" }, T::schema()] })
    }
}

/// `"auto"`, or a number.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) enum OrAuto {
    Auto,
    Number(i64),
}

impl FromToml for OrAuto {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::String(text) if text == "auto" => Some(Self::Auto),
            DeValue::String(_) => {
                reader.mismatch(place, &value, "a number", "write \"auto\" or a number without quotes")
            }
            other => i64::read(other, place, reader).map(Self::Number),
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "const": "auto" }, i64::schema()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_a_wildcard_without_a_port() {
        let parse = |text| HostPattern::parse(text).map_err(|wrong| wrong.hint);
        assert_eq!(parse("MyClothes.test"), Ok(HostPattern::Exact("myclothes.test".into())));
        assert_eq!(parse("*.myclothes.test"), Ok(HostPattern::Wildcard(".myclothes.test".into())));
        assert_eq!(parse("127.0.0.1"), Ok(HostPattern::Exact("127.0.0.1".into())));
        assert_eq!(parse("[::1]"), Ok(HostPattern::Exact("[::1]".into())));
        assert_eq!(parse("myclothes.test:80"), Err("write \"myclothes.test\"".to_owned()));
        for text in
            ["", "*", "*.", "a..b", "a.", "a b", "w*.test", "a.*.test", "http://a", "a/b", "::1", "[::1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_single_address_is_a_range_of_one() {
        assert_eq!(parse_net("192.0.2.7"), "192.0.2.7/32".parse().ok());
        assert_eq!(parse_net("::1"), "::1/128".parse().ok());
        assert_eq!(parse_net("10.0.0.0/33"), None);
    }
}
