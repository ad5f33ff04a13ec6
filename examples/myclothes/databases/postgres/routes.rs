//! Who is asked: decisions about servers, made of what the watch has seen. Nothing here waits or asks.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// A replica that is further behind than this is not asked.
pub(super) const MAX_LAG: Duration = Duration::from_secs(10);
/// Replicas that are asked how far they are, for one read, before the primary is taken.
const MOST_ASKED: usize = 2;
/// Positions of the primary that are remembered: half a minute.
const REMEMBERED: usize = 60;

/// What a server was when it answered last.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// Whether it has answered since it last failed.
    pub(super) up: bool,
    pub(super) role: Role,
    /// How far its log is: written by a primary, replayed by a replica.
    pub(super) position: u64,
    /// What it calls itself (`cluster_name`, `az-a` or `az_a`); empty if it does not say.
    pub(super) zone: String,
    /// Why it does not answer.
    pub(super) reason: Option<String>,
}

/// What a server does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// It takes writes. Each promotion begins a higher timeline.
    Primary { timeline: u32 },
    /// It follows a primary.
    #[default]
    Replica,
}

/// The server that takes writes: of several that say so, the one promoted last. A former primary that comes back as if nothing had happened is not it.
pub(super) fn primary(servers: &[Observed]) -> Option<usize> {
    let timeline = |server: &Observed| match server.role {
        Role::Primary { timeline } => Some(timeline),
        Role::Replica => None,
    };
    // Also of those that are away now: what they have begun is not undone by that.
    let newest = servers.iter().filter_map(timeline).max()?;
    servers.iter().position(|server| server.up && timeline(server) == Some(newest))
}

/// One server to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) server: usize,
    /// Whether it must be asked first how far it is.
    pub(super) ask: bool,
}

/// Who is asked to read, in this order: replicas that are known to have come to `seen`, those of the own zone first, and of several
/// another one each `turn`; then up to two that may have come so far by now; then the primary.
pub(super) fn reading(
    servers: &[Observed],
    lags: &[Duration],
    zone: &str,
    seen: u64,
    turn: usize,
) -> Vec<Route> {
    let replica = |index: &usize| {
        let server = &servers[*index];
        server.up && server.role == Role::Replica && lags[*index] <= MAX_LAG
    };
    let (mut near, mut far): (Vec<_>, Vec<_>) =
        (0..servers.len()).filter(replica).partition(|index| servers[*index].zone == zone);
    for group in [&mut near, &mut far] {
        let places = group.len().max(1);
        group.rotate_left(turn % places);
    }
    near.append(&mut far);
    let (there, perhaps): (Vec<_>, Vec<_>) =
        near.into_iter().partition(|index| servers[*index].position >= seen);
    let mut routes: Vec<Route> = there.into_iter().map(|server| Route { server, ask: false }).collect();
    // Nobody comes as far as "everything".
    if seen != u64::MAX {
        routes.extend(perhaps.into_iter().take(MOST_ASKED).map(|server| Route { server, ask: true }));
    }
    routes.extend(primary(servers).map(|server| Route { server, ask: false }));
    routes
}

/// How far the primary was, and when: by this, how far behind a replica is in time.
#[derive(Debug, Default)]
pub(super) struct History {
    of: Option<(usize, Role)>,
    positions: VecDeque<(Instant, u64)>,
}

impl History {
    /// Notes how far the primary is. Another primary begins another history.
    pub(super) fn note(&mut self, index: usize, primary: &Observed, now: Instant) {
        if self.of != Some((index, primary.role)) {
            self.of = Some((index, primary.role));
            self.positions.clear();
        }
        if self.positions.back().is_some_and(|(_, position)| *position == primary.position) {
            return;
        }
        self.positions.push_back((now, primary.position));
        if self.positions.len() > REMEMBERED {
            self.positions.pop_front();
        }
    }

    /// For how long the primary has been further than this position, as far as is remembered.
    pub(super) fn lag(&self, position: u64, now: Instant) -> Duration {
        let ahead = self.positions.iter().find(|(_, primary)| *primary > position);
        ahead.map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(role: Role, zone: &str, position: u64) -> Observed {
        Observed { up: true, role, position, zone: zone.into(), reason: None }
    }

    fn three() -> Vec<Observed> {
        vec![
            server(Role::Primary { timeline: 1 }, "az-a", 100),
            server(Role::Replica, "az-b", 100),
            server(Role::Replica, "az-c", 90),
        ]
    }

    fn read(servers: &[Observed], zone: &str, seen: u64, turn: usize) -> Vec<(usize, bool)> {
        let lags = vec![Duration::ZERO; servers.len()];
        reading(servers, &lags, zone, seen, turn).into_iter().map(|route| (route.server, route.ask)).collect()
    }

    #[test]
    fn reads_go_to_the_own_zone_then_elsewhere_then_to_the_primary() {
        let servers = three();
        assert_eq!(read(&servers, "az-c", 0, 0), [(2, false), (1, false), (0, false)]);
        assert_eq!(read(&servers, "az-b", 0, 7), [(1, false), (2, false), (0, false)]);
        // In a zone without one, all take turns.
        assert_eq!(read(&servers, "az-a", 0, 0)[0].0, 1);
        assert_eq!(read(&servers, "az-a", 0, 1)[0].0, 2);
    }

    #[test]
    fn who_has_written_reads_where_that_is_known_or_asks_first() {
        let mut servers = three();
        assert_eq!(read(&servers, "az-c", 95, 0), [(1, false), (2, true), (0, false)]);
        assert_eq!(read(&servers, "az-c", 101, 0), [(2, true), (1, true), (0, false)]);
        assert_eq!(read(&servers, "az-c", u64::MAX, 0), [(0, false)]);
        servers[0].up = false;
        assert_eq!(read(&servers, "az-c", u64::MAX, 0), [], "better no answer than an old one");
    }

    #[test]
    fn a_replica_that_is_away_or_far_behind_is_not_asked() {
        let mut servers = three();
        servers[1].up = false;
        let lags = [Duration::ZERO, Duration::ZERO, MAX_LAG + Duration::from_millis(1)];
        assert_eq!(reading(&servers, &lags, "az-c", 0, 0), [Route { server: 0, ask: false }]);
    }

    #[test]
    fn the_primary_is_the_one_promoted_last_whatever_a_former_one_says() {
        let mut servers = three();
        assert_eq!(primary(&servers), Some(0));
        servers[2].role = Role::Primary { timeline: 2 };
        assert_eq!(primary(&servers), Some(2));
        servers[2].up = false;
        assert_eq!(
            primary(&servers),
            None,
            "the former one must not take writes that the new one never gets"
        );
    }

    #[test]
    fn a_replica_is_behind_for_as_long_as_the_primary_has_been_further() {
        let (mut history, start) = (History::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let primary = |position| server(Role::Primary { timeline: 1 }, "az-a", position);
        history.note(0, &primary(10), at(0));
        history.note(0, &primary(20), at(5));
        history.note(0, &primary(20), at(9));
        assert_eq!(history.lag(20, at(60)), Duration::ZERO, "nothing is missing, however long ago that was");
        assert_eq!(history.lag(10, at(7)), Duration::from_secs(2));
        assert_eq!(history.lag(9, at(7)), Duration::from_secs(7));
        let promoted = server(Role::Primary { timeline: 2 }, "az-b", 15);
        history.note(1, &promoted, at(10));
        assert_eq!(
            history.lag(15, at(60)),
            Duration::ZERO,
            "what was lost with the old one is nothing to wait for"
        );
    }
}
