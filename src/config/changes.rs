//! What one configuration changes of another, in words: what a reload reports, and `selvedge check --diff`.
//!
//! Keys are compared as they are written, so that every key there is or will be is covered and is named as its author
//! named it. What becomes of sessions, and what only a restart can change, follows from the compiled form. Nothing is
//! decided here but what to say.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use toml::{Table, Value};

use super::units::Quantity as _;
use super::{Config, Pool, StaticTarget, StickinessMode, ZoneName};

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys of the file whose value is another.
    pub keys: Vec<KeyChange>,
    /// What happens to sessions that clients have: who moves, who ends. Empty: nobody notices.
    pub sessions: Vec<SessionChange>,
    /// What stays as it is until the process is started again.
    pub restart: Vec<String>,
}

/// One key whose value is another, or an element of a list that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// Key path such as `pool.shop.timeouts.idle`; elements of lists by what tells them apart:
    /// `pool.shop.target[az-a/127.0.1.1:9001].weight`.
    pub key: String,
    /// As written; `None` when the key was absent.
    pub before: Option<String>,
    /// As written; `None` when the key is absent.
    pub after: Option<String>,
}

/// Sessions that move or end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionChange {
    /// Whose sessions; `None` for those of all pools.
    pub pool: Option<Arc<str>>,
    /// Those of one target, and its zone; `None` for those of all targets.
    pub target: Option<(ZoneName, SocketAddr)>,
    /// What becomes of them, and why.
    what: String,
    /// About how many were seen lately, where that is known.
    pub seen: Option<u64>,
}

impl Changes {
    /// What `new` changes of `old`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut changes = Self { restart: needs_restart(old, new), ..Self::default() };
        let table = |config: &Config| config.source.text.parse::<Table>().unwrap_or_default();
        compare_tables("", &table(old), &table(new), &mut changes.keys);
        compare_keys(old, new, &mut changes);
        compare_certificates(old, new, &mut changes.keys);
        for pool in old.pools.iter().filter(|pool| is_sticky(pool)) {
            sessions_of(pool, new, &mut changes.sessions);
        }
        changes
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.sessions.is_empty() && self.restart.is_empty()
    }
}

impl Config {
    /// Takes back from `running` what a running process cannot change.
    pub fn keep_until_restart(&mut self, running: &Self) {
        self.workers = running.workers;
        self.log.format = running.log.format;
        self.otlp.clone_from(&running.otlp);
        self.state.clone_from(&running.state);
        self.run_as.clone_from(&running.run_as);
        let stays = |admin: &Self| admin.admin.as_ref().map(|admin| admin.address.clone());
        // A token belongs to the address it was written for: another address may be open where this one is not.
        if stays(self) != stays(running) {
            self.admin = running.admin.clone();
        }
        if dns_addresses(self) != dns_addresses(running) {
            self.dns = running.dns.clone();
        }
    }
}

impl fmt::Display for SessionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sessions")?;
        if let Some(pool) = &self.pool {
            write!(f, " of pool {pool}")?;
        }
        if let Some((zone, address)) = &self.target {
            write!(f, " at {zone}/{address}")?;
        }
        if let Some(seen) = self.seen {
            write!(f, " (about {seen} lately)")?;
        }
        write!(f, " {}", self.what)
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "{}: {before} becomes {after}", self.key),
            (Some(before), None) => write!(f, "{}: {before} goes", self.key),
            (None, Some(after)) => write!(f, "{}: {after} comes", self.key),
            (None, None) => f.write_str(&self.key),
        }
    }
}

fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let mut restart = Vec::new();
    let mut note = |key: &str, old: String, new: String| {
        if old != new {
            restart.push(format!("{key}: stays {old} until a restart makes it {new}"));
        }
    };
    note("workers", old.workers.to_string(), new.workers.to_string());
    let admin = |config: &Config| match &config.admin {
        Some(admin) => format!("\"{}\"", admin.address),
        None => "off".to_owned(),
    };
    note("admin.address", admin(old), admin(new));
    note("dns.addresses, and all of [dns] with it", dns_addresses(old), dns_addresses(new));
    let format = |config: &Config| format!("{:?}", config.log.format).to_lowercase();
    note("log.format", format(old), format(new));
    let state = |config: &Config| match &config.state {
        Some(file) => format!("\"{}\"", file.display()),
        None => "off".to_owned(),
    };
    note("state", state(old), state(new));
    let run_as = |config: &Config| config.run_as.as_ref().map_or("off".to_owned(), ToString::to_string);
    note("user", run_as(old), run_as(new));
    if old.otlp != new.otlp {
        restart.push("otlp: stays as it is until a restart".to_owned());
    }
    restart
}

