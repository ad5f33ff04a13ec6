//! The figures: a table for each scenario as soon as it is done, and a summary of the ratios at the end.
//!
//! A ratio is taken inside each round and the median of these is reported, with the least and the greatest: what the
//! machine does from one round to the next then touches both sides alike.

use clap::ValueEnum;

use crate::{Result, Scenario};

/// One proxy under load in one round.
pub(crate) struct Round {
    /// Requests per second.
    pub(crate) rate: f64,
    /// CPU time in the proxy's own code, microseconds per request.
    pub(crate) user_us: f64,
    /// CPU time in the kernel on the proxy's account, microseconds per request.
    pub(crate) sys_us: f64,
    /// Half of the answers took at most this, microseconds.
    pub(crate) p50_us: f64,
    /// 99 of 100 answers took at most this, microseconds.
    pub(crate) p99_us: f64,
    /// Share of its core that the proxy used.
    pub(crate) busy: f64,
    /// Share of that core that everything else on the machine used; should be near 0.
    pub(crate) others: Option<f64>,
    /// Requests that failed: no connection, broken off, timed out, or a status that is not 2xx or 3xx.
    pub(crate) errors: u64,
}

/// Memory of one proxy before and after idle connections.
pub(crate) struct Idle {
    /// How many.
    pub(crate) connections: usize,
    /// Resident bytes before the first of them.
    pub(crate) before: u64,
    /// Resident bytes with all of them idle.
    pub(crate) after: u64,
}

impl Round {
    fn cpu_us(&self) -> f64 {
        self.user_us + self.sys_us
    }
}

impl Idle {
    fn per_connection(&self) -> f64 {
        self.after.saturating_sub(self.before) as f64 / self.connections as f64
    }
}

/// All that was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    summary: Vec<String>,
    bars: Vec<String>,
    errors: u64,
}

/// Median, least and greatest of some figures.
struct Spread {
    median: f64,
    least: f64,
    greatest: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (half, last) = (sorted.len() / 2, sorted.len().saturating_sub(1));
        let median =
            if sorted.len() % 2 == 1 { at(half) } else { (at(half.saturating_sub(1)) + at(half)) / 2.0 };
        Self { median, least: at(0), greatest: at(last) }
    }
}

impl Report {
    /// Prints a scenario's table and keeps its ratios for the summary. A row of `table` is a round, in the order of `names`.
    pub(crate) fn add_load(
        &mut self,
        scenario: Scenario,
        sessions: bool,
        how: &str,
        names: &[&'static str],
        table: &[Vec<Round>],
    ) {
        let title = title(scenario, sessions);
        println!("\n{title}: medians of {how}");
        println!(
            "{:<10}{:>12}{:>12}{:>18}{:>8}{:>8}{:>9}{:>9}{:>7}{:>8}",
            "", "requests/s", "CPU µs/req", "(range)", "user", "sys", "p50 µs", "p99 µs", "busy", "others"
        );
        for (column, name) in names.iter().enumerate() {
            let rounds: Vec<&Round> = table.iter().map(|row| &row[column]).collect();
            let median =
                |figure: fn(&Round) -> f64| Spread::of(rounds.iter().map(|round| figure(round))).median;
            let cpu = Spread::of(rounds.iter().map(|round| round.cpu_us()));
            println!(
                "{name:<10}{:>12.0}{:>12.2}{:>18}{:>8.2}{:>8.2}{:>9.0}{:>9.0}{:>6.0}%{:>8}",
                median(|round| round.rate),
                cpu.median,
                format!("({:.1} to {:.1})", cpu.least, cpu.greatest),
                median(|round| round.user_us),
                median(|round| round.sys_us),
                median(|round| round.p50_us),
                median(|round| round.p99_us),
                median(|round| round.busy * 100.0),
                others(&rounds),
            );
            let errors: u64 = rounds.iter().map(|round| round.errors).sum();
            if errors > 0 {
                println!("{name:<10}{errors} requests FAILED");
                self.errors += errors;
            }
        }
        let mut line = format!("{title:<24}");
        let Some(own) = names.iter().position(|name| *name == "selvedge") else { return };
        for (column, name) in names.iter().enumerate().filter(|(column, _)| *column != own) {
            let ratio = Spread::of(table.iter().map(|row| row[own].cpu_us() / row[column].cpu_us()));
            let Spread { median, least, greatest } = ratio;
            println!("CPU per request, selvedge / {name}: {median:.3} ({least:.3} to {greatest:.3})");
            line += &format!("{:<30}", format!("{name} {median:.3} ({least:.3} to {greatest:.3})"));
            if let (true, Some(bar)) = (sessions, bar(scenario, name)) {
                let met = if median <= bar { "met" } else { "MISSED" };
                self.bars.push(format!("CPU per request at most {bar:.2} × {name}: {median:.3}, {met}"));
            }
        }
        self.summary.push(line);
    }

    /// Prints what idle connections cost.
    pub(crate) fn add_idle(&mut self, sessions: bool, results: Vec<(&'static str, Idle)>) {
        let title = title(Scenario::Idle, sessions);
        println!("\n{title}: memory after one request on each connection, the upstream side included");
        println!(
            "{:<10}{:>12}{:>14}{:>14}{:>20}",
            "", "connections", "RSS before", "RSS after", "bytes/connection"
        );
        for (name, idle) in results {
            let each = idle.per_connection();
            let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
            println!(
                "{name:<10}{:>12}{:>14}{:>14}{each:>20.0}",
                idle.connections,
                mib(idle.before),
                mib(idle.after)
            );
            if name == "selvedge" {
                let met = if each <= IDLE_BAR { "met" } else { "MISSED" };
                self.bars
                    .push(format!("{title}: at most {IDLE_BAR:.0} bytes per connection: {each:.0}, {met}"));
            }
        }
    }

    /// The ratios of all scenarios, and whether the bars are met.
    pub(crate) fn print_summary(&self) {
        if !self.summary.is_empty() {
            println!(
                "\nCPU per request, Selvedge divided by each other: median of the rounds (least to greatest)"
            );
            self.summary.iter().for_each(|line| println!("{}", line.trim_end()));
        }
        if !self.bars.is_empty() {
            println!("\nBars");
            self.bars.iter().for_each(|line| println!("{line}"));
        }
    }

    /// An error when requests failed: figures of a proxy that fails are worth nothing.
    pub(crate) fn verdict(&self) -> Result<()> {
        match self.errors {
            0 => Ok(()),
            errors => Err(format!("{errors} requests failed; see above")),
        }
    }
}

/// Median share of the core that others used, or a dash where nothing is pinned.
fn others(rounds: &[&Round]) -> String {
    let shares: Option<Vec<f64>> = rounds.iter().map(|round| round.others).collect();
    shares.map_or("-".into(), |shares| format!("{:.0}%", Spread::of(shares.into_iter()).median * 100.0))
}

/// Bytes of memory that an idle connection through Selvedge may cost.
const IDLE_BAR: f64 = 16.0 * 1024.0;

/// CPU per request that Selvedge may take with sessions on, as a multiple of the other's.
fn bar(scenario: Scenario, name: &str) -> Option<f64> {
    match (scenario, name) {
        (Scenario::Get1k, "nginx") => Some(1.15),
        (Scenario::Get1k, "haproxy") => Some(0.85),
        // What the access log may cost.
        (Scenario::AccessLog, "baseline") => Some(1.05),
        _ => None,
    }
}

fn title(scenario: Scenario, sessions: bool) -> String {
    let name = scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    format!("{name}, sessions {}", if sessions { "on" } else { "off" })
}
