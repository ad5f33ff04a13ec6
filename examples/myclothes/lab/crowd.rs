//! A crowd of shoppers: a process on the machine `client`, and the shelves and orders that it is held against.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::folder;
use super::plan::CLIENT;
use super::postgres::{Programs, SHOP};
use super::run::{Wish, ask};
use super::shoppers::Seen;
use super::step::Step;
use crate::trouble::Trouble;

/// From being told to stop to having said what was seen.
const SAY: Duration = Duration::from_secs(120);
/// Pieces of everything: shoppers buy a lot, and being sold out is no disaster.
const STOCK: u32 = 10_000_000;

/// Shoppers who shop.
pub(crate) struct Crowd {
    /// Killed with it.
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    orders: Orders,
    /// What the names of their orders begin with.
    mark: String,
}

impl Crowd {
    /// Fills the shelves, and lets so many shoppers in.
    pub(crate) async fn start(shoppers: usize) -> Result<Self, Trouble> {
        let status = ask(&Wish::Status).await?;
        let orders = Orders::of(status.step)?;
        orders.fill(status.postgres_primary).await?;
        let mark = format!("crowd-{:x}", crate::sessions::unix_now());
        let program = std::env::current_exe().map_err(|error| Trouble::new(error.to_string()))?;
        let mut child = Command::new("ip")
            .args(["netns", "exec", CLIENT])
            .arg(program)
            .args(["lab", "crowd", "--shoppers", &shoppers.to_string(), "--mark", &mark])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Trouble::new(format!("the shoppers cannot be started: {error}")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Trouble::new("the shoppers have no way to be told anything"));
        };
        let mut crowd = Self { child, input, said: BufReader::new(output).lines(), orders, mark };
        crowd.hear().await?;
        Ok(crowd)
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Lets them finish what they are at, and go; what they have seen.
    pub(crate) async fn stop(&mut self) -> Result<Seen, Trouble> {
        // A crowd that has gone says nothing, which is noticed next.
        let _ = self.input.write_all(b"stop\n").await;
        let said = self.hear().await?;
        serde_json::from_str(&said)
            .map_err(|error| Trouble::new(format!("the shoppers say nothing that is understood: {error}")))
    }

    /// How often there is each of their orders in the database, which must be whole.
    pub(crate) async fn placed(&self) -> Result<BTreeMap<String, usize>, Trouble> {
        let primary = ask(&Wish::Status).await?.postgres_primary;
        self.orders.placed(&self.mark, primary).await
    }

    async fn hear(&mut self) -> Result<String, Trouble> {
        match timeout(SAY, self.said.next_line()).await {
            Ok(Ok(line)) => Ok(line.unwrap_or_default()),
            Ok(Err(error)) => Err(Trouble::new(format!("the shoppers say nothing: {error}"))),
            Err(_) => Err(Trouble::new("the shoppers do not come to an end")),
        }
    }
}

/// Where orders are.
enum Orders {
    File(PathBuf),
    Postgres(Programs),
}

impl Orders {
    fn of(step: Step) -> Result<Self, Trouble> {
        match step.is_replicated() {
            true => Programs::find().map(Self::Postgres),
            false => Ok(Self::File(folder::path().join("shop/shop.db"))),
        }
    }

    /// Fills the shelves.
    async fn fill(&self, primary: Option<usize>) -> Result<(), Trouble> {
        let statement = format!("UPDATE products SET stock = {STOCK}");
        match self {
            Self::File(file) => {
                let filled = open(file).and_then(|shop| shop.execute(&statement, []));
                filled.map(drop).map_err(|error| in_database(&error))
            }
            Self::Postgres(programs) => {
                programs.ask(SHOP, primary.unwrap_or_default(), &[statement]).await.map(drop)
            }
        }
    }

    /// How often there is each order whose name begins so.
    async fn placed(&self, mark: &str, primary: Option<usize>) -> Result<BTreeMap<String, usize>, Trouble> {
        let question = format!("SELECT name, count(*) FROM orders WHERE name LIKE '{mark}-%' GROUP BY name");
        match self {
            Self::File(file) => {
                let counted = open(file).and_then(|shop| {
                    let mut question = shop.prepare(&question)?;
                    let rows =
                        question.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as usize)))?;
                    rows.collect()
                });
                counted.map_err(|error| in_database(&error))
            }
            Self::Postgres(programs) => {
                let answer = programs.ask(SHOP, primary.unwrap_or_default(), &[question]).await?;
                let counted = answer.lines().map(|line| {
                    let (name, count) = line.rsplit_once('|')?;
                    Some((name.to_owned(), count.parse().ok()?))
                });
                counted
                    .collect::<Option<_>>()
                    .ok_or_else(|| Trouble::new(format!("these are no orders: {answer}")))
            }
        }
    }
}

fn open(file: &PathBuf) -> rusqlite::Result<rusqlite::Connection> {
    let shop = rusqlite::Connection::open(file)?;
    shop.busy_timeout(SAY)?;
    Ok(shop)
}

fn in_database(error: &rusqlite::Error) -> Trouble {
    Trouble::new(format!("the shop's database: {error}"))
}
