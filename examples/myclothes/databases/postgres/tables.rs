//! What is asked of the tables: every read is one statement, so that one server answers it from one state.

use deadpool_postgres::Transaction;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::servers::{Server, Trouble};
use super::{ATTEMPT, Patience, Postgres, position, settle};
use crate::accounts::{Account, Delivery, Email};
use crate::catalogue::Product;
use crate::databases::{Database, Seen};
use crate::failure::Failure;
use crate::orders::{Bill, LISTED, NewOrder, Order, OrderItem, Placed};
use crate::sessions;

const PRODUCTS: &str = "
    SELECT id, name, category, colour, hex, pattern, price_cents, stock, description, version
    FROM products ORDER BY id";
const SOME_PRODUCTS: &str = "
    SELECT id, name, category, colour, hex, pattern, price_cents, stock, description, version
    FROM products WHERE id = ANY ($1) ORDER BY id";
const PRODUCTS_TO_BUY: &str = "
    SELECT id, name, category, colour, hex, pattern, price_cents, stock, description, version
    FROM products WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE";
const SET_PRICE: &str = "
    UPDATE products SET price_cents = $2, version = version + 1 WHERE id = $1
    RETURNING id, name, category, colour, hex, pattern, price_cents, stock, description, version";
const SET_STOCK: &str = "
    UPDATE products SET stock = $2, version = version + 1 WHERE id = $1
    RETURNING id, name, category, colour, hex, pattern, price_cents, stock, description, version";
const TAKE_STOCK: &str = "
    UPDATE products SET stock = stock - quantity, version = version + 1
    FROM unnest($1::bigint[], $2::bigint[]) AS bought (product, quantity) WHERE id = product";
const ACCOUNT: &str = "SELECT id, email, name, address FROM accounts WHERE id = $1";
const ACCOUNT_WITH_EMAIL: &str = "SELECT id, email, name, address, password FROM accounts WHERE email = $1";
// An account that is there is written as it is, so that it is returned and the answer waits until it is replicated.
const CREATE_ACCOUNT: &str = "
    INSERT INTO accounts (email, password, name, address) VALUES ($1, $2, $3, $4)
    ON CONFLICT (email) DO UPDATE SET email = excluded.email
    RETURNING id, email, name, address, password";
const CHANGE_ACCOUNT: &str = "
    UPDATE accounts SET name = $2, address = $3 WHERE id = $1 RETURNING id, email, name, address";
