//! What is asked of the tables.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Sqlite;
use crate::accounts::{Account, Delivery, Email};
use crate::catalogue::Product;
use crate::databases::{Database, Seen};
use crate::failure::Failure;
use crate::orders::{LISTED, NewOrder, Order, OrderItem, Placed};
use crate::sessions;

const PRODUCT: &str = "id, name, category, colour, hex, pattern, price_cents, stock, description, version";
const ORDER: &str = "id, name, address, total_cents, placed_at, date(placed_at, 'unixepoch')";

/// One file has no replicas: whatever was written is seen.
impl Database for Sqlite {
    fn secret(&self) -> &[u8] {
        &self.secret
    }

    async fn products(&self, _: &Seen) -> Result<Vec<Product>, Failure> {
        self.read(|view| products(view, "1", &[])).await
    }

    async fn some_products(&self, _: &Seen, ids: &[i64]) -> Result<Vec<Product>, Failure> {
        let ids = ids.to_vec();
        self.read(move |view| some_products(view, &ids)).await
    }

    async fn set_price(&self, _: &Seen, id: i64, cents: i64) -> Result<Option<Product>, Failure> {
        self.set(id, "price_cents", cents).await
    }

    async fn set_stock(&self, _: &Seen, id: i64, pieces: i64) -> Result<Option<Product>, Failure> {
        self.set(id, "stock", pieces).await
    }

    async fn account(&self, _: &Seen, id: i64) -> Result<Option<Account>, Failure> {
        self.read(move |view| account(view, id)).await
    }

    async fn account_with_email(
        &self,
        _: &Seen,
        email: &Email,
    ) -> Result<Option<(Account, String)>, Failure> {
        let email = email.as_str().to_owned();
        self.read(move |view| with_email(view, &email)).await
    }

    async fn create_account(
        &self,
        _: &Seen,
        email: &Email,
        hash: &str,
        delivery: &Delivery,
    ) -> Result<Account, Failure> {
        let (email, hash, delivery) = (email.as_str().to_owned(), hash.to_owned(), delivery.clone());
        self.write(move |transaction| {
            transaction.execute(
                "INSERT INTO accounts (email, password, name, address) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (email) DO NOTHING",
                params![email, hash, delivery.name, delivery.address],
            )?;
            crate::accounts::made(with_email(transaction, &email)?, &hash)
        })
        .await
    }

    async fn change_account(
        &self,
        _: &Seen,
        id: i64,
        delivery: &Delivery,
    ) -> Result<Option<Account>, Failure> {
        let delivery = delivery.clone();
        self.write(move |transaction| {
            transaction.execute(
                "UPDATE accounts SET name = ?2, address = ?3 WHERE id = ?1",
                params![id, delivery.name, delivery.address],
            )?;
            account(transaction, id)
        })
        .await
    }

    async fn place(&self, _: &Seen, order: &NewOrder) -> Result<Placed, Failure> {
        let order = order.clone();
        self.write(move |transaction| place(transaction, &order)).await
    }

    async fn order(
        &self,
        _: &Seen,
        id: i64,
        session: &str,
        account: Option<i64>,
    ) -> Result<Option<Order>, Failure> {
        let session = session.to_owned();
        self.read(move |view| find(view, id, &session, account)).await
    }

