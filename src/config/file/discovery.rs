//! Values of `[[pool.NAME.discover]]` and `[resolver]`: names in DNS, name servers, where a zone comes from. Form only.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use toml::de::DeValue;

use super::document::{FromToml, Named, Place, Reader, Wrong, quoted};
use super::values::{Name, Text};
use crate::config::NameServer;

/// A complete name in DNS, lower case, without the dot at its end.
#[derive(Debug, Clone)]
pub(in crate::config) struct DnsName(pub(in crate::config) Box<str>);

impl Text for DnsName {
    const KIND: &'static str = "a name in DNS";
    const WRITE: &'static str = r#"write it such as "shop.internal" or "_http._tcp.shop.internal""#;

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok() {
            let what = format!("{} is an address, which needs no discovery", quoted(text));
            return Err(Wrong::new(what, "write it as a target"));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() <= 253 && name.split('.').all(label) {
            Ok(Self(name.into()))
        } else {
            Err(Self::wrong(text))
        }
    }
}

impl Text for NameServer {
    const KIND: &'static str = "a name server";
    const WRITE: &'static str =
        r#"write it such as "10.0.0.2", "127.0.0.1:5353" or "tls://1.1.1.1#one.one.one.one""#;

    fn parse(text: &str) -> Result<Self, Wrong> {
        let (rest, tls) = match text.strip_prefix("tls://") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (rest, name) = match rest.split_once('#') {
            Some((rest, name)) if tls => (rest, Some(name)),
            Some(_) => return Err(Self::wrong(text)),
            None => (rest, None),
        };
        let address = address_or_ip(rest, if tls { 853 } else { 53 }).ok_or_else(|| Self::wrong(text))?;
        let tls = match (tls, name) {
            (false, _) => None,
            (true, None) => Some(address.ip().to_string().into()),
            (true, Some(name)) => {
                let DnsName(name) = DnsName::parse(name).map_err(|_| Self::wrong(text))?;
                Some((&*name).into())
            }
        };
        Ok(Self { address, tls })
    }
}

/// An address with a port, or without one: then it gets `port`.
fn address_or_ip(text: &str, port: u16) -> Option<SocketAddr> {
    let ip = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let whole = || text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    ip.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port)).or_else(whole)
}

/// `zone_from`.
#[derive(Debug)]
pub(in crate::config) enum ZoneFrom {
    /// A label of an SRV record's target.
    Label,
    /// The range that holds the address.
    Ranges(Vec<(String, Place, Option<Name>)>),
}

impl FromToml for ZoneFrom {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        match value {
            DeValue::String(text) if text == "label" => Some(Self::Label),
            DeValue::Table(_) => {
                let Named(ranges) = Named::read(value, place, reader)?;
                Some(Self::Ranges(ranges))
            }
            other => {
                let write = r#"write "label", or ranges and their zones such as { "10.0.1.0/24" = "az-a" }"#;
                reader.mismatch(place, &other, "a source of zones", write)
            }
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "const": "label" }, Named::<Name>::schema()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_complete_with_or_without_its_last_dot() {
        let parse = |text| DnsName::parse(text).map(|name| name.0).map_err(|wrong| wrong.what);
        assert_eq!(parse("_http._tcp.Shop.internal."), Ok("_http._tcp.shop.internal".into()));
        assert_eq!(parse("shop"), Ok("shop".into()));
        for text in ["", ".", "a..b", "a b", "*.shop", "shop:80", "http://shop"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["127.0.0.1", "::1", "127.0.0.1:9001"] {
            assert!(parse(text).unwrap_err().contains("is an address"), "{text}");
        }
    }

    #[test]
    fn a_name_server_is_an_address_with_or_without_port_and_tls() {
        let parse = |text| {
            let server = NameServer::parse(text).map_err(|wrong| wrong.what)?;
            Ok::<_, String>((server.address.to_string(), server.tls.as_deref().map(str::to_owned)))
        };
        let plain = |address: &str| Ok((address.to_owned(), None));
        let tls = |address: &str, name: &str| Ok((address.to_owned(), Some(name.to_owned())));
        assert_eq!(parse("10.0.0.2"), plain("10.0.0.2:53"));
        assert_eq!(parse("127.0.0.1:5353"), plain("127.0.0.1:5353"));
        assert_eq!(parse("::1"), plain("[::1]:53"));
        assert_eq!(parse("[::1]:5353"), plain("[::1]:5353"));
        assert_eq!(parse("tls://1.1.1.1#one.one.one.one"), tls("1.1.1.1:853", "one.one.one.one"));
        assert_eq!(parse("tls://[2606:4700::1111]:8853"), tls("[2606:4700::1111]:8853", "2606:4700::1111"));
        for text in [
            "",
            "dns.internal",
            "1.1.1.1:0",
            "1.1.1.1#name",
            "tls://1.1.1.1#",
            "tls://dns.internal",
            "udp://1.1.1.1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
