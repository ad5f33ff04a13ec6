//! Orders: the checkout, and what it left behind.
//!
//! A checkout is one transaction: it writes the order and takes the stock, or does none of it. The cart may be in another
//! store, so it is emptied afterwards, if it is still what was ordered. A request with a key that the session has used before
//! gets the order of that first time, and so does one with a basket that was bought before: a form that is sent twice, a request that
//! a balancer repeats, or a cart that was not emptied because the instance died, buys once.

use serde::Serialize;

use crate::accounts::Delivery;
use crate::carts::Basket;
use crate::catalogue::Product;
use crate::failure::Failure;
use crate::instance::App;
use crate::sessions::{Session, SetCookies, Visitor};

/// Longest idempotency key, in bytes.
pub(crate) const MAX_KEY: usize = 200;
/// Orders that the account page lists.
pub(crate) const LISTED: i64 = 20;

/// An order that was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Order {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) total_cents: i64,
    /// Seconds since 1970.
    pub(crate) placed_at: i64,
    /// The same as a date in UTC, `2026-03-31`.
    pub(crate) placed_on: String,
    pub(crate) items: Vec<OrderItem>,
}

/// A line of an order, at the price of that day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OrderItem {
    pub(crate) product_id: i64,
    pub(crate) name: String,
    pub(crate) quantity: i64,
    pub(crate) price_cents: i64,
    pub(crate) line_cents: i64,
}

/// An order that somebody wants to place.
#[derive(Debug, Clone)]
pub(crate) struct NewOrder {
    /// The session's id.
    pub(crate) session: String,
    pub(crate) account: Option<i64>,
    /// What is bought; at most one order is placed for each number of a basket.
    pub(crate) basket: Basket,
    /// At most one order is placed for each key of a session.
    pub(crate) key: Option<String>,
    /// Where it goes. A failure counts only when an order is placed, not when it was placed before.
    pub(crate) delivery: Result<Delivery, Failure>,
    /// What the buyer was told that it costs. If it costs something else by now, it is not placed.
    pub(crate) total_cents: Option<i64>,
}

/// What becomes of an order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) order: Order,
    /// Whether this call placed it, and no earlier one.
    pub(crate) now: bool,
    /// What was bought, with what is left of it.
    pub(crate) products: Vec<Product>,
}

/// An order that can be placed.
#[derive(Debug)]
pub(crate) struct Bill {
    pub(crate) delivery: Delivery,
    pub(crate) items: Vec<OrderItem>,
    pub(crate) total_cents: i64,
}

impl NewOrder {
    /// What is to be paid, at the prices of these products, or why this cannot be bought.
    pub(crate) fn bill(&self, products: &[Product]) -> Result<Bill, Failure> {
        let mut items = Vec::new();
        for (&product_id, &quantity) in &self.basket.lines {
            let Some(product) = products.iter().find(|product| product.id == product_id) else { continue };
            if product.stock < quantity {
                let left = match product.stock {
                    0 => format!("{} is sold out.", product.name),
                    stock => format!("Of {}, only {stock} are left.", product.name),
                };
                return Err(Failure::Conflict(format!("{left} Change your cart and try again.")));
            }
            let (name, price_cents) = (product.name.clone(), product.price_cents);
            items.push(OrderItem {
                product_id,
                name,
                quantity,
                price_cents,
                line_cents: quantity * price_cents,
            });
        }
        if items.is_empty() {
            return Err(Failure::Conflict("The cart is empty.".into()));
        }
        let delivery = self.delivery.clone()?;
        let total_cents = items.iter().map(|item| item.line_cents).sum();
        if self.total_cents.is_some_and(|told| told != total_cents) {
            return Err(Failure::Conflict(
                "A price has changed. Look at the total again before you buy.".into(),
            ));
        }
        Ok(Bill { delivery, items, total_cents })
    }
}

/// What a visitor says with a checkout.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) key: Option<String>,
    pub(crate) delivery: Result<Delivery, Failure>,
    pub(crate) total_cents: Option<i64>,
}

/// Buys what is in the visitor's cart, and empties it. `true` when this call placed the order, `false` when an earlier one did.
///
/// An order that was placed counts, even if the cart cannot be emptied: then the same basket gets the same order again.
pub(crate) async fn check_out(
    app: &App,
    visitor: &Visitor,
    session: Option<Session>,
    wish: Wish,
) -> Result<(Order, bool, SetCookies), Failure> {
    let Some(Session { id, account, basket, .. }) = session else {
        return Err(Failure::Conflict("The cart is empty.".into()));
    };
    let Wish { key, delivery, total_cents } = wish;
    let order = NewOrder { session: id, account, basket, key, delivery, total_cents };
    let Placed { order: placed, now, .. } = app.store.place(&visitor.seen, &order).await?;
    let emptied = app.carts.change(visitor, |session| {
        session.basket.bought(&order.basket, now);
        Ok(())
    });
    let cookies = match emptied.await {
        Ok((_, cookies)) => cookies,
        Err(_) => visitor.cookies(),
    };
    Ok((placed, now, cookies))
}
