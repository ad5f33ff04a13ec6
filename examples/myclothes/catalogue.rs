//! The catalogue: what is for sale, by id, by category and by search.
//!
//! It is seeded once from `products.toml`; afterwards the database is the only truth, because checkouts take stock
//! there. The drawings of the garments are in `templates/garment.html`.

use serde::{Deserialize, Serialize};

/// Longest search text in bytes; the rest is ignored.
const MAX_SEARCH: usize = 100;
/// Words of a search; the rest is ignored.
const MAX_WORDS: usize = 8;

/// Something that is for sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Counts the changes; of two states of a product, the one with more is the newer.
    #[serde(skip)]
    pub(crate) version: i64,
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

/// What a new database is filled with: `products.toml`.
pub(crate) fn data_file() -> Vec<Product> {
    #[derive(Deserialize)]
    struct File {
        product: Vec<Product>,
    }
    let file: File = toml::from_str(include_str!("products.toml"))
        .unwrap_or_else(|error| panic!("examples/myclothes/products.toml: {error}"));
    file.product
}

/// Those of the products that match, in their order.
pub(crate) fn matching(products: &[Product], search: &Search) -> Vec<Product> {
    let words = words(&search.q);
    let of_category = |product: &&Product| search.category.is_empty() || product.category == search.category;
    let has_words = |product: &&Product| {
        let text = [&*product.name, &product.category, &product.colour, &product.description].join(" ");
        let text = text.to_lowercase();
        words.iter().all(|word| text.contains(word))
    };
    products.iter().filter(of_category).filter(has_words).cloned().collect()
}

/// The words of a search text, in lower case.
fn words(text: &str) -> Vec<String> {
    let end = text.floor_char_boundary(MAX_SEARCH);
    text[..end].split_whitespace().take(MAX_WORDS).map(str::to_lowercase).collect()
}

/// The categories, in the order of the products.
pub(crate) fn categories(products: &[Product]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for product in products {
        if !found.contains(&product.category) {
            found.push(product.category.clone());
        }
    }
    found
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
