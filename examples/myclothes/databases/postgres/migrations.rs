//! The tables, version by version.
//!
//! Instances start at the same time, so an advisory lock lets one at a time look and migrate; each version is one transaction
//! with the number that says that it was reached.

use deadpool_postgres::Object;
use tokio_postgres::error::SqlState;

use super::servers::Trouble;
use crate::catalogue;
use crate::sessions;

/// What each version changes. Never changed once it was released, only added to.
const VERSIONS: [&str; 1] = ["
    CREATE TABLE settings (
        name text PRIMARY KEY,
        value bytea NOT NULL
    );
    CREATE TABLE products (
        id bigint PRIMARY KEY,
        name text NOT NULL,
        category text NOT NULL,
        colour text NOT NULL,
        hex text NOT NULL,
        pattern text NOT NULL,
        price_cents bigint NOT NULL CHECK (price_cents > 0),
        stock bigint NOT NULL CHECK (stock >= 0),
        description text NOT NULL,
        version bigint NOT NULL DEFAULT 1
    );
    CREATE TABLE accounts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        email text NOT NULL UNIQUE,
        password text NOT NULL,
        name text NOT NULL,
        address text NOT NULL
    );
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        session_id text NOT NULL,
        basket bigint NOT NULL,
        account_id bigint REFERENCES accounts (id) ON DELETE CASCADE,
        idempotency_key text,
        name text NOT NULL,
        address text NOT NULL,
        total_cents bigint NOT NULL,
        placed_at bigint NOT NULL,
        UNIQUE (session_id, idempotency_key),
        UNIQUE (session_id, basket)
    );
    CREATE INDEX orders_by_account ON orders (account_id);
    CREATE TABLE order_items (
        order_id bigint NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
        product_id bigint NOT NULL,
        name text NOT NULL,
        price_cents bigint NOT NULL,
        quantity bigint NOT NULL,
        PRIMARY KEY (order_id, product_id)
    );
"];

/// Who holds this lock migrates. Any number that nobody else of the database uses.
const LOCK: i64 = 0x006d_7963_6c6f_7468;

/// Brings the tables to the newest version, and fills them when they are new.
pub(super) async fn run(client: &mut Object) -> Result<(), Trouble> {
    for target in 1..=VERSIONS.len() {
        let transaction = client.transaction().await?;
        // Others may migrate for longer than a request would wait.
        transaction.batch_execute("SET LOCAL lock_timeout = '8s'").await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        transaction
            .batch_execute("CREATE TABLE IF NOT EXISTS schema_version (version bigint PRIMARY KEY)")
            .await?;
        let reached: i64 =
            transaction.query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[]).await?.get(0);
        if reached > VERSIONS.len() as i64 {
            return Err(later(reached));
        }
        if reached >= target as i64 {
            continue;
        }
        transaction.batch_execute(VERSIONS[target - 1]).await?;
        if target == 1 {
            fill(&transaction).await?;
        }
        transaction.execute("INSERT INTO schema_version VALUES ($1)", &[&(target as i64)]).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// The secret that the instances share, if the tables are of this version.
pub(super) async fn secret(client: &Object) -> Result<Vec<u8>, Trouble> {
    let reached = match client.query_one("SELECT max(version) FROM schema_version", &[]).await {
        Ok(row) => row.get::<_, Option<i64>>(0).unwrap_or(0),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => 0,
        Err(error) => return Err(error.into()),
    };
    match reached.cmp(&(VERSIONS.len() as i64)) {
        std::cmp::Ordering::Less => {
            Err(Trouble::NotNow("the tables are not there yet, and only a primary can make them".to_owned()))
        }
        std::cmp::Ordering::Equal => {
            Ok(client.query_one("SELECT value FROM settings WHERE name = 'form_secret'", &[]).await?.get(0))
        }
        std::cmp::Ordering::Greater => Err(later(reached)),
    }
}

fn later(reached: i64) -> Trouble {
    Trouble::Wrong(format!("the tables are of version {reached}, which a later myclothes has made"))
}

async fn fill(transaction: &deadpool_postgres::Transaction<'_>) -> Result<(), Trouble> {
    let mut secret = [0u8; 32];
    sessions::fill_random(&mut secret);
    transaction.execute("INSERT INTO settings VALUES ('form_secret', $1)", &[&&secret[..]]).await?;
    let insert =
        transaction.prepare("INSERT INTO products VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)").await?;
    for product in catalogue::data_file() {
        transaction
            .execute(
                &insert,
                &[
                    &product.id,
                    &product.name,
                    &product.category,
                    &product.colour,
                    &product.hex,
                    &product.pattern,
                    &product.price_cents,
                    &product.stock,
                    &product.description,
                ],
            )
            .await?;
    }
    Ok(())
}
