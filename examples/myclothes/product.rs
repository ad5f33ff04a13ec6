//! `myclothes product …`: changes the catalogue of a shop, while it runs or not.

use std::path::PathBuf;

use crate::cache;
use crate::databases;
use crate::failure::Failure;
use crate::pages::dollars;
use crate::store::Store;
use crate::supervise::say;
use crate::trouble::Trouble;

/// Options of `myclothes product`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    change: Change,
    /// Data folder of the shop, for --database sqlite
    #[arg(long, value_name = "DIR", global = true, default_value = ".")]
    data: PathBuf,
    #[command(flatten)]
    database: databases::Options,
    #[command(flatten)]
    cache: cache::Options,
}

/// What to change.
#[derive(Debug, Clone, clap::Subcommand)]
enum Change {
    /// Set what a product costs
    SetPrice {
        /// The product's id
        product: i64,
        /// In US cents
        #[arg(value_parser = clap::value_parser!(i64).range(1..=100_000_000))]
        cents: i64,
    },
    /// Set how many pieces of a product there are
    SetStock {
        /// The product's id
        product: i64,
        /// Pieces
        #[arg(value_parser = clap::value_parser!(i64).range(0..=1_000_000_000))]
        pieces: i64,
    },
}

/// Changes it, and says what it is then.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Trouble> {
    let Arguments { change, data, database, cache } = arguments;
    let store = Store::open(&database, &cache, &data, "").await.map_err(Trouble::new)?;
    let (id, changed) = match change {
        Change::SetPrice { product, cents } => (product, store.set_price(product, cents).await),
        Change::SetStock { product, pieces } => (product, store.set_stock(product, pieces).await),
    };
    let changed = changed.map_err(|failure: Failure| Trouble::new(failure.message()))?;
    let changed = changed.ok_or_else(|| Trouble::new(format!("there is no product {id}")))?;
    say(format_args!("{}: {}, {} pieces", changed.name, dollars(changed.price_cents), changed.stock));
    match store.cache() {
        Some(cache) if !cache.knows_all().await => Err(Trouble::new(
            "it is changed, but the cache could not be told: for up to a minute, pages may show what was before",
        )),
        _ => Ok(()),
    }
}