/// Where DNS is answered, in words. Sockets for it are bound at the start only.
fn dns_addresses(config: &Config) -> String {
    let addresses = config.dns.as_ref().map(|dns| format!("{:?}", dns.addresses));
    addresses.unwrap_or_else(|| "off".to_owned())
}

fn compare_tables(path: &str, old: &Table, new: &Table, changes: &mut Vec<KeyChange>) {
    let keys: BTreeMap<_, _> = old.keys().chain(new.keys()).map(|key| (key, ())).collect();
    for key in keys.into_keys() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        compare(path, old.get(key), new.get(key), changes);
    }
}

fn compare(path: String, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<KeyChange>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Table(old)), Some(Value::Table(new))) => compare_tables(&path, old, new, changes),
        (Some(Value::Array(old)), Some(Value::Array(new))) if are_tables(old) && are_tables(new) => {
            let (mut old, new) = (named(old), named(new));
            for (name, element) in new {
                let before = old.iter().position(|(other, _)| *other == name).map(|at| old.remove(at).1);
                compare(format!("{path}[{name}]"), before, Some(element), changes);
            }
            for (name, element) in old {
                compare(format!("{path}[{name}]"), Some(element), None, changes);
            }
        }
        _ => {
            let written = |value: Option<&Value>| value.map(ToString::to_string);
            changes.push(KeyChange { key: path, before: written(old), after: written(new) });
        }
    }
}

fn are_tables(list: &[Value]) -> bool {
    list.iter().all(Value::is_table)
}

/// Elements of a list of tables with what tells one from another; equals are numbered.
fn named(list: &[Value]) -> Vec<(String, &Value)> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let name = |value: &Value| {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let address = text("address").or_else(|| text("ipv4")).or_else(|| text("ipv6"));
        match (text("name"), text("zone"), address, text("dns")) {
            (Some(name), ..) | (None, _, None, Some(name)) => name.to_owned(),
            (None, Some(zone), Some(address), _) => format!("{zone}/{address}"),
            (None, None, Some(address), _) => address.to_owned(),
            _ => format!("{}{}", text("host").unwrap_or("*"), text("path").unwrap_or("/")),
        }
    };
    let numbered = list.iter().map(|value| {
        let name = name(value);
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        (if *count == 1 { name } else { format!("{name} {count}") }, value)
    });
    numbered.collect()
}

fn is_sticky(pool: &Pool) -> bool {
    pool.stickiness.mode != StickinessMode::Off
}

/// The key ring: its file's content is no key of the configuration.
fn compare_keys(old: &Config, new: &Config, changes: &mut Changes) {
    let (before, after) = (&old.session_keys, &new.session_keys);
    let sticky = old.pools.iter().any(|pool| is_sticky(pool));
    match (&before.file, &after.file) {
        // A ring that a process made for itself stays with it.
        (None, None) => return,
        (None, Some(_)) | (Some(_), None) => {
            if sticky {
                changes.sessions.push(SessionChange::of_all("end: their keys are others".to_owned()));
            }
            return;
        }
        (Some(_), Some(_)) => {}
    }
    let ids = |ring: &super::KeyRing| ring.ids().map(|id| format!("{id:08x}")).collect::<Vec<_>>();
    let (before, after) = (ids(&before.ring), ids(&after.ring));
    for id in after.iter().filter(|id| !before.contains(id)) {
        let change =
            KeyChange { key: format!("session_keys[{id}]"), before: None, after: Some("a key".into()) };
        changes.keys.push(change);
    }
    for id in before.iter().filter(|id| !after.contains(id)) {
        let change =
            KeyChange { key: format!("session_keys[{id}]"), before: Some("a key".into()), after: None };
        changes.keys.push(change);
        if sticky {
            changes
                .sessions
                .push(SessionChange::of_all(format!("whose cookie was sealed with key {id} end")));
        }
    }
    if before[0] != after[0] && before.contains(&after[0]) && after.contains(&before[0]) {
        let (before, after) = (Some(before[0].clone()), Some(after[0].clone()));
        changes.keys.push(KeyChange { key: "session_keys, the first".to_owned(), before, after });
    }
}

impl SessionChange {
    fn of_all(what: String) -> Self {
        Self { pool: None, target: None, what, seen: None }
    }

    fn of_pool(pool: &Pool, what: String) -> Self {
        Self { pool: Some(pool.name.clone()), ..Self::of_all(what) }
    }
}

