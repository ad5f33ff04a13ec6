//! The table of disasters: what each cost in each step of the architecture, as Markdown and as a chart. Pure but for the writing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chart;
use super::disaster::Disaster;
use super::promise::{self, Promise};
use super::shoppers::Seen;
use super::step::Step;
use crate::trouble::Trouble;

/// What one disaster cost in one step.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cell {
    /// Why there is nothing to measure.
    pub(super) missing: Option<String>,
    requests: usize,
    pub(super) failed_gets: usize,
    failed_posts: usize,
    repeated_gets: usize,
    pub(super) carts: usize,
    pub(super) lost_carts: usize,
    pub(super) given_up: usize,
    pub(super) longest_ms: u64,
    orders: usize,
    pub(super) lost_orders: usize,
    pub(super) doubled_orders: usize,
    /// The first things that went wrong.
    pub(crate) told: Vec<String>,
}

/// All disasters in one step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) step: Step,
    pub(crate) shoppers: usize,
    /// How long it took to measure.
    pub(crate) seconds: u64,
    /// Of this program.
    pub(crate) build: Build,
    pub(crate) cells: Vec<Cell>,
}

/// How a program was built: one for development is slower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Build {
    #[default]
    Development,
    Release,
}

impl Build {
    /// Of this program.
    pub(crate) fn of_this() -> Self {
        if cfg!(debug_assertions) { Self::Development } else { Self::Release }
    }

    /// In words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Development => "a development build",
            Self::Release => "a release build",
        }
    }
}

impl Cell {
    /// Nothing can be measured, and why.
    pub(crate) fn without(why: &str) -> Self {
        Self { missing: Some(why.to_owned()), ..Self::default() }
    }

    /// What shoppers have seen, and how often the database has each order.
    pub(crate) fn of(seen: Seen, placed: &BTreeMap<String, usize>) -> Self {
        let lost = seen.orders.iter().filter(|name| !placed.contains_key(*name)).count();
        Self {
            missing: None,
            requests: seen.requests,
            failed_gets: seen.failed_gets,
            failed_posts: seen.failed_posts,
            repeated_gets: seen.repeated_gets,
            carts: seen.carts,
            lost_carts: seen.lost_carts,
            given_up: seen.given_up,
            longest_ms: seen.longest_ms,
            orders: seen.orders.len(),
            lost_orders: lost,
            doubled_orders: placed.values().filter(|count| **count > 1).count(),
            told: seen.told,
        }
    }

    pub(super) fn failed(&self) -> usize {
        self.failed_gets + self.failed_posts
    }

    pub(super) fn damage(&self) -> Damage {
        if self.missing.is_some() {
            Damage::Unknown
        } else if self.lost_carts + self.lost_orders + self.doubled_orders + self.given_up > 0 {
            Damage::Lost
        } else if self.failed() > 0 {
            Damage::Failed
        } else {
            Damage::None
        }
    }

    /// What went wrong at all.
    pub(crate) fn flaws(&self) -> Vec<String> {
        self.counted([(self.failed_gets, "failed GETs"), (self.failed_posts, "failed POSTs")])
    }

    fn counted<const N: usize>(&self, more: [(usize, &str); N]) -> Vec<String> {
        let lost = [
            (self.lost_carts, "carts lost"),
            (self.given_up, "visits given up"),
            (self.lost_orders, "orders lost"),
            (self.doubled_orders, "orders doubled"),
        ];
        let some = lost.into_iter().chain(more).filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} {what}")).collect()
    }

    /// What of this promise was not kept.
    pub(crate) fn broken(&self, promise: Promise) -> Vec<String> {
        let failed_gets = if promise.every_get { self.failed_gets } else { 0 };
        let mut broken = self.counted([(failed_gets, "failed GETs")]);
        let bound = promise.at_most.filter(|bound| u128::from(self.longest_ms) > bound.as_millis());
        broken.extend(bound.map(|bound| {
            format!(
                "{:.1} s until an answer, and {} s at most",
                self.longest_ms as f64 / 1000.0,
                bound.as_secs()
            )
        }));
        broken
    }
}

/// How bad it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// Nobody noticed anything.
    None,
    /// Requests failed, and nothing is gone.
    Failed,
    /// Something is gone.
    Lost,
    /// There was nothing to measure.
    Unknown,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.missing {
            return write!(f, "n/a: {why}");
        }
        write!(
            f,
            "{} of {} requests failed ({} GET); longest {:.1} s; carts lost: {} of {}; {} given up; \
             orders lost {}, doubled {}, of {}",
            self.failed(),
            self.requests,
            self.failed_gets,
            self.longest_ms as f64 / 1000.0,
            self.lost_carts,
            self.carts,
            self.given_up,
            self.lost_orders,
            self.doubled_orders,
            self.orders
        )
    }
}

