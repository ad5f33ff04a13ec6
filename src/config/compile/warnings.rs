//! What works, but not as its author may think: found by looking at routes and pools together.

use super::Compiler;
use crate::config::{Action, HostPattern, Pool, Route, StickinessMode};

impl Compiler<'_> {
    /// What works, but not as its author may think. Looked at only when nothing is wrong: indices are exact then.
    pub(super) fn routes_and_pools_together(&mut self, routes: &[Route], pools: &[Pool]) {
        if !self.problems.is_empty() {
            return;
        }
        let reached: Vec<Vec<&Pool>> = routes.iter().map(|route| pools_of(route, pools)).collect();
        for pool in pools {
            let name = &pool.name;
            if !reached.iter().flatten().any(|reached| reached.name == *name) {
                self.warnings.push(format!("pool.{name}: no route leads to it"));
            }
            if !pool.targets.is_empty()
                && pool.targets.iter().all(|target| target.weight == 0)
                && pool.discover.iter().all(|discover| discover.weight == Some(0))
            {
                self.warnings
                    .push(format!("pool.{name}: every target has weight 0, so none takes new sessions"));
            }
        }
        for (index, (route, pools)) in routes.iter().zip(&reached).enumerate() {
            self.domains_that_browsers_refuse(route, pools);
            for (other, others) in routes.iter().zip(&reached).skip(index + 1) {
                self.cookies_that_overwrite_each_other((route, pools), (other, others));
            }
        }
        self.warnings.sort();
        self.warnings.dedup();
    }

    fn domains_that_browsers_refuse(&mut self, route: &Route, pools: &[&Pool]) {
        let Some(HostPattern::Exact(host) | HostPattern::Wildcard(host)) = &route.host else { return };
        for pool in pools.iter().filter(|pool| is_sticky(pool)) {
            if let Some(domain) = &pool.stickiness.domain
                && !covers(domain, host)
            {
                let host = host.trim_start_matches('.');
                self.warnings.push(format!(
                    "pool.{}.stickiness.domain: browsers refuse a cookie for {domain} from {host}, which a route sends here",
                    pool.name
                ));
            }
        }
    }

    fn cookies_that_overwrite_each_other(&mut self, one: (&Route, &[&Pool]), two: (&Route, &[&Pool])) {
        let sticky = |pools: &[&Pool]| {
            pools.iter().copied().filter(|pool| is_sticky(pool)).cloned().collect::<Vec<_>>()
        };
        for a in sticky(one.1) {
            for b in sticky(two.1) {
                if a.name == b.name || a.stickiness.cookie != b.stickiness.cookie {
                    continue;
                }
                let (first, second) = if a.name < b.name { (&a, &b) } else { (&b, &a) };
                if scopes_meet(one.0.host.as_ref(), &a, two.0.host.as_ref(), &b) {
                    self.warnings.push(format!(
                        "pool.{}.stickiness.cookie: pool {:?} uses the cookie {:?} on the same hosts, so each ends the \
                         other's sessions; give one of them another cookie",
                        second.name, first.name, first.stickiness.cookie
                    ));
                }
            }
        }
    }
}

fn pools_of<'p>(route: &Route, pools: &'p [Pool]) -> Vec<&'p Pool> {
    match &route.action {
        Action::Pools(choices) => choices.iter().map(|choice| &pools[choice.pool]).collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    }
}

fn is_sticky(pool: &Pool) -> bool {
    pool.stickiness.mode != StickinessMode::Off
}

/// Whether a browser may send the cookies of both pools with one request.
fn scopes_meet(a_host: Option<&HostPattern>, a: &Pool, b_host: Option<&HostPattern>, b: &Pool) -> bool {
    let (a, b) = (a.stickiness.domain.as_deref(), b.stickiness.domain.as_deref());
    let inside = |domain: &str, host: &HostPattern| match host {
        HostPattern::Exact(host) | HostPattern::Wildcard(host) => covers(domain, host),
    };
    match (a_host, b_host) {
        (None, _) | (_, None) => true,
        (Some(a_host), Some(b_host)) => {
            hosts_meet(a_host, b_host)
                || a.is_some_and(|domain| inside(domain, b_host))
                || b.is_some_and(|domain| inside(domain, a_host))
        }
    }
}

fn hosts_meet(a: &HostPattern, b: &HostPattern) -> bool {
    match (a, b) {
        (HostPattern::Exact(a), HostPattern::Exact(b)) => a == b,
        (HostPattern::Exact(host), HostPattern::Wildcard(suffix))
        | (HostPattern::Wildcard(suffix), HostPattern::Exact(host)) => host.ends_with(&**suffix),
        (HostPattern::Wildcard(a), HostPattern::Wildcard(b)) => a.ends_with(&**b) || b.ends_with(&**a),
    }
}

/// Whether `host` is `domain` or a name below it.
fn covers(domain: &str, host: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
