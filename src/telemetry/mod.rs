//! What a node tells about itself: log lines, a line for each request, spans of some, and the text form of metrics.
//!
//! Log lines go to standard error, so that standard output stays free for what a command prints. What is counted is
//! decided where it happens (`pool::counters`), and which metrics there are in `control::metrics`.

pub mod access_log;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod process;
pub mod prometheus;
pub mod spans;
pub mod time;

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, registry, reload};

use crate::config::{Log, LogFormat};

/// Which lines are written, to be changed while the node runs.
static LEVELS: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging to standard error. A second call changes nothing.
///
/// The level of `log` is that of Selvedge itself; of the libraries under it, warnings and errors are shown.
/// Colours only on a terminal, and not when `NO_COLOR` is set.
pub fn init(log: &Log) {
    let (levels, handle) = reload::Layer::new(levels(log.level));
    let lines = match log.format {
        LogFormat::Text => {
            let colours = colours_wanted(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR"));
            let lines = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colours);
            lines.with_filter(levels).boxed()
        }
        LogFormat::Json => {
            let lines = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            lines.with_target(false).with_filter(levels).boxed()
        }
    };
    let already_started = registry().with(lines).try_init();
    if already_started.is_ok() {
        let _ = LEVELS.set(handle);
    }
}

/// Changes the level; does nothing before [`init`].
pub fn set_level(level: Level) {
    if let Some(handle) = LEVELS.get() {
        // The only error is a subscriber that is gone.
        let _ = handle.reload(levels(level));
    }
}

fn levels(level: Level) -> Targets {
    let levels =
        Targets::new().with_default(LevelFilter::WARN).with_target("selvedge", LevelFilter::from(level));
    // It warns of every datagram that is no answer to a question, which anybody can send.
    let levels = levels.with_target("hickory", LevelFilter::ERROR);
    // The same with frames that clients may send.
    levels.with_target("h2", LevelFilter::ERROR)
}

/// <https://no-color.org>: any value but the empty one switches colours off.
fn colours_wanted(terminal: bool, no_color: Option<std::ffi::OsString>) -> bool {
    terminal && no_color.is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_user_does_not_object() {
        assert!(colours_wanted(true, None));
        assert!(colours_wanted(true, Some("".into())));
        assert!(!colours_wanted(true, Some("1".into())));
        assert!(!colours_wanted(false, None));
    }
}