/// Puts a row into the table in this folder, in the place of the one of the same step: `disasters.json` has the figures, `disasters.md` and
/// `disasters.svg` show them.
pub(crate) fn write(row: Row, folder: &Path) -> Result<(), Trouble> {
    let mut rows = if folder.join(FIGURES).exists() { read(folder)? } else { Vec::new() };
    rows.retain(|other| other.step != row.step);
    rows.push(row);
    rows.sort_by_key(|row| Step::ALL.iter().position(|step| *step == row.step));
    draw(&rows, folder)
}

/// Shows the figures in this folder again.
pub(crate) fn redraw(folder: &Path) -> Result<(), Trouble> {
    draw(&read(folder)?, folder)
}

const FIGURES: &str = "disasters.json";

fn read(folder: &Path) -> Result<Vec<Row>, Trouble> {
    let figures = folder.join(FIGURES);
    let trouble = |error: &dyn fmt::Display| Trouble::new(format!("{}: {error}", figures.display()));
    let text = std::fs::read_to_string(&figures).map_err(|error| trouble(&error))?;
    serde_json::from_str(&text).map_err(|error| trouble(&format_args!("it is no table: {error}")))
}

fn draw(rows: &[Row], folder: &Path) -> Result<(), Trouble> {
    let json = format!("{:#}\n", serde_json::json!(rows));
    for (name, text) in
        [(FIGURES, json), ("disasters.md", markdown(rows)), ("disasters.svg", chart::svg(rows))]
    {
        let file = folder.join(name);
        std::fs::write(&file, text)
            .map_err(|error| Trouble::new(format!("{} cannot be written: {error}", file.display())))?;
    }
    Ok(())
}

const PREFACE: &str = "\
# What disasters cost

