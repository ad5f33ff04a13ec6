//! Who may ask what: the bearer token, and the defences against a browser that is used as a tool.
//!
//! Without a token the API is bound to this machine (the configuration sees to that), and the danger is a web page that
//! the operator has open: it may point a name of its own at 127.0.0.1 (DNS rebinding), or send requests blindly (CSRF).
//! Such requests carry a foreign `Host` or `Origin`, or, where a browser sends no `Origin` (an image, a script), a
//! `Sec-Fetch-Site` that says so. A page cannot know the token, so with a token any `Host` will do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::uri::Authority;
use http::{HeaderMap, header};

use crate::config::units::Secret;

/// The rules of one connection.
#[derive(Clone)]
pub(super) struct Guard {
    /// Must be carried by every request, if there is one.
    pub(super) token: Option<Arc<Secret>>,
    /// This end of the connection; `None` on a unix socket, which no browser can reach.
    pub(super) local: Option<SocketAddr>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// No bearer token, or not the right one.
    Token,
    /// `Host` is not this API.
    Host,
    /// A page of another origin sent it.
    Origin,
}

impl Guard {
    /// Whether a request with these fields may be answered.
    pub(super) fn admit(&self, fields: &HeaderMap) -> Result<(), Denial> {
        match (&self.token, self.local) {
            (Some(token), _) => {
                if !has_token(fields, token) {
                    return Err(Denial::Token);
                }
            }
            (None, Some(local)) => {
                if !host(fields).is_some_and(|host| is_own(&host, local.ip())) {
                    return Err(Denial::Host);
                }
            }
            (None, None) => {}
        }
        if is_foreign(fields) { Err(Denial::Origin) } else { Ok(()) }
    }
}

/// Takes as long for a token that is almost right as for one that is all wrong.
fn has_token(fields: &HeaderMap, token: &Secret) -> bool {
    let Some(value) = fields.get(header::AUTHORIZATION) else { return false };
    let Some((scheme, sent)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ")
        && verify_slices_are_equal(sent.trim_ascii(), token.reveal().as_bytes()).is_ok()
}

fn host(fields: &HeaderMap) -> Option<Authority> {
    let mut hosts = fields.get_all(header::HOST).iter();
    let host = hosts.next()?;
    if hosts.next().is_some() {
        return None;
    }
    Authority::try_from(host.as_bytes()).ok()
}

/// `localhost`, a loopback address, or the address that was connected to. The port may differ: it does behind a
/// forwarded port.
fn is_own(host: &Authority, local: IpAddr) -> bool {
    let name = host.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.to_canonical() == local.to_canonical(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// Whether a browser says that a page from elsewhere sent this. Somebody who follows a link to here is no page.
fn is_foreign(fields: &HeaderMap) -> bool {
    let says = |name: &str, values: &[&str]| {
        fields.get(name).is_some_and(|value| values.iter().any(|known| value.as_bytes() == known.as_bytes()))
    };
    let elsewhere = says("sec-fetch-site", &["cross-site", "same-site"]);
    if elsewhere && !says("sec-fetch-dest", &["document"]) {
        return true;
    }
    let Some(origin) = fields.get(header::ORIGIN) else { return false };
    let own = host(fields);
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (origin, own) {
        (Some((_, origin)), Some(own)) => !origin.eq_ignore_ascii_case(own.as_str()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(*name, HeaderValue::from_static(value));
        }
        fields
    }

    fn open() -> Guard {
        Guard { token: None, local: Some("127.0.0.1:9900".parse().unwrap()) }
    }

    #[test]
    fn names_of_this_machine_are_its_own_and_others_are_not() {
        for host in ["127.0.0.1:9900", "localhost:9900", "LocalHost", "[::1]:9900", "127.0.0.1:8000"] {
            assert_eq!(open().admit(&fields(&[("host", host)])), Ok(()), "{host}");
        }
        for host in ["evil.example:9900", "10.1.2.3:9900", "localhost.evil.example", "127.0.0.1.evil.example"]
        {
            assert_eq!(open().admit(&fields(&[("host", host)])), Err(Denial::Host), "{host}");
        }
        assert_eq!(open().admit(&fields(&[])), Err(Denial::Host));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(open().admit(&fields(&twice)), Err(Denial::Host));
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let from = |origin| open().admit(&fields(&[("host", "127.0.0.1:9900"), ("origin", origin)]));
        assert_eq!(from("http://127.0.0.1:9900"), Ok(()));
        for origin in
            ["http://evil.example", "null", "http://127.0.0.1:8080", "http://127.0.0.1:9900.evil.example"]
        {
            assert_eq!(from(origin), Err(Denial::Origin), "{origin}");
        }
    }

    #[test]
    fn with_a_token_nothing_but_the_token_opens() {
        let token = Some(Arc::new(Secret::new("s3cret".into())));
        let guard = Guard { token, local: Some("10.0.0.1:9900".parse().unwrap()) };
        let with = |value| guard.admit(&fields(&[("host", "lb.internal:9900"), ("authorization", value)]));
        assert_eq!(with("Bearer s3cret"), Ok(()));
        assert_eq!(with("bearer  s3cret"), Ok(()));
        for value in ["Bearer s3cre", "Bearer s3crets", "Bearer", "Bearer ", "Basic s3cret", "s3cret", ""] {
            assert_eq!(with(value), Err(Denial::Token), "{value}");
        }
        assert_eq!(guard.admit(&fields(&[("host", "10.0.0.1:9900")])), Err(Denial::Token));
    }

    #[test]
    fn a_unix_socket_may_be_called_anything() {
        let guard = Guard { token: None, local: None };
        assert_eq!(guard.admit(&fields(&[("host", "selvedge")])), Ok(()));
        assert_eq!(guard.admit(&fields(&[])), Ok(()));
    }
}
