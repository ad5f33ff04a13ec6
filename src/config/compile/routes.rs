//! `[[route]]`: which requests, and what to do with them.
//!
//! Pools are referred to by their names here and by their indices afterwards. In which order routes are tried is not
//! known here: only that two with the same conditions cannot both win.

use std::collections::HashMap;

use http::{HeaderValue, Method, StatusCode};

use super::Compiler;
use crate::config::file::{self, At, Field, Place, Scheme, UriPath, nearest, quoted};
use crate::config::{Action, HeaderMatch, HostPattern, QueryMatch, Redirect, Respond, Route, WeightedPool};

impl Compiler<'_> {
    pub(super) fn routes(&mut self, file: Field<Vec<At<file::Route>>>, pools: &[String]) -> Vec<Route> {
        if file.is_absent() {
            self.warnings.push("route: there is none, so every request is answered with 404".to_owned());
        }
        let mut lines = HashMap::new();
        let mut routes = Vec::new();
        for At { value, place } in file.or(Vec::new()) {
            let Some(route) = self.route(value, &place, pools) else { continue };
            // A condition that could not be read looks like one that is left out.
            if !self.problems.concern(&place)
                && let Some(line) = lines.insert(conditions(&route), place.line)
            {
                let what =
                    format!("never wins: the route in line {line} has the same conditions and comes first");
                self.problems.add(&place, what, "remove one of the two, or give this one another condition");
            }
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, mut file: file::Route, place: &Place, pools: &[String]) -> Option<Route> {
        let action = self.action(&mut file, place, pools);
        let path = self.path_without_query(file.path).unwrap_or_else(|| "/".into());
        let methods = self.methods(file.methods);
        let headers =
            file.headers.or(Vec::new()).into_iter().filter_map(|at| self.header_match(at)).collect();
        let query = file.query.or(Vec::new()).into_iter().filter_map(|at| self.query_match(at)).collect();
        let sources =
            self.filled(file.sources, Vec::new(), "list ranges of addresses, or leave the key out for any");
        let host = file.host.given().map(|at| at.value);
        let name = match &host {
            None => format!("*{path}"),
            Some(HostPattern::Exact(host)) => format!("{host}{path}"),
            Some(HostPattern::Wildcard(suffix)) => format!("*{suffix}{path}"),
        };
        Some(Route { name: name.into(), host, path, methods, headers, query, sources, action: action? })
    }

    fn path_without_query(&mut self, field: Field<UriPath>) -> Option<Box<str>> {
        let At { value: UriPath(path), place } = field.given()?;
        if let Some((before, _)) = path.split_once('?') {
            self.problems.add(&place, "has a query", format!("write {before:?}"));
        } else if path.ends_with('*') {
            let prefix = path.trim_end_matches('*');
            self.problems.add(&place, "ends in \"*\", but is a prefix anyway", format!("write {prefix:?}"));
        }
        Some(path)
    }

    fn methods(&mut self, field: Field<Vec<At<Method>>>) -> Vec<Method> {
        for At { value, place } in field.peek().into_iter().flat_map(|at| &at.value) {
            if [Method::CONNECT, Method::TRACE].contains(value) {
                self.problems.add(
                    place,
                    format!("{value} is refused with 405 whatever the routes say"),
                    "remove it",
                );
            }
        }
        self.filled(field, Vec::new(), "list methods, or leave the key out for any")
    }

    fn header_match(&mut self, At { value, place }: At<file::HeaderMatch>) -> Option<HeaderMatch> {
        let file::HeaderMatch { name, value } = value;
        if name.is_absent() {
            self.problems.add(
                &place.key("name"),
                "is missing",
                "write { name = \"x-variant\", value = \"b\" }",
            );
        }
        Some(HeaderMatch { name: name.given()?.value, value: value.given().map(|at| at.value) })
    }

    fn query_match(&mut self, At { value, place }: At<file::QueryMatch>) -> Option<QueryMatch> {
        let file::QueryMatch { name, value } = value;
        if name.is_absent() || name.peek().is_some_and(|at| at.value.is_empty()) {
            self.problems.add(
                &place.key("name"),
                "is missing",
                "write { name = \"variant\", value = \"b\" }",
            );
        }
        Some(QueryMatch { name: name.given()?.value.into(), value: value.given().map(|at| at.value.into()) })
    }

    /// Takes what the route does out of `file`.
    fn action(&mut self, file: &mut file::Route, place: &Place, pools: &[String]) -> Option<Action> {
        let [pool, weighted] = [file.pool.is_absent(), file.pools.is_absent()];
        let [redirect, respond] = [file.redirect.is_absent(), file.respond.is_absent()];
        let absent = [("pool", pool), ("pools", weighted), ("redirect", redirect), ("respond", respond)];
        let there: Vec<&str> = absent.iter().filter(|(_, absent)| !absent).map(|(key, _)| *key).collect();
        match there.as_slice() {
            [] => {
                let hint = "write pool = \"NAME\" (or pools, redirect or respond)";
                self.problems.add(place, "does not say what to do", hint);
            }
            [_] => {}
            several => {
                let what = format!("says several things to do: {}", several.join(", "));
                self.problems.add(place, what, "keep one of them, and write a route for each other");
            }
        }
        let single = std::mem::take(&mut file.pool).given().and_then(|at| self.pool_index(&at, pools));
        let single = single.map(|pool| Action::Pools(vec![WeightedPool { pool, weight: 1 }]));
        let weighted = std::mem::take(&mut file.pools).given().map(|at| self.weighted(at, pools));
        let redirect = std::mem::take(&mut file.redirect).given().map(|at| self.redirect(at));
        let respond = std::mem::take(&mut file.respond).given().map(|at| self.respond(at));
        single.or(weighted).or(redirect).or(respond)
    }

    fn pool_index(&mut self, name: &At<String>, known: &[String]) -> Option<usize> {
        let index = known.iter().position(|pool| *pool == name.value);
        if index.is_none() {
            let names: Vec<&str> = known.iter().map(String::as_str).collect();
            let hint = match (nearest(&name.value, &names), names.is_empty()) {
                (Some(near), _) => format!("did you mean {near:?}?"),
                (None, true) => format!("write [pool.{}] with its targets", name.value),
                (None, false) => format!("write one of {}, or add [pool.{}]", names.join(", "), name.value),
            };
            self.problems.add(&name.place, format!("there is no pool {}", quoted(&name.value)), hint);
        }
        index
    }

    fn weighted(&mut self, At { value, place }: At<Vec<At<file::WeightedPool>>>, known: &[String]) -> Action {
        let mut choices: Vec<WeightedPool> = Vec::new();
        for At { value: file::WeightedPool { pool, weight }, place } in value {
            let weight = self.within(weight, 1, 0..=1_000_000) as u32;
            if pool.is_absent() {
                self.problems.add(&place.key("pool"), "is missing", "write { pool = \"NAME\", weight = 1 }");
            }
            let Some(at) = pool.given() else { continue };
            let Some(pool) = self.pool_index(&at, known) else { continue };
            if choices.iter().any(|choice| choice.pool == pool) {
                let what = format!("{} is in the list twice", quoted(&at.value));
                self.problems.add(
                    &at.place,
                    what,
                    "write each pool once; for a larger share give it a weight",
                );
            }
            choices.push(WeightedPool { pool, weight });
        }
        if choices.iter().all(|choice| choice.weight == 0) {
            self.problems.add(
                &place,
                "gives no pool a weight above 0",
                "write [{ pool = \"NAME\", weight = 1 }]",
            );
        }
        Action::Pools(choices)
    }

    fn redirect(&mut self, At { value, place }: At<file::Redirect>) -> Action {
        let file::Redirect { status, scheme, host, path } = value;
        if scheme.is_absent() && host.is_absent() && path.is_absent() {
            let hint = "write a scheme, a host or a path, such as { scheme = \"https\" }";
            self.problems.add(&place, "leads back to the same address", hint);
        }
        let status = self.status(status, 308, "write 301, 302, 303, 307 or 308", |status| {
            matches!(status, 301..=303 | 307 | 308)
        });
        let scheme = scheme.given().map(|at| match at.value {
            Scheme::Http => "http".into(),
            Scheme::Https => "https".into(),
        });
        let host = host.given().map(|at| at.value.0);
        Action::Redirect(Redirect { status, scheme, host, path: self.path_without_query(path) })
    }

    fn respond(&mut self, At { value, place }: At<file::Respond>) -> Action {
        let file::Respond { status, body, content_type } = value;
        if status.is_absent() {
            self.problems.add(&place.key("status"), "is missing", "write { status = 200, body = \"…\" }");
        }
        let status = self.status(status, 200, "write 200 to 599", |status| (200..=599).contains(&status));
        if let Some(At { value, place }) = body.peek()
            && matches!(status.as_u16(), 204 | 205 | 304)
            && !value.is_empty()
        {
            let what = format!("cannot be sent: an answer with status {} has no body", status.as_u16());
            self.problems.add(place, what, "remove it, or write another status");
        }
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        Action::Respond(Respond {
            status,
            body: body.or(String::new()).into(),
            content_type: content_type.or(text),
        })
    }

    fn status(
        &mut self,
        field: Field<i64>,
        default: u16,
        hint: &str,
        fits: impl Fn(i64) -> bool,
    ) -> StatusCode {
        let default = StatusCode::from_u16(default).unwrap_or(StatusCode::OK);
        let Some(At { value, place }) = field.given() else { return default };
        let status =
            u16::try_from(value).ok().filter(|_| fits(value)).and_then(|n| StatusCode::from_u16(n).ok());
        status.unwrap_or_else(|| {
            self.problems.add(&place, format!("{value} is not a status that can be sent here"), hint);
            default
        })
    }
}

/// All that decides whether a route matches, in one form however it is written.
fn conditions(route: &Route) -> String {
    let Route { name: _, host, path, methods, headers, query, sources, action: _ } = route;
    let mut parts: Vec<String> = Vec::new();
    parts.extend(methods.iter().map(|method| format!("{method:?}")));
    parts.extend(headers.iter().map(|header| format!("{header:?}")));
    parts.extend(query.iter().map(|parameter| format!("{parameter:?}")));
    parts.extend(sources.iter().map(|net| format!("{:?}", net.trunc())));
    parts.sort();
    parts.dedup();
    // "/a" and "/a/" match alike.
    format!("{host:?} {:?} {parts:?}", path.strip_suffix('/').unwrap_or(path))
}
