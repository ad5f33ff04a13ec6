//! Paths of the admin API, parsed: which endpoint, and which methods it knows.
//!
//! A target is named `zone/address`; the slash in it may be sent as it is or as `%2F`.

use http::Method;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/`
    Dashboard,
    /// `/livez`
    Livez,
    /// `/readyz`
    Readyz,
    /// `/metrics`
    Metrics,
    /// `/v1/openapi.json`
    OpenApi,
    /// `/v1/reload`
    Reload,
    /// `/v1/explain`
    Explain,
    /// `/v1/upgrade`
    Upgrade,
    /// `/v1/dns`
    Dns,
    /// `/v1/events`
    Events,
    /// `/v1/pools`
    Pools,
    /// `/v1/pools/{pool}`
    Pool(String),
    /// `/v1/pools/{pool}/targets/{target}/state`
    TargetState {
        /// Name of the pool.
        pool: String,
        /// `zone/address`.
        target: String,
    },
    /// `/v1/pools/{pool}/targets/{target}`
    Target {
        /// Name of the pool.
        pool: String,
        /// `zone/address`.
        target: String,
    },
    /// `/v1/zones/{zone}/shift`
    Shift(String),
}

impl Endpoint {
    /// The endpoint at `path`; `None` when nothing is there.
    pub(super) fn parse(path: &str) -> Option<Self> {
        match path {
            "/" => return Some(Self::Dashboard),
            "/livez" => return Some(Self::Livez),
            "/readyz" => return Some(Self::Readyz),
            "/metrics" => return Some(Self::Metrics),
            "/v1/openapi.json" => return Some(Self::OpenApi),
            "/v1/reload" => return Some(Self::Reload),
            "/v1/explain" => return Some(Self::Explain),
            "/v1/upgrade" => return Some(Self::Upgrade),
            "/v1/dns" => return Some(Self::Dns),
            "/v1/events" => return Some(Self::Events),
            "/v1/pools" => return Some(Self::Pools),
            _ => {}
        }
        if let Some(rest) = path.strip_prefix("/v1/zones/") {
            return Some(Self::Shift(decode(rest.strip_suffix("/shift")?)?));
        }
        let rest = path.strip_prefix("/v1/pools/")?;
        let Some((pool, rest)) = rest.split_once('/') else {
            return Some(Self::Pool(decode(rest)?));
        };
        let target = rest.strip_prefix("targets/")?;
        match target.strip_suffix("/state") {
            Some(target) => Some(Self::TargetState { pool: decode(pool)?, target: decode(target)? }),
            None if target == "state" => None,
            None => Some(Self::Target { pool: decode(pool)?, target: decode(target)? }),
        }
    }

    /// Methods it answers, as the `Allow` field lists them.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::TargetState { .. } => "PUT",
            Self::Target { .. } | Self::Shift(_) => "PUT, DELETE",
            Self::Reload | Self::Explain | Self::Upgrade => "POST",
            _ => "GET, HEAD",
        }
    }

    /// Whether it answers `method`.
    pub(super) fn answers(&self, method: &Method) -> bool {
        self.methods().split(", ").any(|known| known == method.as_str())
    }

    /// Whether anybody who can connect may ask: the page holds no data, and whoever decides about sending traffic here
    /// asks the other two.
    pub(super) fn is_public(&self) -> bool {
        matches!(self, Self::Dashboard | Self::Livez | Self::Readyz)
    }
}

/// Resolves `%XX`; `None` when it is not text, or empty.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_named_with_its_slash_raw_or_encoded() {
        let named = Some(Endpoint::TargetState { pool: "shop".into(), target: "az-a/127.0.1.1:9001".into() });
        for path in [
            "/v1/pools/shop/targets/az-a/127.0.1.1:9001/state",
            "/v1/pools/shop/targets/az-a%2F127.0.1.1%3A9001/state",
            "/v1/pools/%73hop/targets/az-a%2f127.0.1.1:9001/state",
        ] {
            assert_eq!(Endpoint::parse(path), named, "{path}");
        }
        let six = Endpoint::parse("/v1/pools/shop/targets/-/[::1]:80/state");
        assert_eq!(six, Some(Endpoint::TargetState { pool: "shop".into(), target: "-/[::1]:80".into() }));
    }

    #[test]
    fn a_target_itself_is_registered_and_taken_back() {
        let target = Endpoint::parse("/v1/pools/shop/targets/az-a/127.0.1.1:9001").unwrap();
        assert_eq!(target, Endpoint::Target { pool: "shop".into(), target: "az-a/127.0.1.1:9001".into() });
        assert!(
            target.answers(&Method::PUT) && target.answers(&Method::DELETE) && !target.answers(&Method::GET)
        );
    }

    #[test]
    fn paths_that_name_nothing_are_nothing() {
        for path in [
            "",
            "*",
            "/x",
            "/livez/",
            "/v1",
            "/v1/pools/",
            "/v1/pools/shop/",
            "/v1/pools/shop/targets",
            "/v1/pools/shop/targets/state",
            "/v1/pools/shop/targets//state",
            "/v1/pools/%/targets/a/state",
            "/v1/pools/%zz",
            "/v1/pools/%ff",
            "/v1/pools/%+1",
            "/v1/zones/az-a",
            "/v1/zones//shift",
        ] {
            assert_eq!(Endpoint::parse(path), None, "{path}");
        }
    }

    #[test]
    fn only_what_it_lists_is_answered() {
        let put = Endpoint::parse("/v1/pools/shop/targets/a/state").unwrap();
        assert!(put.answers(&Method::PUT) && !put.answers(&Method::GET));
        assert!(Endpoint::Pools.answers(&Method::HEAD) && !Endpoint::Pools.answers(&Method::POST));
    }
}
