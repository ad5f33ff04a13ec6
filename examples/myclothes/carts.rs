//! Carts: what a visitor has put aside to buy.
//!
//! What is stored is a [`Basket`], numbers only; a [`Cart`] is the same with names and prices, as the catalogue has them
//! now. Changes are plain functions on the basket: the store ([`crate::cart_stores`]) sees to it that two at the same time,
//! on any two instances, both count. Stock is not reserved here: it is taken at the checkout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalogue::Product;
use crate::failure::Failure;
use crate::sessions;

/// Pieces that one request adds, at most.
pub(crate) const MAX_ADD: i64 = 99;
/// Pieces of one product in a cart, at most.
pub(crate) const MAX_LINE: i64 = 999;
/// Different products in a cart, at most.
pub(crate) const MAX_LINES: usize = 1000;

/// A cart as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Basket {
    /// Another random number after each change. An order is placed once for each, so that a basket that outlives its order,
    /// because an instance died in between, is not bought twice.
    pub(crate) number: i64,
    /// Pieces by product.
    pub(crate) lines: BTreeMap<i64, i64>,
}

impl Basket {
    /// Pieces in it.
    pub(crate) fn pieces(&self) -> i64 {
        self.lines.values().sum()
    }

    /// Adds pieces of a product.
    pub(crate) fn add(&mut self, product: i64, quantity: i64) -> Result<(), Failure> {
        check_quantity(quantity, MAX_ADD)?;
        if !self.lines.contains_key(&product) && self.lines.len() >= MAX_LINES {
            return Err(Failure::Conflict(format!("A cart holds at most {MAX_LINES} different products.")));
        }
        let line = self.lines.entry(product).or_default();
        if *line + quantity > MAX_LINE {
            let message = format!("A cart holds at most {MAX_LINE} pieces of a product.");
            return Err(Failure::invalid("quantity", message));
        }
        *line += quantity;
        self.number = sessions::random_number();
        Ok(())
    }

    /// Sets the quantity of a product, if it is there.
    pub(crate) fn set(&mut self, product: i64, quantity: i64) -> Result<(), Failure> {
        check_quantity(quantity, MAX_LINE)?;
        if let Some(line) = self.lines.get_mut(&product) {
            *line = quantity;
            self.number = sessions::random_number();
        }
        Ok(())
    }

    /// Removes a product; one that is not there is no error, so that the request can be repeated.
    pub(crate) fn remove(&mut self, product: i64) {
        if self.lines.remove(&product).is_some() {
            self.number = sessions::random_number();
        }
    }

    /// Takes out what was bought: everything, if it is still what was ordered. When it was changed meanwhile, in another
    /// window, what was ordered just `now` is taken out of it, and nothing if that was some time ago.
    pub(crate) fn bought(&mut self, ordered: &Self, now: bool) {
        if self.number == ordered.number {
            self.lines.clear();
        } else if now {
            for (product, quantity) in &ordered.lines {
                let left = self.lines.get(product).map_or(0, |line| line - quantity);
                if left > 0 {
                    self.lines.insert(*product, left);
                } else {
                    self.lines.remove(product);
                }
            }
        }
        self.number = sessions::random_number();
    }
}

/// A whole cart.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Cart {
    /// In the order of the products' ids.
    pub(crate) items: Vec<Item>,
    /// Sum of the lines.
    pub(crate) total_cents: i64,
}

/// One line of a cart.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Item {
    pub(crate) product_id: i64,
    pub(crate) name: String,
    pub(crate) quantity: i64,
    /// Of one piece.
    pub(crate) price_cents: i64,
    /// Of the line.
    pub(crate) line_cents: i64,
    /// The rest of the product, for the pages.
    #[serde(skip)]
    pub(crate) product: Product,
}

/// What is in a basket, at the prices of these products. What the shop no longer sells is left out.
pub(crate) fn price(products: &[Product], basket: &Basket) -> Cart {
    let mut cart = Cart::default();
    for (&product_id, &quantity) in &basket.lines {
        let Some(product) = products.iter().find(|product| product.id == product_id) else { continue };
        let line_cents = product.price_cents * quantity;
        cart.total_cents += line_cents;
        cart.items.push(Item {
            product_id,
            name: product.name.clone(),
            quantity,
            price_cents: product.price_cents,
            line_cents,
            product: product.clone(),
        });
    }
    cart
}

/// Whether a product can be put into a cart at all.
pub(crate) fn check_product(id: i64, product: Option<&Product>) -> Result<(), Failure> {
    let found =
        product.ok_or_else(|| Failure::invalid("product_id", format!("There is no product {id}.")))?;
    if found.stock == 0 {
        return Err(Failure::Conflict(format!("{} is sold out.", found.name)));
    }
    Ok(())
}

fn check_quantity(quantity: i64, most: i64) -> Result<(), Failure> {
    if (1..=most).contains(&quantity) {
        return Ok(());
    }
    Err(Failure::invalid("quantity", format!("The quantity must be a whole number from 1 to {most}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basket(lines: &[(i64, i64)]) -> Basket {
        Basket { number: sessions::random_number(), lines: lines.iter().copied().collect() }
    }

    #[test]
    fn a_basket_is_emptied_if_it_is_still_what_was_ordered() {
        let ordered = basket(&[(1, 2), (5, 1)]);
        let mut same = ordered.clone();
        same.bought(&ordered, false);
        assert!(same.lines.is_empty());
        assert_ne!(same.number, ordered.number);
    }

    #[test]
    fn what_another_window_added_during_the_checkout_stays() {
        let ordered = basket(&[(1, 2), (5, 1)]);
        let mut changed = ordered.clone();
        changed.add(1, 1).unwrap();
        changed.add(7, 4).unwrap();
        changed.bought(&ordered, true);
        assert_eq!(changed.lines, basket(&[(1, 1), (7, 4)]).lines);
    }

    #[test]
    fn a_repeated_checkout_takes_nothing_out_of_a_basket_that_was_filled_since() {
        let ordered = basket(&[(1, 2)]);
        let mut filled = Basket::default();
        filled.add(1, 2).unwrap();
        filled.bought(&ordered, false);
        assert_eq!(filled.lines, ordered.lines);
    }

    #[test]
    fn a_basket_that_refuses_a_change_is_as_it_was() {
        let mut full = basket(&(0..MAX_LINES as i64).map(|product| (product, 1)).collect::<Vec<_>>());
        full.set(3, MAX_LINE).unwrap();
        let before = full.clone();
        full.add(-1, 1).unwrap_err();
        full.add(3, 1).unwrap_err();
        full.add(4, MAX_ADD + 1).unwrap_err();
        full.set(4, 0).unwrap_err();
        assert_eq!(full, before);
    }
}
