//! `FileConfig` → `Config`: each rule stated once, all mistakes collected.
//!
//! A function here takes a table of the file and returns the checked value, or a stand-in where something was wrong:
//! the problem is noted, and [`load`] never returns anything that has one. So every function goes on to the end, and
//! one run shows every mistake.

mod access_log;
mod acme;
mod discovery;
mod dns;
mod listeners;
mod otlp;
mod pools;
mod routes;
mod run_as;
mod secrets;
mod stickiness;
mod tls;
mod verify;
mod warnings;
mod zones;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::{self, Field, FileConfig, Name, OrAuto, OrOff, Place, Problems, Text as _};
use super::units::{Quantity, Size};
use super::{
    Config, ConfigErrors, Forwarding, Limits, Log, LogFormat, Overrides, Problem, Shutdown, Source, ZoneName,
};

/// Reads, parses and compiles the file at `path`.
pub(super) fn load(path: &Path, overrides: &Overrides) -> Result<Config, ConfigErrors> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot be read: {error}");
        let hint = "give --config the path of a file in TOML".to_owned();
        let problems = vec![Problem { line: None, key: String::new(), what, hint }];
        ConfigErrors { file: path.to_owned(), problems, read: vec![path.to_owned()] }
    })?;
    load_text(path, &text, overrides)
}

/// Parses and compiles `text` as if the file at `path` said that.
pub(super) fn load_text(path: &Path, text: &str, overrides: &Overrides) -> Result<Config, ConfigErrors> {
    let mut read = vec![path.to_owned()];
    match compile(text, path.parent().unwrap_or(Path::new("")), overrides, &mut read) {
        Ok(config) => {
            let (file, text, overrides) = (path.to_owned(), text.into(), overrides.clone());
            Ok(Config { source: Source { file, text, overrides, read }, ..config })
        }
        Err(problems) => Err(ConfigErrors { file: path.to_owned(), problems, read }),
    }
}

/// Compiles `text`; files it names are looked up from `folder`, and noted in `read`.
fn compile(
    text: &str,
    folder: &Path,
    overrides: &Overrides,
    read: &mut Vec<PathBuf>,
) -> Result<Config, Vec<Problem>> {
    let (file, problems) = file::parse(text).map_err(|syntax| vec![syntax])?;
    let mut compiler =
        Compiler { folder, read, has_zone: false, registers: false, problems, warnings: Vec::new() };
    let config = compiler.config(file, overrides);
    let problems = compiler.problems.into_sorted();
    if problems.is_empty() { Ok(Config { warnings: compiler.warnings, ..config }) } else { Err(problems) }
}

/// What is found on the way from the file to the configuration.
struct Compiler<'a> {
    /// Where the configuration file is: relative paths in it start there.
    folder: &'a Path,
    /// Whether it is known where the node stands.
    has_zone: bool,
    /// Files that the configuration names and that were read, or should have been.
    read: &'a mut Vec<PathBuf>,
    problems: Problems,
    warnings: Vec<String>,
    /// Whether targets can be registered at run time.
    registers: bool,
}