/// Certificates that clients are shown: what is in their files is no key of the configuration.
fn compare_certificates(old: &Config, new: &Config, changes: &mut Vec<KeyChange>) {
    let certificates = |config: &Config| {
        let of = |listener: &super::Listener| {
            let tls = listener.tls.iter().flat_map(|tls| tls.certificates.clone());
            tls.map(|certificate| (listener.name.clone(), certificate)).collect::<Vec<_>>()
        };
        config.listeners.iter().flat_map(of).collect::<Vec<_>>()
    };
    let before = certificates(old);
    for (listener, now) in certificates(new) {
        let then = before.iter().find(|(name, then)| *name == listener && then.file == now.file);
        if let Some((_, then)) = then
            && then.certified.cert != now.certified.cert
        {
            let until = |one: &super::tls::Certificate| {
                format!("valid until {}", httpdate::fmt_http_date(one.facts.not_after))
            };
            changes.push(KeyChange {
                key: format!("listener[{listener}].tls, {}", now.file.display()),
                before: Some(until(then)),
                after: Some(until(&now)),
            });
        }
    }
}

/// What `new` means for the sessions of a pool.
fn sessions_of(old: &Pool, new: &Config, said: &mut Vec<SessionChange>) {
    let Some(pool) = new.pools.iter().find(|pool| pool.name == old.name) else {
        let ours = |target: &StaticTarget| old.targets.iter().any(|own| own.address == target.address);
        let heir = new.pools.iter().find(|pool| pool.targets.iter().any(ours));
        let renamed =
            heir.map(|heir| format!(", and are none of pool {}, which has another name", heir.name));
        let what = format!("end with the pool{}", renamed.unwrap_or_default());
        return said.push(SessionChange::of_pool(old, what));
    };
    if let Some(why) = end_of_all(old, pool) {
        return said.push(SessionChange::of_pool(old, format!("end: {why}")));
    }
    let (before, after) = (&old.stickiness, &pool.stickiness);
    if after.idle < before.idle {
        let what = format!("that were unused for {} end", plain(after.idle));
        said.push(SessionChange::of_pool(old, what));
    }
    if let Some(absolute) = after.absolute.filter(|now| before.absolute.is_none_or(|then| *now < then)) {
        said.push(SessionChange::of_pool(old, format!("that are older than {} end", plain(absolute))));
    }
    for target in &old.targets {
        let there = pool.targets.iter().find(|other| other.address == target.address);
        let why = match there {
            Some(other) if other.zone == target.zone => continue,
            Some(other) => format!(": in zone {} it is another target", other.zone),
            None => String::new(),
        };
        let deadline = plain(pool.drain.deadline);
        let what = format!("move once it has drained, in {deadline} at the latest{why}");
        let target = Some((target.zone.clone(), target.address));
        said.push(SessionChange { target, ..SessionChange::of_pool(old, what) });
    }
}

/// Why no session of a pool that stays outlives the change.
fn end_of_all(old: &Pool, new: &Pool) -> Option<String> {
    let (before, after) = (&old.stickiness, &new.stickiness);
    let other = |key: &str, before: &str, after: &str| {
        format!("the {key} {before:?} is not looked for any more, it is {after:?} now")
    };
    if !is_sticky(new) {
        Some("stickiness is off".to_owned())
    } else if before.cookie != after.cookie {
        Some(other("cookie", &before.cookie, &after.cookie))
    } else if after.mode == StickinessMode::AppCookie && before.mode != after.mode {
        Some("they belong to those of the application now".to_owned())
    } else if after.mode == StickinessMode::AppCookie && before.application_cookie != after.application_cookie
    {
        Some(other("application's cookie", &before.application_cookie, &after.application_cookie))
    } else {
        None
    }
}

