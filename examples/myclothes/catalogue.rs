//! The catalogue: what is for sale, by id, by category and by search.
//!
//! It is seeded once from `products.toml`; afterwards the database is the only truth, because checkouts take stock
//! there. The drawings of the garments are in `templates/garment.html`.

use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::store::optional;

/// Longest search text in bytes; the rest is ignored.
const MAX_SEARCH: usize = 100;
/// Words of a search; the rest is ignored.
const MAX_WORDS: usize = 8;

/// Something that is for sale.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Product {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) category: String,
    /// Its colour in words.
    pub(crate) colour: String,
    /// Its colour as `#rrggbb`.
    pub(crate) hex: String,
    /// `plain`, `stripes`, `checks` or `dots`.
    pub(crate) pattern: String,
    pub(crate) price_cents: i64,
    /// Pieces left.
    pub(crate) stock: i64,
    pub(crate) description: String,
}

impl Product {
    /// What its drawing shows, for those who do not see it.
    pub(crate) fn label(&self) -> String {
        format!("{} in {}", self.name, self.colour.to_lowercase())
    }
}

/// What a visitor looks for. Empty means everything.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Search {
    /// Words that must all occur in name, category, colour or description, in any case.
    #[serde(default)]
    pub(crate) q: String,
    /// Exact category.
    #[serde(default)]
    pub(crate) category: String,
}

/// Copies `products.toml` into the database.
pub(crate) fn seed(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut insert =
        transaction.prepare("INSERT INTO products VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    for product in data_file() {
        insert.execute(params![
            product.id,
            product.name,
            product.category,
            product.colour,
            product.hex,
            product.pattern,
            product.price_cents,
            product.stock,
            product.description,
        ])?;
    }
    Ok(())
}

fn data_file() -> Vec<Product> {
    #[derive(Deserialize)]
    struct File {
        product: Vec<Product>,
    }
    let file: File = toml::from_str(include_str!("products.toml"))
        .unwrap_or_else(|error| panic!("examples/myclothes/products.toml: {error}"));
    file.product
}

/// The products that match, in the order of their ids.
pub(crate) fn search(connection: &Connection, search: &Search) -> Result<Vec<Product>, Failure> {
    let words = words(&search.q);
    let mut select = connection.prepare_cached(
        "SELECT id, name, category, colour, hex, pattern, price_cents, stock, description
         FROM products WHERE ?1 IN ('', category) ORDER BY id",
    )?;
    let rows = select.query_map([&search.category], product_from)?;
    let mut found = Vec::new();
    for product in rows {
        let product = product?;
        let text = [&*product.name, &product.category, &product.colour, &product.description]
            .join(" ")
            .to_lowercase();
        if words.iter().all(|word| text.contains(word)) {
            found.push(product);
        }
    }
    Ok(found)
}

/// The words of a search text, in lower case.
fn words(text: &str) -> Vec<String> {
    let end = text.floor_char_boundary(MAX_SEARCH);
    text[..end].split_whitespace().take(MAX_WORDS).map(str::to_lowercase).collect()
}

/// One product, if there is one with this id.
pub(crate) fn find(connection: &Connection, id: i64) -> Result<Option<Product>, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT id, name, category, colour, hex, pattern, price_cents, stock, description
         FROM products WHERE id = ?1",
    )?;
    optional(select.query_row([id], product_from))
}

/// The categories, in the order of the data file.
pub(crate) fn categories(connection: &Connection) -> Result<Vec<String>, Failure> {
    let mut select =
        connection.prepare_cached("SELECT category FROM products GROUP BY category ORDER BY min(id)")?;
    let rows = select.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn product_from(row: &Row<'_>) -> rusqlite::Result<Product> {
    Ok(Product {
        id: row.get(0)?,
        name: row.get(1)?,
        category: row.get(2)?,
        colour: row.get(3)?,
        hex: row.get(4)?,
        pattern: row.get(5)?,
        price_cents: row.get(6)?,
        stock: row.get(7)?,
        description: row.get(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_describes_a_shop() {
        let products = data_file();
        assert!(products.len() >= 24, "only {} products", products.len());
        for (place, product) in products.iter().enumerate() {
            assert_eq!(product.id, place as i64 + 1, "ids count up from 1");
            assert!(["plain", "stripes", "checks", "dots"].contains(&&*product.pattern), "{product:?}");
            let hex = product.hex.strip_prefix('#').unwrap();
            assert!(hex.len() == 6 && u32::from_str_radix(hex, 16).is_ok(), "{product:?}");
        }
    }

    #[test]
    fn a_search_text_is_cut_between_characters() {
        assert_eq!(words(" Red  CHECK "), ["red", "check"]);
        assert!(words(&"ä".repeat(500)).concat().len() <= MAX_SEARCH);
    }
}
