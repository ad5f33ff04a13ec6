//! Disasters under shoppers: one in a lab that runs, or all of them in all steps of the architecture, as a table.
//!
//! One measurement: the shoppers begin; the disaster happens and is repaired; they go on for a while; what they have seen is held against
//! what the database has. Then the lab is made whole before the next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::disaster::{Disaster, heal};
use super::plan::CLIENT;
use super::shoppers::Seen;
use super::step::Step;
use super::table::{Cell, Row};
use super::{folder, table};
use crate::trouble::Trouble;

/// Shopping before anything happens: as long as a visit takes.
const BEFORE: Duration = Duration::from_secs(7);
/// Shopping after it is over: another visit.
const AFTER: Duration = Duration::from_secs(8);
/// From being told to stop to having said what was seen.
const SAY: Duration = Duration::from_secs(120);
/// Pieces of everything: shoppers buy a lot, and being sold out is no disaster.
const STOCK: u32 = 1_000_000;

/// Options of `myclothes lab chaos`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// What happens, in the lab that is up
    #[arg(long, value_name = "WHAT", required_unless_present = "table")]
    disaster: Option<Disaster>,
    /// All disasters in all steps, each in a lab of its own: takes ten minutes
    #[arg(long, conflicts_with = "disaster")]
    table: bool,
    /// Only these steps; the rows of others stay as they are in the table
    #[arg(long, value_name = "STEP", value_delimiter = ',', requires = "table")]
    steps: Vec<Step>,
    /// Where the table is: disasters.md and disasters.svg, made of disasters.json
    #[arg(long, value_name = "DIR", default_value = "examples/myclothes/lab", requires = "table")]
    output: PathBuf,
    /// Shoppers at the same time
    #[arg(long, value_name = "N", default_value_t = 200)]
    shoppers: usize,
}

/// Lets it happen, and says what it cost.
pub(crate) fn run(options: &Options) -> Result<(), Trouble> {
    match options.disaster {
        Some(disaster) => {
            let cell = crate::block_on(one(disaster, options.shoppers))?;
            println!("{}: {cell}", disaster.title());
            for line in &cell.told {
                println!("  {line}");
            }
            Ok(())
        }
        None => all(options),
    }
}

fn all(options: &Options) -> Result<(), Trouble> {
    let begin = Instant::now();
    let steps = if options.steps.is_empty() { Step::ALL.to_vec() } else { options.steps.clone() };
    for step in steps {
        let since = Instant::now();
        super::up(step)?;
        let cells = crate::block_on(row(step, options.shoppers));
        // Also when something went wrong: the next lab needs the place.
        super::down()?;
        let row = Row { step, shoppers: options.shoppers, seconds: since.elapsed().as_secs(), cells: cells? };
        // After each row, so that a run that is broken off is not for nothing.
        table::write(row, &options.output)?;
    }
    println!("Written to {}, after {} s.", options.output.display(), begin.elapsed().as_secs());
    Ok(())
}

async fn row(step: Step, shoppers: usize) -> Result<Vec<Cell>, Trouble> {
    let mut row = Vec::new();
    for disaster in Disaster::ALL {
        let cell = match disaster.missing() {
            Some(why) => Cell::without(why),
            None => one(disaster, shoppers).await?,
        };
        println!("{}, {}: {cell}", step.title(), disaster.title());
        for line in cell.told.iter().take(3) {
            println!("    {line}");
        }
        row.push(cell);
    }
    Ok(row)
}

/// One measurement.
async fn one(disaster: Disaster, shoppers: usize) -> Result<Cell, Trouble> {
    fill_shelves().map_err(|error| in_database(&error))?;
    let mark = format!("chaos-{:x}", crate::sessions::unix_now());
    let program = std::env::current_exe().map_err(|error| Trouble::new(error.to_string()))?;
    let mut crowd = Command::new("ip")
        .args(["netns", "exec", CLIENT])
        .arg(program)
        .args(["lab", "shop", "--shoppers", &shoppers.to_string(), "--mark", &mark])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Trouble::new(format!("the shoppers cannot be started: {error}")))?;
    let (Some(mut input), Some(output)) = (crowd.stdin.take(), crowd.stdout.take()) else {
        return Err(Trouble::new("the shoppers have no way to be told anything"));
    };
    let mut lines = BufReader::new(output).lines();
    let trouble = |error: std::io::Error| Trouble::new(format!("the shoppers say nothing: {error}"));
    lines.next_line().await.map_err(trouble)?;
    sleep(BEFORE).await;
    disaster.happen().await?;
    sleep(AFTER).await;
    // A crowd that has gone says nothing, which is noticed next.
    let _ = input.write_all(b"stop\n").await;
    let said = timeout(SAY, lines.next_line())
        .await
        .map_err(|_| Trouble::new("the shoppers do not come to an end"))?;
    let said = said.map_err(trouble)?.unwrap_or_default();
    let seen: Seen = serde_json::from_str(&said)
        .map_err(|error| Trouble::new(format!("the shoppers say nothing that is understood: {error}")))?;
    heal().await?;
    let placed = placed(&mark).map_err(|error| in_database(&error))?;
    Ok(Cell::of(seen, &placed))
}

/// The file with the orders, which all instances share.
fn shop() -> rusqlite::Result<rusqlite::Connection> {
    let shop = rusqlite::Connection::open(folder::path().join("shop/shop.db"))?;
    shop.busy_timeout(SAY)?;
    Ok(shop)
}

fn fill_shelves() -> rusqlite::Result<usize> {
    shop()?.execute("UPDATE products SET stock = ?1", [STOCK])
}

/// How often there is each order whose name begins so.
fn placed(mark: &str) -> rusqlite::Result<BTreeMap<String, usize>> {
    let shop = shop()?;
    let mut question =
        shop.prepare("SELECT name, count(*) FROM orders WHERE name LIKE ?1 || '-%' GROUP BY name")?;
    let rows = question.query_map([mark], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as usize)))?;
    rows.collect()
}

fn in_database(error: &rusqlite::Error) -> Trouble {
    Trouble::new(format!("the shop's database: {error}"))
}