/// A duration as it is written in the file, but for the quotes.
fn plain(duration: Duration) -> String {
    duration.written().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    const BASE: &str = r#"
[[listener]]
name = "web"
address = "127.0.0.1:8080"
[[route]]
pool = "shop"
[pool.shop]
stickiness = { mode = "lb_cookie", cookie = "S" }
[[pool.shop.target]]
address = "127.0.1.1:9001"
zone = "az-a"
[[pool.shop.target]]
address = "127.0.2.1:9001"
zone = "az-b"
"#;

    fn load(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("selvedge.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&file, &Overrides::default()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// What changes when each `(from, to)` is replaced in the text.
    fn change(edits: &[(&str, &str)]) -> Changes {
        let mut text = BASE.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        Changes::between(&load(BASE), &load(&text))
    }

    fn said(changes: &Changes) -> Vec<String> {
        changes.sessions.iter().map(ToString::to_string).collect()
    }

    fn words(changes: &Changes) -> Vec<String> {
        changes.keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_text_changes_nothing_whatever_its_comments() {
        assert!(change(&[("[[route]]", "# all of them\n[[route]]")]).is_empty());
    }

    #[test]
    fn a_key_is_named_by_its_path_with_both_values() {
        let changes = change(&[
            ("[pool.shop]\n", "[pool.shop]\nbalance = \"round_robin\"\n"),
            ("zone = \"az-b\"\n", "zone = \"az-b\"\nweight = 3\n"),
            ("name = \"web\"\n", "name = \"web\"\nallow = [\"10.0.0.0/8\"]\n"),
        ]);
        assert_eq!(
            words(&changes),
            [
                "listener[web].allow: [\"10.0.0.0/8\"] comes",
                "pool.shop.balance: \"round_robin\" comes",
                "pool.shop.target[az-b/127.0.2.1:9001].weight: 3 comes",
            ]
        );
        assert!(changes.sessions.is_empty() && changes.restart.is_empty(), "{changes:?}");
    }

    #[test]
    fn a_target_that_goes_and_one_that_changes_its_zone_move_their_sessions() {
        let gone = change(&[("[[pool.shop.target]]\naddress = \"127.0.2.1:9001\"\nzone = \"az-b\"\n", "")]);
        assert_eq!(words(&gone).len(), 1);
        assert!(
            words(&gone)[0].starts_with("pool.shop.target[az-b/127.0.2.1:9001]: {")
                && words(&gone)[0].ends_with(" goes")
        );
        assert_eq!(
            said(&gone),
            ["sessions of pool shop at az-b/127.0.2.1:9001 move once it has drained, in 5m at the latest"]
        );
        let moved = change(&[("\"az-b\"", "\"az-c\"")]);
        assert_eq!(said(&moved).len(), 1);
        assert!(said(&moved)[0].contains("at the latest: in zone az-c it is another target"), "{moved:?}");
    }

    #[test]
    fn sessions_end_with_their_pool_its_cookie_and_its_stickiness() {
        let ends = |edits: &[(&str, &str)], why: &str| {
            let changes = change(edits);
            let [said] = &said(&changes)[..] else { panic!("{changes:?}") };
            assert!(said.starts_with("sessions of pool shop end") && said.contains(why), "{said}");
        };
        ends(
            &[("[pool.shop]", "[pool.store]"), ("pool.shop.", "pool.store."), ("\"shop\"", "\"store\"")],
            "none of pool store",
        );
        ends(&[("cookie = \"S\"", "cookie = \"T\"")], "\"S\" is not looked for any more, it is \"T\" now");
        ends(&[("mode = \"lb_cookie\"", "mode = \"off\"")], "stickiness is off");
    }

    #[test]
    fn what_only_a_restart_changes_is_said_and_kept() {
        let running = load(BASE);
        let mut new = load(&format!(
            "workers = {}\n{BASE}\n[admin]\nenabled = false\n[log]\nformat = \"json\"",
            running.workers + 1
        ));
        let changes = Changes::between(&running, &new);
        let keys: Vec<_> =
            changes.restart.iter().map(|line| line.split(':').next().unwrap_or_default()).collect();
        assert_eq!(keys, ["workers", "admin.address", "log.format"]);
        new.keep_until_restart(&running);
        assert_eq!(Changes::between(&running, &new).restart, Vec::<String>::new());
        assert!(new.admin.is_some(), "the admin API is not opened by being switched off");
    }

    #[test]
    fn keys_that_go_end_the_sessions_they_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, keys) = (folder.path().join("selvedge.toml"), folder.path().join("keys"));
        std::fs::write(&file, format!("{BASE}\n[session_keys]\nfile = \"keys\"\n")).unwrap();
        let (first, second) = (crate::config::keys::fresh_line(), crate::config::keys::fresh_line());
        let with = |lines: &[&String]| {
            let lines: Vec<_> = lines.iter().map(|line| line.as_str()).collect();
            std::fs::write(&keys, lines.join("\n")).unwrap();
            Config::load(&file, &Overrides::default()).unwrap()
        };
        let (one, both, other) = (with(&[&first]), with(&[&second, &first]), with(&[&second]));
        let added = Changes::between(&one, &both);
        assert_eq!(words(&added), [format!("session_keys[{}]: a key comes", &second[..8])]);
        assert!(added.sessions.is_empty());
        let removed = Changes::between(&both, &other);
        assert_eq!(
            said(&removed),
            [format!("sessions whose cookie was sealed with key {} end", &first[..8])]
        );
    }
}
