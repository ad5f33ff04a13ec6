//! The table of disasters: what each cost in each step of the architecture, as Markdown and as a chart. Pure but for the writing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disaster::Disaster;
use super::shoppers::Seen;
use super::step::Step;
use crate::trouble::Trouble;

/// What one disaster cost in one step.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Why there is nothing to measure.
    missing: Option<String>,
    requests: usize,
    failed_gets: usize,
    failed_posts: usize,
    carts: usize,
    lost_carts: usize,
    given_up: usize,
    longest_ms: u64,
    orders: usize,
    lost_orders: usize,
    doubled_orders: usize,
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
    pub(crate) cells: Vec<Cell>,
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

    fn failed(&self) -> usize {
        self.failed_gets + self.failed_posts
    }

    /// 0: nothing was noticed; 1: requests failed; 2: something is gone.
    fn damage(&self) -> usize {
        if self.lost_carts + self.lost_orders + self.doubled_orders + self.given_up > 0 {
            2
        } else {
            usize::from(self.failed() > 0)
        }
    }

    fn lines(&self) -> Vec<String> {
        if let Some(why) = &self.missing {
            return vec![format!("n/a: {why}")];
        }
        let given_up =
            if self.given_up > 0 { format!(", {} given up", self.given_up) } else { String::new() };
        vec![
            format!("{} of {} requests failed ({} GET)", self.failed(), self.requests, self.failed_gets),
            format!("longest {:.1} s", self.longest_ms as f64 / 1000.0),
            format!("carts lost: {} of {}{given_up}", self.lost_carts, self.carts),
            format!("orders lost {}, doubled {}, of {}", self.lost_orders, self.doubled_orders, self.orders),
        ]
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}

/// Puts a row into the table in this folder, in the place of the one of the same step: `disasters.json` has the figures, `disasters.md` and
/// `disasters.svg` show them.
pub(crate) fn write(row: Row, folder: &Path) -> Result<(), Trouble> {
    let figures = folder.join("disasters.json");
    let mut rows: Vec<Row> = match std::fs::read_to_string(&figures) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| Trouble::new(format!("{} is no table: {error}", figures.display())))?,
        Err(_) => Vec::new(),
    };
    rows.retain(|other| other.step != row.step);
    rows.push(row);
    rows.sort_by_key(|row| Step::ALL.iter().position(|step| *step == row.step));
    let json = format!("{:#}\n", serde_json::json!(rows));
    for (name, text) in
        [("disasters.json", json), ("disasters.md", markdown(&rows)), ("disasters.svg", svg(&rows))]
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
Orders are counted in the database at the end, a file that all instances share and that no disaster reaches. A disaster lasts ten
seconds. A connection that breaks under a request counts as a failure, also where a browser would ask again by itself. The machine had two
cores and other work to do: on a quiet one, times are shorter.

![The same as a chart](disasters.svg)
";

fn markdown(rows: &[Row]) -> String {
    let mut text = PREFACE.to_owned();
    for Row { step, shoppers, seconds, cells } in rows {
        text += &format!("\n## {}\n\n{shoppers} shoppers, measured in {seconds} s.\n\n", step.title());
        text += "| disaster | failed requests | of them GET | longest | carts lost | orders lost | orders doubled |\n";
        text += "| --- | --- | --- | --- | --- | --- | --- |\n";
        for (disaster, cell) in Disaster::ALL.iter().zip(cells) {
            text += &match &cell.missing {
                Some(why) => format!("| {} | n/a: {why} | | | | | |\n", disaster.title()),
                None => format!(
                    "| {} | {} of {} | {} | {:.1} s | {} of {}{} | {} of {} | {} |\n",
                    disaster.title(),
                    cell.failed(),
                    cell.requests,
                    cell.failed_gets,
                    cell.longest_ms as f64 / 1000.0,
                    cell.lost_carts,
                    cell.carts,
                    if cell.given_up > 0 { format!(" ({} given up)", cell.given_up) } else { String::new() },
                    cell.lost_orders,
                    cell.orders,
                    cell.doubled_orders,
                ),
            };
        }
    }
    text
}

const WIDTH: usize = 190;
const HEIGHT: usize = 84;
const LEFT: usize = 210;
const TOP: usize = 40;
/// Green, yellow, red, and grey for what is not there.
const COLOURS: [&str; 4] = ["#d9ead3", "#fff2cc", "#f4cccc", "#eeeeee"];

fn svg(rows: &[Row]) -> String {
    let width = LEFT + WIDTH * Disaster::ALL.len();
    let height = TOP + HEIGHT * rows.len() + 10;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>What disasters cost in each step of the architecture</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (column, disaster) in Disaster::ALL.iter().enumerate() {
        let x = LEFT + WIDTH * column + 6;
        text += &format!("<text x=\"{x}\" y=\"26\" font-weight=\"bold\">{}</text>\n", disaster.title());
    }
    for (row, Row { step, cells, .. }) in rows.iter().enumerate() {
        let y = TOP + HEIGHT * row;
        text += &format!("<text x=\"6\" y=\"{}\" font-weight=\"bold\">{}</text>\n", y + 20, step.title());
        for (column, cell) in cells.iter().enumerate() {
            let x = LEFT + WIDTH * column;
            let colour = COLOURS[if cell.missing.is_some() { 3 } else { cell.damage() }];
            let (inner_width, inner_height) = (WIDTH - 4, HEIGHT - 4);
            text += &format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{inner_width}\" height=\"{inner_height}\" fill=\"{colour}\"/>\n"
            );
            for (line, words) in cell.lines().iter().enumerate() {
                text += &format!("<text x=\"{}\" y=\"{}\">{words}</text>\n", x + 6, y + 18 + 16 * line);
            }
        }
    }
    text + "</svg>\n"
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
        assert_eq!(cell.damage(), 2);
    }

    #[test]
    fn the_table_has_a_line_for_each_disaster_and_a_box_for_each_cell() {
        let cells =
            Disaster::ALL.map(|disaster| disaster.missing().map_or_else(Cell::default, Cell::without));
        let rows = [Row { step: Step::Memory, shoppers: 200, seconds: 60, cells: cells.into() }];
        let text = markdown(&rows);
        assert_eq!(
            text.lines().filter(|line| line.starts_with("| ")).count(),
            2 + Disaster::ALL.len(),
            "{text}"
        );
        assert!(text.contains("| Redis primary killed | n/a: the shop keeps nothing there |"), "{text}");
        assert_eq!(svg(&rows).matches("<rect x=").count(), Disaster::ALL.len());
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_of_the_same_step() {
        let folder = tempfile::tempdir().unwrap();
        for (step, shoppers) in [(Step::Sticky, 1), (Step::Memory, 2), (Step::Sticky, 3)] {
            write(Row { step, shoppers, seconds: 1, cells: Vec::new() }, folder.path()).unwrap();
        }
        let figures = std::fs::read_to_string(folder.path().join("disasters.json")).unwrap();
        let rows: Vec<Row> = serde_json::from_str(&figures).unwrap();
        let rows: Vec<_> = rows.iter().map(|row| (row.step, row.shoppers)).collect();
        assert_eq!(rows, [(Step::Memory, 2), (Step::Sticky, 3)]);
    }
}
