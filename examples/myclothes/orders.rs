//! Orders: the checkout, and what it left behind.
//!
//! A checkout is one transaction: it writes the order and takes the stock, or does none of it. The cart may be in another
//! store, so it is emptied afterwards, if it is still what was ordered. A request with a key that the session has used before
//! gets the order of that first time, and so does one with a basket that was bought before: a form that is sent twice, a request that
//! a balancer repeats, or a cart that was not emptied because the instance died, buys once.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use crate::accounts::Delivery;
use crate::carts;
use crate::failure::Failure;
use crate::instance::App;
use crate::sessions::{self, Session, SetCookies, Visitor};

/// Longest idempotency key, in bytes.
pub(crate) const MAX_KEY: usize = 200;
/// Orders that the account page lists.
const LISTED: i64 = 20;

/// An order that was placed.
#[derive(Debug, Clone, Serialize)]
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
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OrderItem {
    pub(crate) product_id: i64,
    pub(crate) name: String,
    pub(crate) quantity: i64,
    pub(crate) price_cents: i64,
    pub(crate) line_cents: i64,
}

/// Buys what is in the visitor's cart, and empties it. `true` when this call placed the order, `false` when an earlier one did.
///
/// `delivery` is asked for only when an order is placed; it gets the account of who is logged in. An order that was placed
/// counts, even if the cart cannot be emptied: then the same basket gets the same order again.
pub(crate) async fn check_out<D>(
    app: &App,
    visitor: &Visitor,
    key: Option<String>,
    delivery: D,
) -> Result<(Order, bool, SetCookies), Failure>
where
    D: FnOnce(&Transaction<'_>, Option<i64>) -> Result<Delivery, Failure> + Send + 'static,
{
    let Some(session) = app.carts.find(visitor).await? else {
        return Err(Failure::Conflict("The cart is empty.".into()));
    };
    let ordered = session.basket.clone();
    let (order, now) = app
        .store
        .write(move |transaction| {
            place(transaction, &session, key.as_deref(), || delivery(transaction, session.account))
        })
        .await?;
    let emptied = app.carts.change(visitor, |session| {
        session.basket.bought(&ordered, now);
        Ok(())
    });
    let cookies = match emptied.await {
        Ok((_, cookies)) => cookies,
        Err(_) => visitor.cookies(),
    };
    Ok((order, now, cookies))
}

fn place(
    transaction: &Transaction<'_>,
    session: &Session,
    key: Option<&str>,
    delivery: impl FnOnce() -> Result<Delivery, Failure>,
) -> Result<(Order, bool), Failure> {
    if let Some(earlier) = placed_before(transaction, session, key)? {
        return Ok((earlier, false));
    }
    let cart = carts::price(transaction, &session.basket)?;
    if cart.items.is_empty() {
        return Err(Failure::Conflict("The cart is empty.".into()));
    }
    let delivery = delivery()?;
    let placed_at = sessions::unix_now();
    transaction.execute(
        "INSERT INTO orders
            (session_id, basket, account_id, idempotency_key, name, address, total_cents, placed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            session.id,
            session.basket.number,
            session.account,
            key,
            delivery.name,
            delivery.address,
            cart.total_cents,
            placed_at
        ],
    )?;
    let id = transaction.last_insert_rowid();
    for item in &cart.items {
        let taken = transaction.execute(
            "UPDATE products SET stock = stock - ?2 WHERE id = ?1 AND stock >= ?2",
            params![item.product_id, item.quantity],
        )?;
        if taken == 0 {
            let left = match item.product.stock {
                0 => format!("{} is sold out.", item.name),
                stock => format!("Of {}, only {stock} are left.", item.name),
            };
            return Err(Failure::Conflict(format!("{left} Change your cart and try again.")));
        }
        transaction.execute(
            "INSERT INTO order_items VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, item.product_id, item.name, item.price_cents, item.quantity],
        )?;
    }
    let order = find(transaction, session, id)?.ok_or_else(|| Failure::internal("an order vanished"))?;
    Ok((order, true))
}

/// An order, if this session or its account placed it.
pub(crate) fn find(connection: &Connection, session: &Session, id: i64) -> Result<Option<Order>, Failure> {
    let order = connection
        .prepare_cached(
            "SELECT id, name, address, total_cents, placed_at, date(placed_at, 'unixepoch') FROM orders
             WHERE id = ?1 AND (session_id = ?2 OR account_id = ?3)",
        )?
        .query_row(params![id, session.id, session.account], order_from)
        .optional()?;
    order.map(|order| with_items(connection, order)).transpose()
}

/// The newest orders of an account, without their lines.
pub(crate) fn of_account(connection: &Connection, account: i64) -> Result<Vec<Order>, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT id, name, address, total_cents, placed_at, date(placed_at, 'unixepoch') FROM orders
         WHERE account_id = ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = select.query_map([account, LISTED], order_from)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The order that was placed with this key, or of this basket.
fn placed_before(
    connection: &Connection,
    session: &Session,
    key: Option<&str>,
) -> Result<Option<Order>, Failure> {
    let id: Option<i64> = connection
        .prepare_cached(
            "SELECT id FROM orders WHERE session_id = ?1 AND (idempotency_key = ?2 OR basket = ?3)
             ORDER BY idempotency_key IS ?2 DESC LIMIT 1",
        )?
        .query_row(params![session.id, key, session.basket.number], |row| row.get(0))
        .optional()?;
    id.map(|id| find(connection, session, id)).transpose().map(Option::flatten)
}

fn with_items(connection: &Connection, mut order: Order) -> Result<Order, Failure> {
    let mut select = connection.prepare_cached(
        "SELECT product_id, name, quantity, price_cents FROM order_items
         WHERE order_id = ?1 ORDER BY product_id",
    )?;
    let rows = select.query_map([order.id], |row| {
        let (quantity, price_cents): (i64, i64) = (row.get(2)?, row.get(3)?);
        Ok(OrderItem {
            product_id: row.get(0)?,
            name: row.get(1)?,
            quantity,
            price_cents,
            line_cents: quantity * price_cents,
        })
    })?;
    order.items = rows.collect::<rusqlite::Result<_>>()?;
    Ok(order)
}

fn order_from(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get(0)?,
        name: row.get(1)?,
        address: row.get(2)?,
        total_cents: row.get(3)?,
        placed_at: row.get(4)?,
        placed_on: row.get(5)?,
        items: Vec::new(),
    })
}
