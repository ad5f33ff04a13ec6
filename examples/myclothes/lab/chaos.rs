//! Disasters under shoppers: one in a lab that runs, or all of them in all steps of the architecture, as a table.
//!
//! One measurement: the shoppers begin; the disaster happens and is repaired; they go on for a while; what they have seen is held against
//! what the database has. Then the lab is made whole before the next. What the last step promises ([`super::promise`]) is held
//! against what was measured, and the command fails if it is not so.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::crowd::Crowd;
use super::disaster::{Disaster, heal};
use super::reading::Reading;
use super::run::{Wish, ask};
use super::step::Step;
use super::table::{self, Build, Cell, Row};
use super::{packages, promise};
use crate::trouble::Trouble;

/// Shopping before anything happens: as long as a visit takes.
const BEFORE: Duration = Duration::from_secs(7);
/// Shopping after it is over: another visit.
const AFTER: Duration = Duration::from_secs(8);

/// What went wrong that is printed of one measurement; disasters.json has more.
const TOLD: usize = 4;

/// Options of `myclothes lab chaos`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// What happens, in the lab that is up
    #[arg(long, value_name = "WHAT", required_unless_present_any = ["table", "redraw"])]
    disaster: Option<Disaster>,
    /// All disasters in all steps, each in a lab of its own: takes twenty minutes
    #[arg(long, conflicts_with = "disaster")]
    table: bool,
    /// Nothing happens; the table is drawn again from disasters.json
    #[arg(long, conflicts_with_all = ["disaster", "table"])]
    redraw: bool,
    /// Only these steps; the rows of others stay as they are in the table
    #[arg(long, value_name = "STEP", value_delimiter = ',', requires = "table")]
    steps: Vec<Step>,
    /// Where the table is: disasters.md and disasters.svg, made of disasters.json
    #[arg(long, value_name = "DIR", default_value = "examples/myclothes/lab")]
    output: PathBuf,
    /// Shoppers at the same time
    #[arg(long, value_name = "N", default_value_t = 200)]
    shoppers: usize,
}

/// Lets it happen, and says what it cost.
pub(crate) fn run(options: &Options) -> Result<(), Trouble> {
    if options.redraw {
        return table::redraw(&options.output);
    }
    packages::check()?;
    let broken = match options.disaster {
        Some(disaster) => crate::block_on(async {
            let step = ask(&Wish::Status).await?.step;
            let cell = one(step, disaster, options.shoppers).await?;
            say(&format!("{}: {cell}", disaster.title()), &cell);
            Ok(broken(step, disaster, &cell))
        })?,
        None => all(options)?,
    };
    match broken.is_empty() {
        true => Ok(()),
        false => Err(Trouble::new(format!("promised otherwise: {}", broken.join("; ")))),
    }
}

fn all(options: &Options) -> Result<Vec<String>, Trouble> {
    let begin = Instant::now();
    let steps = if options.steps.is_empty() { Step::ALL.to_vec() } else { options.steps.clone() };
    let mut all_broken = Vec::new();
    for step in steps {
        let since = Instant::now();
        super::up(step, Reading::default())?;
        let cells = crate::block_on(row(step, options.shoppers));
        // Also when something went wrong: the next lab needs the place.
        super::down()?;
        let cells = cells?;
        all_broken.extend(
            Disaster::ALL.iter().zip(&cells).flat_map(|(disaster, cell)| broken(step, *disaster, cell)),
        );
        let seconds = since.elapsed().as_secs();
        let row = Row { step, shoppers: options.shoppers, seconds, build: Build::of_this(), cells };
        // After each row, so that a run that is broken off is not for nothing.
        table::write(row, &options.output)?;
    }
    println!("Written to {}, after {} s.", options.output.display(), begin.elapsed().as_secs());
    Ok(all_broken)
}

async fn row(step: Step, shoppers: usize) -> Result<Vec<Cell>, Trouble> {
    let mut row = Vec::new();
    for disaster in Disaster::ALL {
        let cell = match disaster.missing(step) {
            Some(why) => Cell::without(why),
            None => one(step, disaster, shoppers).await?,
        };
        say(&format!("{}, {}: {cell}", step.title(), disaster.title()), &cell);
        row.push(cell);
    }
    Ok(row)
}

/// One measurement.
async fn one(step: Step, disaster: Disaster, shoppers: usize) -> Result<Cell, Trouble> {
    if let Some(why) = disaster.missing(step) {
        return Err(Trouble::new(format!("{} cannot happen here: {why}", disaster.title())));
    }
    let mut crowd = Crowd::start(shoppers).await?;
    sleep(BEFORE).await;
    disaster.happen().await?;
    sleep(AFTER).await;
    let seen = crowd.stop().await?;
    heal().await?;
    Ok(Cell::of(seen, &crowd.placed().await?))
}

fn say(what: &str, cell: &Cell) {
    println!("{what}");
    for line in cell.told.iter().take(TOLD) {
        println!("    {line}");
    }
}

/// What of the promise for this disaster was not kept.
fn broken(step: Step, disaster: Disaster, cell: &Cell) -> Vec<String> {
    let broken = promise::of(step, disaster).map(|promise| cell.broken(promise)).unwrap_or_default();
    broken.into_iter().map(|what| format!("{}: {what}", disaster.title())).collect()
}
