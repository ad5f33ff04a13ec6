//! Words that choose one of a closed set, and those that a later version will know.

use tracing::Level;

use super::document::{Wrong, nearest, quoted};
use super::values::Text;
use crate::config::{Balance, LogFormat, SameSite, Secure, StickinessMode, ZoneMode};

/// `health.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum ProbeType {
    Http,
    Tcp,
}

/// `stickiness.failback`. Only one is built, so nothing of it is left in the checked configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Failback {
    Never,
}

/// `redirect.scheme`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Scheme {
    Http,
    Https,
}

macro_rules! choices {
    ($(choice $type:ty { $first:literal => $first_value:expr, $($word:literal => $value:expr,)* } $(later { $($later:literal),+ })?)+) => {$(
        impl Text for $type {
            const KIND: &'static str = "one of the choices here";
            const WRITE: &'static str = concat!("write \"", $first, "\"" $(, " or \"", $word, "\"")*);

            fn parse(text: &str) -> Result<Self, Wrong> {
                match text {
                    $first => return Ok($first_value),
                    $($word => return Ok($value),)*
                    $($($later)|+ => {
                        let what = format!("{text:?} is not supported by this version");
                        return Err(Wrong::new(what, Self::WRITE));
                    })?
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
        }
    )+};
}

choices! {
    choice Balance {
        "round_robin" => Self::RoundRobin,
        "least_outstanding" => Self::LeastOutstanding,
    } later { "peak_ewma", "hash" }

    choice StickinessMode {
        "off" => Self::Off,
        "lb_cookie" => Self::LbCookie,
    } later { "app_cookie" }

    choice Failback {
        "never" => Self::Never,
    } later { "idle", "always" }

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
    } later { "local", "spill" }

    choice ProbeType {
        "http" => Self::Http,
        "tcp" => Self::Tcp,
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
}
