//! File descriptors: as many as the system gives, and shared out so that clients cannot take those of targets and checks.
//!
//! A client's connection may need one to a target, so clients may have half of what the node does not need for itself. That is
//! a bound beside the listeners' own `max_connections`; what happens at it is in `proxy::place`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// The most that is kept for the admin API, and for checks of targets each; at most a sixteenth of all.
const RESERVE: u64 = 64;
/// For what comes and goes: files that are read, questions to name servers, certificates.
const OTHERS: u64 = 16;
/// Of each worker beside its listeners: its queue of events, and what wakes it.
const WORKER: u64 = 4;

/// How many client connections there may be at the same time. Raises the soft limit of file descriptors to the hard one, and
/// warns if that is few for what the configuration allows. Call it when the sockets are bound.
pub fn share_out(config: &Config) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    let raised = soft >= hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let workers = config.workers as u64;
    // Workers look at their sockets through copies.
    let own = open + workers * (WORKER + config.listeners.len() as u64);
    let clients = for_clients(limit, own);
    let wanted: u64 = config.listeners.iter().map(|listener| listener.max_connections as u64).sum();
    if clients < wanted {
        tracing::warn!(
            limit,
            clients,
            max_connections = wanted,
            "file descriptors are few: there can be {clients} client connections, and the listeners allow {wanted}; \
             raise the limit (ulimit -n, LimitNOFILE) or lower max_connections"
        );
    }
    clients
}

/// What clients may have of `limit` descriptors, of which the node has `own`.
fn for_clients(limit: u64, own: u64) -> u64 {
    let reserve = 2 * RESERVE.min(limit / 16) + OTHERS.min(limit / 16);
    (limit.saturating_sub(own + reserve) / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_checks_keep_more_than_half() {
        assert_eq!(for_clients(256, 30), 89);
        assert_eq!(for_clients(20_000, 40), 9_908);
        assert_eq!(for_clients(10, 30), 1);
        for limit in [64, 256, 1024, 65_536, 1 << 30] {
            let clients = for_clients(limit, 20);
            assert!(2 * clients + 20 <= limit, "{clients} of {limit}");
        }
    }
}
