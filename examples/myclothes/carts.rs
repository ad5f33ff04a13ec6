//! Carts: what a session has put aside to buy.
//!
//! Adding is one statement that adds to what is there, so two additions at the same time, on any two instances, both
//! count. Stock is not reserved here: it is taken at the checkout.

use rusqlite::{Connection, Transaction, params};
use serde::Serialize;

use crate::catalogue::{self, Product};
use crate::failure::Failure;
use crate::sessions::Session;

/// Pieces that one request adds, at most.
pub(crate) const MAX_ADD: i64 = 99;
/// Pieces of one product in a cart, at most.
pub(crate) const MAX_LINE: i64 = 999;

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

/// The cart of a session; empty when there is no session yet.
pub(crate) fn read(connection: &Connection, session: Option<Session>) -> Result<Cart, Failure> {
    let Some(session) = session else { return Ok(Cart::default()) };
    let mut select = connection.prepare_cached(
        "SELECT product_id, quantity FROM cart_items WHERE session_id = ?1 ORDER BY product_id",
    )?;
    let lines = select
        .query_map([session.id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    let mut cart = Cart::default();
    for (product_id, quantity) in lines {
        let product = catalogue::find(connection, product_id)?.ok_or(Failure::NotFound)?;
        let line_cents = product.price_cents * quantity;
        cart.total_cents += line_cents;
        cart.items.push(Item {
            product_id,
            name: product.name.clone(),
            quantity,
            price_cents: product.price_cents,
            line_cents,
            product,
        });
    }
    Ok(cart)
}

/// Pieces in the cart of a session.
pub(crate) fn pieces(connection: &Connection, session: Option<Session>) -> Result<i64, Failure> {
    let Some(session) = session else { return Ok(0) };
    let mut select = connection
        .prepare_cached("SELECT coalesce(sum(quantity), 0) FROM cart_items WHERE session_id = ?1")?;
    Ok(select.query_row([session.id], |row| row.get(0))?)
}

/// Adds pieces of a product.
pub(crate) fn add(
    transaction: &Transaction<'_>,
    session: Session,
    product_id: i64,
    quantity: i64,
) -> Result<(), Failure> {
    check_quantity(quantity, MAX_ADD)?;
    let product = catalogue::find(transaction, product_id)?
        .ok_or_else(|| Failure::invalid("product_id", format!("There is no product {product_id}.")))?;
    if product.stock == 0 {
        return Err(Failure::Conflict(format!("{} is sold out.", product.name)));
    }
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO cart_items VALUES (?1, ?2, ?3)
         ON CONFLICT (session_id, product_id) DO UPDATE SET quantity = quantity + excluded.quantity
         WHERE quantity + excluded.quantity <= ?4",
    )?;
    if upsert.execute(params![session.id, product_id, quantity, MAX_LINE])? == 0 {
        let message = format!("A cart holds at most {MAX_LINE} pieces of a product.");
        return Err(Failure::invalid("quantity", message));
    }
    Ok(())
}

/// Sets the quantity of a product that is in the cart.
pub(crate) fn set(
    transaction: &Transaction<'_>,
    session: Session,
    product_id: i64,
    quantity: i64,
) -> Result<(), Failure> {
    check_quantity(quantity, MAX_LINE)?;
    transaction.execute(
        "UPDATE cart_items SET quantity = ?3 WHERE session_id = ?1 AND product_id = ?2",
        params![session.id, product_id, quantity],
    )?;
    Ok(())
}

/// Removes a product; one that is not there is no error, so that the request can be repeated.
pub(crate) fn remove(
    transaction: &Transaction<'_>,
    session: Session,
    product_id: i64,
) -> Result<(), Failure> {
    transaction.execute(
        "DELETE FROM cart_items WHERE session_id = ?1 AND product_id = ?2",
        params![session.id, product_id],
    )?;
    Ok(())
}

/// Removes everything.
pub(crate) fn empty(transaction: &Transaction<'_>, session: Session) -> Result<(), Failure> {
    transaction.execute("DELETE FROM cart_items WHERE session_id = ?1", [session.id])?;
    Ok(())
}

fn check_quantity(quantity: i64, most: i64) -> Result<(), Failure> {
    if (1..=most).contains(&quantity) {
        return Ok(());
    }
    Err(Failure::invalid("quantity", format!("The quantity must be a whole number from 1 to {most}.")))
}