    async fn orders_of(&self, _: &Seen, account: i64) -> Result<Vec<Order>, Failure> {
        self.read(move |view| {
            let sql = format!("SELECT {ORDER} FROM orders WHERE account_id = ?1 ORDER BY id DESC LIMIT ?2");
            let mut select = view.prepare_cached(&sql)?;
            let rows = select.query_map([account, LISTED], order_from)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

impl Sqlite {
    async fn set(&self, id: i64, column: &'static str, to: i64) -> Result<Option<Product>, Failure> {
        self.write(move |transaction| {
            let sql = format!("UPDATE products SET {column} = ?2, version = version + 1 WHERE id = ?1");
            transaction.execute(&sql, [id, to])?;
            Ok(some_products(transaction, &[id])?.pop())
        })
        .await
    }
}

fn products(
    connection: &Connection,
    which: &str,
    params: &[&dyn rusqlite::ToSql],
) -> Result<Vec<Product>, Failure> {
    let mut select =
        connection.prepare_cached(&format!("SELECT {PRODUCT} FROM products WHERE {which} ORDER BY id"))?;
    let rows = select.query_map(params, product_from)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn some_products(connection: &Connection, ids: &[i64]) -> Result<Vec<Product>, Failure> {
    // A list as one parameter: as JSON, which SQLite takes apart.
    let ids = serde_json::to_string(ids).map_err(Failure::internal)?;
    products(connection, "id IN (SELECT value FROM json_each(?1))", &[&ids])
}

fn account(connection: &Connection, id: i64) -> Result<Option<Account>, Failure> {
    let mut select =
        connection.prepare_cached("SELECT id, email, name, address FROM accounts WHERE id = ?1")?;
    Ok(select.query_row([id], account_from).optional()?)
}

fn with_email(connection: &Connection, email: &str) -> Result<Option<(Account, String)>, Failure> {
    let mut select = connection
        .prepare_cached("SELECT id, email, name, address, password FROM accounts WHERE email = ?1")?;
    Ok(select.query_row([email], |row| Ok((account_from(row)?, row.get(4)?))).optional()?)
}

fn place(transaction: &Connection, new: &NewOrder) -> Result<Placed, Failure> {
    let bought: Vec<i64> = new.basket.lines.keys().copied().collect();
    if let Some(order) = placed_before(transaction, new)? {
        return Ok(Placed { order, now: false, products: Vec::new() });
    }
    let bill = new.bill(&some_products(transaction, &bought)?)?;
    transaction.execute(
        "INSERT INTO orders
            (session_id, basket, account_id, idempotency_key, name, address, total_cents, placed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            new.session,
            new.basket.number,
            new.account,
            new.key,
            bill.delivery.name,
            bill.delivery.address,
            bill.total_cents,
            sessions::unix_now(),
        ],
    )?;
    let id = transaction.last_insert_rowid();
    for item in &bill.items {
        transaction.execute(
            "UPDATE products SET stock = stock - ?2, version = version + 1 WHERE id = ?1",
            [item.product_id, item.quantity],
        )?;
        transaction.execute(
            "INSERT INTO order_items VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, item.product_id, item.name, item.price_cents, item.quantity],
        )?;
    }
    let order = find(transaction, id, &new.session, None)?;
    let order = order.ok_or_else(|| Failure::internal("an order vanished"))?;
    Ok(Placed { order, now: true, products: some_products(transaction, &bought)? })
}

/// The order that was placed with this key, or of this basket.
fn placed_before(connection: &Connection, new: &NewOrder) -> Result<Option<Order>, Failure> {
    let id: Option<i64> = connection
        .prepare_cached(
            "SELECT id FROM orders WHERE session_id = ?1 AND (idempotency_key = ?2 OR basket = ?3)
             ORDER BY idempotency_key IS ?2 DESC LIMIT 1",
        )?
        .query_row(params![new.session, new.key, new.basket.number], |row| row.get(0))
        .optional()?;
    id.map(|id| find(connection, id, &new.session, None)).transpose().map(Option::flatten)
}

fn find(
    connection: &Connection,
    id: i64,
    session: &str,
    account: Option<i64>,
) -> Result<Option<Order>, Failure> {
    let sql = format!("SELECT {ORDER} FROM orders WHERE id = ?1 AND (session_id = ?2 OR account_id = ?3)");
    let order =
        connection.prepare_cached(&sql)?.query_row(params![id, session, account], order_from).optional()?;
    order.map(|order| with_items(connection, order)).transpose()
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

fn account_from(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account { id: row.get(0)?, email: row.get(1)?, name: row.get(2)?, address: row.get(3)? })
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
        version: row.get(9)?,
    })
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
