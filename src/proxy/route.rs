//! Which route a request takes: host first, then the longest path, then the most conditions.
//!
//! The table is compiled once from the configuration. A lookup hashes the host, tries exact names before wildcards
//! (longest suffix first) before routes for any host, and allocates nothing. Within a host, routes stand in the order in
//! which they win, so the first match is the answer.

use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt as _};

use super::request::Head;
use crate::config::{HostPattern, Route};

/// All routes, ready for lookup.
pub struct RouteTable {
    exact: HashMap<Box<str>, Vec<Route>>,
    /// By suffix, such as `.myclothes.test`.
    wildcard: HashMap<Box<str>, Vec<Route>>,
    any: Vec<Route>,
}

/// Longest host that can match a route by name: the limit of DNS.
const HOST_MAX: usize = 253;

impl RouteTable {
    /// Sorts `routes` so that the most specific comes first: longest path, then most conditions, then the file's order.
    pub fn new(routes: &[Route]) -> Self {
        let mut table = Self { exact: HashMap::new(), wildcard: HashMap::new(), any: Vec::new() };
        for route in routes {
            match &route.host {
                Some(HostPattern::Exact(host)) => {
                    table.exact.entry(host.clone()).or_default().push(route.clone())
                }
                Some(HostPattern::Wildcard(suffix)) => {
                    table.wildcard.entry(suffix.clone()).or_default().push(route.clone());
                }
                None => table.any.push(route.clone()),
            }
        }
        for group in table.exact.values_mut().chain(table.wildcard.values_mut()).chain([&mut table.any]) {
            group.sort_by_key(|route| std::cmp::Reverse((trimmed(&route.path).len(), conditions(route))));
        }
        table
    }

    /// The route of this request; `None` when none matches.
    pub fn find(&self, head: &Head, source: IpAddr) -> Option<&Route> {
        let mut lower = [0u8; HOST_MAX];
        let host = head.host().and_then(|host| lower_host(host.as_bytes(), &mut lower));
        let matching = |routes: &'_ Vec<Route>| routes.iter().position(|route| matches(route, head, source));
        let find = |routes| matching(routes).map(|index| &routes[index]);
        if let Some(host) = host {
            if let Some(route) = self.exact.get(host).and_then(find) {
                return Some(route);
            }
            if !self.wildcard.is_empty() {
                for dot in memchr::memchr_iter(b'.', host.as_bytes()) {
                    if let Some(route) = self.wildcard.get(&host[dot..]).and_then(find) {
                        return Some(route);
                    }
                }
            }
        }
        find(&self.any)
    }
}

/// The host without port, in lower case; `None` if no route can name it.
fn lower_host<'a>(host: &[u8], into: &'a mut [u8; HOST_MAX]) -> Option<&'a str> {
    let name = match host {
        [b'[', ..] => &host[..=memchr::memchr(b']', host)?],
        _ => &host[..memchr::memchr(b':', host).unwrap_or(host.len())],
    };
    let name = name.strip_suffix(b".").unwrap_or(name);
    let into = into.get_mut(..name.len())?;
    into.copy_from_slice(name);
    into.make_ascii_lowercase();
    std::str::from_utf8(into).ok()
}

fn trimmed(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

fn conditions(route: &Route) -> usize {
    route.headers.len()
        + route.query.len()
        + usize::from(!route.methods.is_empty())
        + usize::from(!route.sources.is_empty())
}

fn matches(route: &Route, head: &Head, source: IpAddr) -> bool {
    path_matches(&route.path, head.path.path())
        && (route.methods.is_empty() || route.methods.contains(&head.method))
        && (route.sources.is_empty() || route.sources.iter().any(|net| net.contains(&source)))
        && route.headers.iter().all(|wanted| {
            head.headers
                .get_all(&wanted.name)
                .any(|value| wanted.value.as_ref().is_none_or(|wanted| wanted == value))
        })
        && route.query.iter().all(|wanted| {
            let query = head.path.query().unwrap_or_default();
            query.split('&').any(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                name == &*wanted.name && wanted.value.as_deref().is_none_or(|wanted| wanted == value)
            })
        })
}

/// A prefix matches at boundaries only: `/a` and `/a/` match `/a`, `/a/` and `/a/b`, not `/ab`.
fn path_matches(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(trimmed(prefix)) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || path == "*",
        None => false,
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