impl Compiler<'_> {
    fn config(&mut self, file: FileConfig, overrides: &Overrides) -> Config {
        let zone = self.zone(file.zone, overrides);
        self.has_zone = zone.is_some();
        let workers = self.workers(file.workers);
        let listeners = self.listeners(file.listener);
        let acme = self.acme(file.acme, &listeners).map(Arc::new);
        let forwarding = forwarding_fields(file.forwarding.or_default());
        let admin = self.admin(file.admin, &listeners);
        let state = self.state(file.state);
        self.registers = admin.is_some() || state.is_some();
        let (names, pools) = self.pools(file.pool, &listeners);
        let routes = self.routes(file.route, &names);
        self.routes_and_pools_together(&routes, &pools);
        self.hosts_and_certificates_together(&listeners, acme.as_deref(), &routes);
        Config {
            zone,
            workers,
            session_keys: self.session_keys(file.session_keys, &pools),
            admin,
            dns: self.dns(file.dns, &listeners).map(Arc::new),
            listeners,
            routes,
            pools: pools.into_iter().map(Arc::new).collect(),
            watch: file.watch.or(true),
            limits: self.limits(file.limits.or_default()),
            shutdown: self.shutdown(file.shutdown.or_default()),
            upgrade_deadline: self.within(
                file.upgrade.or_default().deadline,
                seconds(60),
                seconds(1)..=seconds(3600),
            ),
            log: log_lines(file.log.or_default()),
            access_log: self.access_log(file.access_log),
            otlp: self.otlp(file.otlp, &forwarding),
            forwarding,
            resolver: Arc::new(self.resolver(file.resolver.or_default())),
            acme,
            state,
            run_as: self.run_as(file.user, file.group),
            warnings: Vec::new(),
            source: Source {
                file: PathBuf::new(),
                text: "".into(),
                overrides: Overrides::default(),
                read: Vec::new(),
            },
        }
    }

    fn zone(&mut self, file: Field<Name>, overrides: &Overrides) -> Option<ZoneName> {
        let Some(text) = &overrides.zone else {
            return file.given().map(|at| at.value.0);
        };
        match Name::parse(text) {
            Ok(name) => Some(name.0),
            Err(wrong) => {
                let what = format!("{} (from --zone or SELVEDGE_ZONE)", wrong.what);
                self.problems.add(&Place::default().key("zone"), what, wrong.hint);
                None
            }
        }
    }

    fn workers(&mut self, file: Field<OrAuto>) -> usize {
        match file {
            Field::Given(file::At { value: OrAuto::Number(number), place }) => {
                self.within(Field::Given(file::At { value: number, place }), 1, 1..=1024) as usize
            }
            _ => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(1024)),
        }
    }

    fn limits(&mut self, file: file::Limits) -> Limits {
        let max_requests = match file.max_requests {
            Field::Given(file::At { value: OrOff::Off, .. }) => None,
            Field::Given(file::At { value: OrOff::On(value), place }) => {
                Some(self.within(Field::Given(file::At { value, place }), 65_536, 1..=10_000_000))
            }
            Field::Absent | Field::Wrong => Some(65_536),
        };
        let memory = match file.memory {
            Field::Given(file::At { value: OrOff::On(value), place }) => {
                let sizes = Size(64 << 20)..=Size(1 << 50);
                Some(self.within(Field::Given(file::At { value, place }), Size(1 << 30), sizes).0)
            }
            _ => None,
        };
        Limits { max_requests: max_requests.map(|most| most as usize), memory }
    }

    fn shutdown(&mut self, file: file::Shutdown) -> Shutdown {
        Shutdown {
            deadline: self.within(file.deadline, seconds(30), Duration::ZERO..=DAY),
            delay: self.within(file.delay, Duration::ZERO, Duration::ZERO..=seconds(3600)),
            spread: self.within(file.spread, seconds(2), Duration::ZERO..=seconds(3600)),
        }
    }

    /// The value of a key that has limits.
    fn within<T: Quantity>(&mut self, field: Field<T>, default: T, limits: RangeInclusive<T>) -> T {
        let Some(file::At { value, place }) = field.given() else { return default };
        if !limits.contains(&value) {
            let hint = format!("write {} to {}", limits.start().written(), limits.end().written());
            self.problems.add(&place, format!("{} is out of range", value.written()), hint);
            return default;
        }
        value
    }

    /// Notes every value that an earlier one equals.
    fn unique<'f, T: Eq + Hash + fmt::Display + 'f>(
        &mut self,
        values: impl Iterator<Item = &'f file::At<T>>,
        hint: &str,
    ) {
        let mut lines = HashMap::new();
        for file::At { value, place } in values {
            if let Some(line) = lines.insert(value, place.line) {
                self.problems.add(place, format!("{value} is already in line {line}"), hint);
            }
        }
    }

    /// The values of a list that may be left out, but not be empty.
    fn filled<T>(&mut self, field: Field<Vec<file::At<T>>>, default: Vec<T>, hint: &str) -> Vec<T> {
        let Some(file::At { value, place }) = field.given() else { return default };
        if value.is_empty() {
            self.problems.add(&place, "is empty", hint);
        }
        plain(value)
    }

    /// A path in the file, seen from where the file is.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }
}

/// The values of a list, without their places.
fn plain<T>(list: Vec<file::At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// In the place of an address that is missing or wrong.
const STAND_IN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

const DAY: Duration = Duration::from_secs(86_400);

fn forwarding_fields(file: file::Forwarding) -> Forwarding {
    Forwarding {
        x_forwarded: file.x_forwarded.or(true),
        forwarded: file.forwarded.or(false),
        via: file.via.or(true),
        request_id: file.request_id.or(true),
        traceparent: file.traceparent.or(false),
    }
}

fn log_lines(file: file::Log) -> Log {
    Log { level: file.level.or(tracing::Level::INFO), format: file.format.or(LogFormat::Text) }
}

#[cfg(test)]
mod tests;