Made by `myclothes lab chaos --table`: shoppers who check every answer, in a lab of three networks on one machine. A request failed if
no answer came within five seconds, or one with a status of 500 and more; the shopper then presses the button again. \"Longest\" is
from pressing a button for the first time to the answer that was wanted. A cart is lost if something is missing in it or is there twice.
Orders are counted in the database at the end; without PostgreSQL they are in a file that all instances share and that no disaster
reaches. A disaster lasts ten seconds, and happens in the zone of the primaries. When the connection breaks before the answer to a GET begins, it is
asked once more at once on another connection, as HTTP allows and browsers do (\"repeated\"): that is no failure if the answer comes then.

![The same as a chart](disasters.svg)
";

fn markdown(rows: &[Row]) -> String {
    let mut text = PREFACE.to_owned();
    for Row { step, shoppers, seconds, build, cells } in rows {
        let built = build.title();
        text += &format!(
            "\n## {}\n\n{shoppers} shoppers, measured in {seconds} s with {built}.\n\n",
            step.title()
        );
        let mut promised = String::new();
        let mut lines = String::new();
        for (disaster, cell) in Disaster::ALL.iter().zip(cells) {
            lines += &line(*disaster, cell);
            if let Some(promise) = promise::of(*step, *disaster) {
                promised += &promise_line(*disaster, promise, cell);
            }
        }
        text += "| disaster | failed requests | of them GET | GETs repeated | longest | carts lost | orders lost | orders doubled |\n";
        text += "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
        text += &lines;
        if !promised.is_empty() {
            text += "\nWhat this step promises: no cart is lost, no order is lost or doubled, nobody gives up, and:\n\n";
            text += &promised;
        }
    }
    text
}

fn line(disaster: Disaster, cell: &Cell) -> String {
    if let Some(why) = &cell.missing {
        return format!("| {} | n/a: {why} | | | | | | |\n", disaster.title());
    }
    format!(
        "| {} | {} of {} | {} | {} | {:.1} s | {} of {}{} | {} of {} | {} |\n",
        disaster.title(),
        cell.failed(),
        cell.requests,
        cell.failed_gets,
        cell.repeated_gets,
        cell.longest_ms as f64 / 1000.0,
        cell.lost_carts,
        cell.carts,
        if cell.given_up > 0 { format!(" ({} given up)", cell.given_up) } else { String::new() },
        cell.lost_orders,
        cell.orders,
        cell.doubled_orders,
    )
}

fn promise_line(disaster: Disaster, promise: Promise, cell: &Cell) -> String {
    let gets = promise.every_get.then(|| "no GET fails".to_owned());
    let bound = promise.at_most.map(|bound| format!("{} s at most until an answer", bound.as_secs()));
    let said: Vec<_> = gets.into_iter().chain(bound).collect();
    let said = if said.is_empty() { "no more than that".to_owned() } else { said.join(", ") };
    let broken = cell.broken(promise);
    let verdict =
        if broken.is_empty() { "kept".to_owned() } else { format!("**broken**: {}", broken.join(", ")) };
    format!("- {}: {said}: {verdict}\n", disaster.title())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_that_were_confirmed_must_be_there_once() {
        let orders = ["a", "b", "c"].map(str::to_owned).into();
        let seen = Seen { orders, ..Seen::default() };
        let placed = [("a", 1), ("b", 2), ("d", 1)].map(|(name, count)| (name.to_owned(), count));
        let cell = Cell::of(seen, &placed.into());
        assert_eq!((cell.orders, cell.lost_orders, cell.doubled_orders), (3, 1, 1));
        assert_eq!(cell.damage(), Damage::Lost);
    }

    #[test]
    fn the_table_has_a_line_for_each_disaster_and_a_box_for_each_cell() {
        let cells = Disaster::ALL
            .map(|disaster| disaster.missing(Step::Memory).map_or_else(Cell::default, Cell::without));
        let rows = [Row {
            step: Step::Memory,
            shoppers: 200,
            seconds: 60,
            build: Build::Release,
            cells: cells.into(),
        }];
        let text = markdown(&rows);
        assert_eq!(
            text.lines().filter(|line| line.starts_with("| ")).count(),
            2 + Disaster::ALL.len(),
            "{text}"
        );
        assert!(text.contains("| Redis primary killed | n/a: no Redis |"), "{text}");
        assert_eq!(chart::svg(&rows).matches("<rect class=\"cell").count(), Disaster::ALL.len());
    }

    #[test]
    fn a_promise_that_was_not_kept_is_said() {
        let promise = Promise { every_get: true, at_most: Some(std::time::Duration::from_secs(7)) };
        assert_eq!(Cell::default().broken(promise), Vec::<String>::new());
        let worse = Cell { failed_gets: 1, lost_carts: 2, longest_ms: 7001, ..Cell::default() };
        assert_eq!(
            worse.broken(promise),
            ["2 carts lost", "1 failed GETs", "7.0 s until an answer, and 7 s at most"]
        );
        assert_eq!(worse.broken(Promise { every_get: false, at_most: None }), ["2 carts lost"]);
        let cells = Disaster::ALL.map(|_| Cell { lost_carts: 1, ..Cell::default() });
        let rows =
            [Row { step: Step::Full, shoppers: 1, seconds: 1, build: Build::Release, cells: cells.into() }];
        assert_eq!(markdown(&rows).matches("**broken**: 1 carts lost").count(), Disaster::ALL.len());
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_of_the_same_step() {
        let folder = tempfile::tempdir().unwrap();
        for (step, shoppers) in [(Step::Sticky, 1), (Step::Memory, 2), (Step::Sticky, 3)] {
            write(
                Row { step, shoppers, seconds: 1, build: Build::Release, cells: Vec::new() },
                folder.path(),
            )
            .unwrap();
        }
        let rows = read(folder.path()).unwrap();
        let rows: Vec<_> = rows.iter().map(|row| (row.step, row.shoppers)).collect();
        assert_eq!(rows, [(Step::Memory, 2), (Step::Sticky, 3)]);
    }

    #[test]
    fn what_is_shown_is_what_was_measured() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/myclothes/lab");
        let rows = read(&here).unwrap();
        assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), Step::ALL);
        for (name, drawn) in [("disasters.md", markdown(&rows)), ("disasters.svg", chart::svg(&rows))] {
            let shown = std::fs::read_to_string(here.join(name)).unwrap();
            assert!(shown == drawn, "{name}: `myclothes lab chaos --redraw` draws it anew");
        }
        for row in &rows {
            for (disaster, cell) in Disaster::ALL.iter().zip(&row.cells) {
                let promise = promise::of(row.step, *disaster);
                assert_eq!(
                    promise.map(|promise| cell.broken(promise)).unwrap_or_default(),
                    Vec::<String>::new()
                );
            }
        }
    }
}