const ORDERS_OF: &str = "
    SELECT id, name, address, total_cents, placed_at,
           to_char(to_timestamp(placed_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD')
    FROM orders WHERE account_id = $1 ORDER BY id DESC LIMIT $2";
const ORDER: &str = "
    SELECT o.id, o.name, o.address, o.total_cents, o.placed_at,
           to_char(to_timestamp(o.placed_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
           i.product_id, i.name, i.quantity, i.price_cents
    FROM orders o JOIN order_items i ON i.order_id = o.id
    WHERE o.id = $1 AND (o.session_id = $2 OR o.account_id = $3) ORDER BY i.product_id";
// Locked, which is written to the log: so the answer "it was placed before" waits until that is replicated, too.
const PLACED_BEFORE: &str = "
    SELECT id FROM orders WHERE session_id = $1 AND (idempotency_key = $2 OR basket = $3)
    ORDER BY idempotency_key IS NOT DISTINCT FROM $2 DESC LIMIT 1 FOR UPDATE";
const PLACE: &str = "
    INSERT INTO orders (session_id, basket, account_id, idempotency_key, name, address, total_cents, placed_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id";
const PLACE_ITEMS: &str = "
    INSERT INTO order_items
    SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[])";

impl Database for Postgres {
    fn secret(&self) -> &[u8] {
        &self.secret
    }

    async fn products(&self, seen: &Seen) -> Result<Vec<Product>, Failure> {
        Ok(self.read(seen, PRODUCTS, &[]).await?.iter().map(product_from).collect())
    }

    async fn some_products(&self, seen: &Seen, ids: &[i64]) -> Result<Vec<Product>, Failure> {
        Ok(self.read(seen, SOME_PRODUCTS, &[&ids]).await?.iter().map(product_from).collect())
    }

    async fn set_price(&self, seen: &Seen, id: i64, cents: i64) -> Result<Option<Product>, Failure> {
        Ok(self.write(seen, SET_PRICE, &[&id, &cents]).await?.first().map(product_from))
    }

    async fn set_stock(&self, seen: &Seen, id: i64, pieces: i64) -> Result<Option<Product>, Failure> {
        Ok(self.write(seen, SET_STOCK, &[&id, &pieces]).await?.first().map(product_from))
    }

    async fn account(&self, seen: &Seen, id: i64) -> Result<Option<Account>, Failure> {
        Ok(self.read(seen, ACCOUNT, &[&id]).await?.first().map(account_from))
    }

    async fn account_with_email(
        &self,
        seen: &Seen,
        email: &Email,
    ) -> Result<Option<(Account, String)>, Failure> {
        let rows = self.read(seen, ACCOUNT_WITH_EMAIL, &[&email.as_str()]).await?;
        Ok(rows.first().map(|row| (account_from(row), row.get(4))))
    }

    async fn create_account(
        &self,
        seen: &Seen,
        email: &Email,
        hash: &str,
        delivery: &Delivery,
    ) -> Result<Account, Failure> {
        let Delivery { name, address } = delivery;
        let rows = self.write(seen, CREATE_ACCOUNT, &[&email.as_str(), &hash, name, address]).await?;
        crate::accounts::made(rows.first().map(|row| (account_from(row), row.get(4))), hash)
    }

    async fn change_account(
        &self,
        seen: &Seen,
        id: i64,
        delivery: &Delivery,
    ) -> Result<Option<Account>, Failure> {
        let rows = self.write(seen, CHANGE_ACCOUNT, &[&id, &delivery.name, &delivery.address]).await?;
        Ok(rows.first().map(account_from))
    }

    async fn place(&self, seen: &Seen, order: &NewOrder) -> Result<Placed, Failure> {
        let mut patience = Patience::new();
        loop {
            let primary = self.primary(&mut patience).await?;
            match place_on(self.servers.at(primary), order).await {
                Ok((Ok(Some(placed)), position)) => {
                    seen.advance(position);
                    return Ok(placed);
                }
                Ok((Ok(None), _)) => patience.why = "the same order is being placed".to_owned(),
                Ok((Err(refused), _)) => return Err(refused),
                Err(trouble) => patience.why = self.note(primary, &trouble)?,
            }
        }
    }

    async fn order(
        &self,
        seen: &Seen,
        id: i64,
        session: &str,
        account: Option<i64>,
    ) -> Result<Option<Order>, Failure> {
        Ok(order_from_rows(&self.read(seen, ORDER, &[&id, &session, &account]).await?))
    }

    async fn orders_of(&self, seen: &Seen, account: i64) -> Result<Vec<Order>, Failure> {
        Ok(self.read(seen, ORDERS_OF, &[&account, &LISTED]).await?.iter().map(order_from).collect())
    }
}

/// What the shop says to an order: placed, or why not; `None` if the same order was placed a moment ago by somebody else.
type Said = Result<Option<Placed>, Failure>;

/// One try of an order on one server, and how far its log is then.
async fn place_on(server: &Server, order: &NewOrder) -> Result<(Said, u64), Trouble> {
    let mut client = server.client().await?;
    let work = async {
        let transaction = client.transaction().await?;
        let said = place_in(&transaction, order).await?;
        match said {
            Ok(Some(_)) => transaction.commit().await?,
            _ => transaction.rollback().await?,
        }
        let position = if said.is_ok() { position(&client).await? } else { 0 };
        Ok((said, position))
    };
    let done = timeout(ATTEMPT, work).await;
    settle(client, done)
}

async fn place_in(transaction: &Transaction<'_>, new: &NewOrder) -> Result<Said, Trouble> {
    let earlier = transaction.prepare_cached(PLACED_BEFORE).await?;
    let earlier = transaction.query_opt(&earlier, &[&new.session, &new.key, &new.basket.number]).await?;
    if let Some(row) = earlier {
        let order = read_order(transaction, row.get(0), new).await?;
        return Ok(Ok(order.map(|order| Placed { order, now: false, products: Vec::new() })));
    }
    let bought: Vec<i64> = new.basket.lines.keys().copied().collect();
    // Locked in the order of their ids, so that two orders wait for each other and never both.
    let lock = transaction.prepare_cached(PRODUCTS_TO_BUY).await?;
    let products: Vec<_> = transaction.query(&lock, &[&bought]).await?.iter().map(product_from).collect();
    let bill = match new.bill(&products) {
        Ok(bill) => bill,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(id) = place_order(transaction, new, &bill).await? else { return Ok(Ok(None)) };
    fill_order(transaction, id, new, &bill).await
}

/// Writes that there is an order; its id, or `None` if the same order is there by now.
async fn place_order(
    transaction: &Transaction<'_>,
    new: &NewOrder,
    bill: &Bill,
) -> Result<Option<i64>, Trouble> {
    let Bill { delivery: Delivery { name, address }, total_cents, .. } = bill;
    let place = transaction.prepare_cached(PLACE).await?;
    let values: super::Values<'_> = &[
        &new.session,
        &new.basket.number,
        &new.account,
        &new.key,
        name,
        address,
        total_cents,
        &sessions::unix_now(),
    ];
    Ok(transaction.query_opt(&place, values).await?.map(|row| row.get(0)))
}

/// Takes the stock of an order, writes its lines, and reads what has come of it.
///
/// All of it is sent at once, and done in this order: until the end, whoever else wants these products waits, and the primary may
/// be far away.
async fn fill_order(
    transaction: &Transaction<'_>,
    id: i64,
    new: &NewOrder,
    bill: &Bill,
) -> Result<Said, Trouble> {
    let items = &bill.items;
    let products: Vec<i64> = items.iter().map(|item| item.product_id).collect();
    let names: Vec<&str> = items.iter().map(|item| &*item.name).collect();
    let prices: Vec<i64> = items.iter().map(|item| item.price_cents).collect();
    let quantities: Vec<i64> = items.iter().map(|item| item.quantity).collect();
    // Prepared before, so that nothing below waits before it is sent.
    let take = transaction.prepare_cached(TAKE_STOCK).await?;
    let lines = transaction.prepare_cached(PLACE_ITEMS).await?;
    let order = transaction.prepare_cached(ORDER).await?;
    let left = transaction.prepare_cached(SOME_PRODUCTS).await?;
    let to_take: super::Values<'_> = &[&products, &quantities];
    let to_write: super::Values<'_> = &[&id, &products, &names, &prices, &quantities];
    let to_read: super::Values<'_> = &[&id, &new.session, &new.account];
    let to_look_at: super::Values<'_> = &[&products];
    let (_, _, order, left) = tokio::try_join!(
        biased;
        transaction.execute(&take, to_take),
        transaction.execute(&lines, to_write),
        transaction.query(&order, to_read),
        transaction.query(&left, to_look_at),
    )?;
    let order = order_from_rows(&order).ok_or_else(|| Trouble::Wrong("an order vanished".to_owned()))?;
    Ok(Ok(Some(Placed { order, now: true, products: left.iter().map(product_from).collect() })))
}

async fn read_order(
    transaction: &Transaction<'_>,
    id: i64,
    new: &NewOrder,
) -> Result<Option<Order>, Trouble> {
    let statement = transaction.prepare_cached(ORDER).await?;
    let rows = transaction.query(&statement, &[&id, &new.session, &new.account]).await?;
    Ok(order_from_rows(&rows))
}

fn account_from(row: &Row) -> Account {
    Account { id: row.get(0), email: row.get(1), name: row.get(2), address: row.get(3) }
}

fn product_from(row: &Row) -> Product {
    Product {
        id: row.get(0),
        name: row.get(1),
        category: row.get(2),
        colour: row.get(3),
        hex: row.get(4),
        pattern: row.get(5),
        price_cents: row.get(6),
        stock: row.get(7),
        description: row.get(8),
        version: row.get(9),
    }
}

fn order_from(row: &Row) -> Order {
    Order {
        id: row.get(0),
        name: row.get(1),
        address: row.get(2),
        total_cents: row.get(3),
        placed_at: row.get(4),
        placed_on: row.get(5),
        items: Vec::new(),
    }
}

fn order_from_rows(rows: &[Row]) -> Option<Order> {
    let item = |row: &Row| {
        let (quantity, price_cents): (i64, i64) = (row.get(8), row.get(9));
        OrderItem {
            product_id: row.get(6),
            name: row.get(7),
            quantity,
            price_cents,
            line_cents: quantity * price_cents,
        }
    };
    let first = rows.first()?;
    Some(Order { items: rows.iter().map(item).collect(), ..order_from(first) })
}
