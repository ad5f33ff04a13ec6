//! What the shop asks of its database, from the side of those who ask. The catalogue may come from a cache ([`crate::cache`]).

use std::path::Path;
use std::sync::Arc;

use crate::accounts::{Account, Delivery, Email};
use crate::cache::{self, Cache};
use crate::carts::{self, Basket, Cart};
use crate::catalogue::Product;
use crate::databases::{self, Database as _, Databases, Seen};
use crate::failure::Failure;
use crate::orders::{NewOrder, Order, Placed};

/// The database of one instance.
pub(crate) struct Store {
    database: Arc<Databases>,
    cache: Option<Arc<Cache>>,
}

impl Store {
    /// Opens the database; makes and fills its tables when it is new. The error is one line. A cache that is away is none.
    pub(crate) async fn open(
        database: &databases::Options,
        cache: &cache::Options,
        data: &Path,
        zone: &str,
    ) -> Result<Self, String> {
        let database = Databases::open(database, data, zone).await?;
        let cache = Cache::open(cache, database.secret()).await;
        Ok(Self { database: Arc::new(database), cache })
    }

    /// Random bytes, the same for all instances, that no client knows: the key of the form tokens.
    pub(crate) fn form_secret(&self) -> &[u8] {
        self.database.secret()
    }

    /// The servers of the database, as this instance sees them; `null` if there are none.
    pub(crate) fn servers(&self) -> serde_json::Value {
        self.database.servers()
    }

    /// The cache of the catalogue, if there is one.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.cache.as_deref()
    }

    /// Everything for sale, in the order of the ids.
    pub(crate) async fn products(&self, seen: &Seen) -> Result<Vec<Product>, Failure> {
        match &self.cache {
            Some(cache) => cache.products(&self.database, seen).await,
            None => self.database.products(seen).await,
        }
    }

    /// One product, if there is one with this id.
    pub(crate) async fn product(&self, seen: &Seen, id: i64) -> Result<Option<Product>, Failure> {
        Ok(self.some_products(seen, &[id]).await?.pop())
    }

    async fn some_products(&self, seen: &Seen, ids: &[i64]) -> Result<Vec<Product>, Failure> {
        match &self.cache {
            Some(cache) => cache.some_products(&self.database, seen, ids).await,
            None => self.database.some_products(seen, ids).await,
        }
    }

    /// What is in a basket, at today's prices; an empty one asks nobody.
    pub(crate) async fn price(&self, seen: &Seen, basket: &Basket) -> Result<Cart, Failure> {
        if basket.lines.is_empty() {
            return Ok(Cart::default());
        }
        let ids: Vec<i64> = basket.lines.keys().copied().collect();
        Ok(carts::price(&self.some_products(seen, &ids).await?, basket))
    }

    /// The account with this id; nobody's is none.
    pub(crate) async fn account(&self, seen: &Seen, id: Option<i64>) -> Result<Option<Account>, Failure> {
        match id {
            Some(id) => self.database.account(seen, id).await,
            None => Ok(None),
        }
    }

    /// The account with this e-mail address, and its password's hash.
    pub(crate) async fn account_with_email(
        &self,
        seen: &Seen,
        email: &Email,
    ) -> Result<Option<(Account, String)>, Failure> {
        self.database.account_with_email(seen, email).await
    }

    /// Stores a new account.
    pub(crate) async fn create_account(
        &self,
        seen: &Seen,
        email: &Email,
        hash: &str,
        delivery: &Delivery,
    ) -> Result<Account, Failure> {
        self.database.create_account(seen, email, hash, delivery).await
    }

    /// Writes name and address.
    pub(crate) async fn change_account(
        &self,
        seen: &Seen,
        id: i64,
        delivery: &Delivery,
    ) -> Result<Account, Failure> {
        self.database.change_account(seen, id, delivery).await?.ok_or(Failure::LoginNeeded)
    }

    /// Places an order, unless it was placed before.
    pub(crate) async fn place(&self, seen: &Seen, order: &NewOrder) -> Result<Placed, Failure> {
        let Some(cache) = &self.cache else { return self.database.place(seen, order).await };
        let (cache, database) = (Arc::clone(cache), Arc::clone(&self.database));
        let (seen, order) = (seen.clone(), order.clone());
        // In a task of its own, so that the cache is told even if the shopper does not wait for the answer.
        let placing = tokio::spawn(async move { cache.place(&database, &seen, &order).await });
        placing.await.unwrap_or_else(|panic| Err(Failure::internal(panic)))
    }

    /// An order, if this session or this account placed it.
    pub(crate) async fn order(
        &self,
        seen: &Seen,
        id: i64,
        session: &str,
        account: Option<i64>,
    ) -> Result<Option<Order>, Failure> {
        self.database.order(seen, id, session, account).await
    }

    /// The newest orders of an account, without their lines.
    pub(crate) async fn orders_of(&self, seen: &Seen, account: i64) -> Result<Vec<Order>, Failure> {
        self.database.orders_of(seen, account).await
    }

    /// Sets the price of a product.
    pub(crate) async fn set_price(&self, id: i64, cents: i64) -> Result<Option<Product>, Failure> {
        let seen = Seen::default();
        Ok(self.changed(&seen, self.database.set_price(&seen, id, cents).await?).await)
    }

    /// Sets how many pieces of a product there are.
    pub(crate) async fn set_stock(&self, id: i64, pieces: i64) -> Result<Option<Product>, Failure> {
        let seen = Seen::default();
        Ok(self.changed(&seen, self.database.set_stock(&seen, id, pieces).await?).await)
    }

    async fn changed(&self, seen: &Seen, product: Option<Product>) -> Option<Product> {
        if let (Some(cache), Some(product)) = (&self.cache, &product) {
            cache.changed(seen, std::slice::from_ref(product)).await;
        }
        product
    }
}
