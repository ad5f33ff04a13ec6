//! Words that choose one of a closed set.

use serde_json::{Value, json};
use tracing::Level;

use super::document::{Wrong, nearest, quoted};
use super::values::Text;
use crate::config::acme::Challenge;
use crate::config::otlp::Parents;
use crate::config::tls::MinVersion;
use crate::config::{
    AccessField, AccessFormat, DnsPolicy, Failback, HealthDrain, LogFormat, Protocol, SameSite, Secure,
    StickinessMode, TargetProtocol, ZoneMode,
};

/// `health.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum ProbeType {
    Http,
    Tcp,
    Grpc,
}

/// `balance`; what `hash` is computed from stands in another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum BalanceName {
    RoundRobin,
    LeastOutstanding,
    PeakEwma,
    Hash,
}

/// `discover.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RecordType {
    Srv,
    A,
    Aaaa,
}

/// `client_certificates`; by whom they are signed stands in another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum ClientMode {
    Off,
    Request,
    Require,
}

/// `tls.verify` of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Verify {
    Full,
    None,
}

/// `proxy_protocol` of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum SendProxy {
    Off,
    V2,
}

/// `redirect.scheme`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Scheme {
    Http,
    Https,
}

macro_rules! choices {
    ($(choice $type:ty { $first:literal => $first_value:expr, $($word:literal => $value:expr,)* })+) => {$(
        impl Text for $type {
            const KIND: &'static str = "one of the choices here";
            const WRITE: &'static str = concat!("write \"", $first, "\"" $(, " or \"", $word, "\"")*);

            fn parse(text: &str) -> Result<Self, Wrong> {
                match text {
                    $first => return Ok($first_value),
                    $($word => return Ok($value),)*
                    _ => {}
                }
                match nearest(text, &[$first $(, $word)*]) {
                    Some(near) => {
                        let what = format!("{} is not {}", quoted(text), Self::KIND);
                        Err(Wrong::new(what, format!("did you mean {near:?}?")))
                    }
                    None => Err(Self::wrong(text)),
                }
            }

            fn form() -> Value {
                json!({ "enum": [$first $(, $word)*] })
            }
        }
    )+};
}

choices! {
    choice BalanceName {
        "round_robin" => Self::RoundRobin,
        "least_outstanding" => Self::LeastOutstanding,
        "peak_ewma" => Self::PeakEwma,
        "hash" => Self::Hash,
    }

    choice StickinessMode {
        "off" => Self::Off,
        "lb_cookie" => Self::LbCookie,
        "app_cookie" => Self::AppCookie,
    }

    choice Failback {
        "never" => Self::Never,
        "idle" => Self::Idle,
        "always" => Self::Always,
    }

    choice HealthDrain {
        "header" => Self::Header,
        "404" => Self::NotFound,
        "off" => Self::Off,
    }

    choice SameSite {
        "strict" => Self::Strict,
        "lax" => Self::Lax,
        "none" => Self::None,
    }

    choice Secure {
        "auto" => Self::Auto,
        "always" => Self::Always,
        "never" => Self::Never,
    }

    choice ZoneMode {
        "even" => Self::Even,
        "local" => Self::Local,
        "spill" => Self::Spill,
    }

    choice MinVersion {
        "1.2" => Self::Tls12,
        "1.3" => Self::Tls13,
    }

    choice Challenge {
        "tls-alpn-01" => Self::TlsAlpn01,
        "http-01" => Self::Http01,
    }

    choice Protocol {
        "h2" => Self::Http2,
        "http/1.1" => Self::Http1,
    }

    choice ClientMode {
        "off" => Self::Off,
        "request" => Self::Request,
        "require" => Self::Require,
    }

    choice Verify {
        "full" => Self::Full,
        "none" => Self::None,
    }

    choice SendProxy {
        "off" => Self::Off,
        "v2" => Self::V2,
    }

    choice TargetProtocol {
        "http1" => Self::Http1,
        "h2" => Self::H2,
        "auto" => Self::Auto,
    }

    choice ProbeType {
        "http" => Self::Http,
        "tcp" => Self::Tcp,
        "grpc" => Self::Grpc,
    }

    choice RecordType {
        "srv" => Self::Srv,
        "a" => Self::A,
        "aaaa" => Self::Aaaa,
    }

    choice DnsPolicy {
        "multivalue" => Self::Multivalue,
        "weighted" => Self::Weighted,
        "failover" => Self::Failover,
        "nearest" => Self::Nearest,
    }

    choice Scheme {
        "http" => Self::Http,
        "https" => Self::Https,
    }

    choice Level {
        "error" => Self::ERROR,
        "warn" => Self::WARN,
        "info" => Self::INFO,
        "debug" => Self::DEBUG,
        "trace" => Self::TRACE,
    }

    choice LogFormat {
        "text" => Self::Text,
        "json" => Self::Json,
    }
    choice AccessFormat {
        "json" => Self::Json,
        "combined" => Self::Combined,
    }

    choice Parents {
        "trusted" => Self::Trusted,
        "all" => Self::All,
        "none" => Self::None,
    }
}

impl Text for AccessField {
    const KIND: &'static str = "a field of the access log";
    const WRITE: &'static str =
        "write one of those that stand in config/selvedge.toml, such as \"time\" or \"status\"";

    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(field) = Self::ALL.iter().find(|field| field.as_str() == text) {
            return Ok(*field);
        }
        let names: Vec<_> = Self::ALL.iter().map(|field| field.as_str()).collect();
        Err(match nearest(text, &names) {
            Some(near) => Wrong::new(
                format!("{} is not {}", quoted(text), Self::KIND),
                format!("did you mean {near:?}?"),
            ),
            None => Self::wrong(text),
        })
    }

    fn form() -> Value {
        let names: Vec<_> = Self::ALL.iter().map(|field| field.as_str()).collect();
        json!({ "enum": names })
    }
}
