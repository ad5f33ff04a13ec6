//! A picture of a node as the rows of a table: pools with their names in DNS, zones and targets, then the node's own answers
//! over DNS. Pure.

use super::super::colours::Mood;
use super::super::seen::{Dns, Picture, Pool, Times, Zone, many};
use super::super::status::plain;
use super::rates::Rates;

/// What a row is about; stays the same from picture to picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    /// A pool.
    Pool(String),
    /// A zone of a pool, which can be shifted and restored.
    Zone { pool: String, zone: String },
    /// A target of a pool, which can be drained, taken down and brought up.
    Target { pool: String, target: String },
    /// Anything else, by its text.
    Note(String),
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) about: About,
    /// Name, indented by what it belongs to.
    pub(super) name: String,
    pub(super) state: String,
    pub(super) mood: Option<Mood>,
    /// Part of the new sessions, requests per second, in flight, p50, p99, sessions.
    pub(super) figures: [String; 6],
    pub(super) why: String,
}

/// Notes the counts of a picture.
pub(super) fn note(picture: &Picture, rates: &mut Rates) {
    for pool in &picture.pools {
        rates.note(&pool.name, pool.requests);
        rates.note(&format!("{} 5xx", pool.name), pool.responses.server_errors);
        for zone in &pool.zones {
            rates.note(&format!("{} zone {}", pool.name, zone.name), zone.requests);
        }
        for target in &pool.targets {
            rates.note(&format!("{} {}", pool.name, target.name), target.attempts);
        }
    }
}

/// The rows of a picture.
pub(super) fn of(picture: &Picture, rates: &Rates) -> Vec<Row> {
    let mut rows = Vec::new();
    for pool in &picture.pools {
        rows.push(pool_row(pool, rates));
        rows.extend(pool.discovery.iter().map(|name| {
            let mood = name.error.as_ref().map(|_| Mood::Bad);
            note_row(&format!("  {}", name.question), "in DNS", mood, &name.says())
        }));
        for zone in &pool.zones {
            rows.push(zone_row(pool, zone, rates));
            rows.extend(pool.targets.iter().filter(|target| target.zone == zone.name).map(|target| Row {
                about: About::Target { pool: pool.name.clone(), target: target.name.clone() },
                name: format!("    {}", target.address),
                state: target.status.clone(),
                mood: Some(Mood::of(&target.status)),
                figures: [
                    String::new(),
                    per_second(rates.of(&format!("{} {}", pool.name, target.name))),
                    target.in_flight.to_string(),
                    ms(target.first_byte_ms.p50),
                    ms(target.first_byte_ms.p99),
                    target.sessions.to_string(),
                ],
                why: plain(&target.why()),
            }));
        }
    }
    rows.extend(picture.dns.iter().flat_map(dns_rows));
    rows
}

fn pool_row(pool: &Pool, rates: &Rates) -> Row {
    let errors = per_second(rates.of(&format!("{} 5xx", pool.name)));
    let Times { p50, p99 } = pool.duration_ms;
    let panic = if pool.panic { "in panic: health is ignored; " } else { "" };
    let waiting = if pool.waiting > 0 { format!(", {} waiting", pool.waiting) } else { String::new() };
    Row {
        about: About::Pool(pool.name.clone()),
        name: pool.name.clone(),
        state: if pool.panic { "panic".to_owned() } else { String::new() },
        mood: pool.panic.then_some(Mood::Bad),
        figures: [
            String::new(),
            per_second(rates.of(&pool.name)),
            pool.live.to_string(),
            ms(p50),
            ms(p99),
            pool.zones.iter().map(|zone| zone.sessions).sum::<u64>().to_string(),
        ],
        why: format!("{panic}{}, {errors} errors (5xx) a second{waiting}", pool.balance.replace('_', " ")),
    }
}

fn zone_row(pool: &Pool, zone: &Zone, rates: &Rates) -> Row {
    let targets = || pool.targets.iter().filter(|target| target.zone == zone.name);
    let open = targets().filter(|target| target.takes_new).count();
    let (state, why) = match zone.state.as_str() {
        "ok" => (format!("{open}/{} open", targets().count()), String::new()),
        state => (state.to_owned(), plain(&zone.trouble())),
    };
    let mood = match zone.state.as_str() {
        "ok" => (open == 0).then_some(Mood::Bad),
        state => Some(Mood::of(state)),
    };
    Row {
        about: About::Zone { pool: pool.name.clone(), zone: zone.name.clone() },
        name: format!("  {}", if zone.name == "-" { "no zone" } else { &zone.name }),
        state,
        mood,
        figures: [
            format!("{:.0} %", zone.share),
            per_second(rates.of(&format!("{} zone {}", pool.name, zone.name))),
            zone.in_flight.to_string(),
            ms(zone.first_byte_ms.p50),
            ms(zone.first_byte_ms.p99),
            zone.sessions.to_string(),
        ],
        why,
    }
}

fn dns_rows(dns: &Dns) -> Vec<Row> {
    let mut rows =
        vec![note_row(&format!("DNS {}", dns.domain), "", None, &many(dns.nodes.len() as u64, "node"))];
    rows.extend(dns.names.iter().map(|name| {
        note_row(&format!("  {}", name.name), &name.policy, None, &format!("answered with {}", name.says()))
    }));
    rows.extend(dns.nodes.iter().map(|node| {
        let (state, mood) = node.state();
        note_row(&format!("    {}", node.place()), state, Some(mood), &node.reason)
    }));
    rows
}

fn note_row(name: &str, state: &str, mood: Option<Mood>, why: &str) -> Row {
    let (name, why) = (plain(name), plain(why));
    Row {
        about: About::Note(name.clone()),
        name,
        state: state.to_owned(),
        mood,
        figures: Default::default(),
        why,
    }
}

fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "–".to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

fn ms(time: Option<f64>) -> String {
    match time {
        None => "–".to_owned(),
        Some(time) if time < 10.0 => format!("{time:.1}"),
        Some(time) => format!("{time:.0}"),
    }
}
