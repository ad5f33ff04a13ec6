//! What the shop asks of its database, from the side of those who ask.

use std::path::Path;

use crate::accounts::{Account, Delivery, Email};
use crate::carts::{self, Basket, Cart};
use crate::catalogue::Product;
use crate::databases::{Database as _, Databases, Options, Seen};
use crate::failure::Failure;
use crate::orders::{NewOrder, Order, Placed};

/// The database of one instance.
pub(crate) struct Store {
    database: Databases,
}

impl Store {
    /// Opens the database; makes and fills its tables when it is new. The error is one line.
    pub(crate) async fn open(options: &Options, data: &Path, zone: &str) -> Result<Self, String> {
        Ok(Self { database: Databases::open(options, data, zone).await? })
    }

    /// Random bytes, the same for all instances, that no client knows: the key of the form tokens.
    pub(crate) fn form_secret(&self) -> &[u8] {
        self.database.secret()
    }

    /// The servers of the database, as this instance sees them; `null` if there are none.
    pub(crate) fn servers(&self) -> serde_json::Value {
        self.database.servers()
    }

    /// Everything for sale, in the order of the ids.
    pub(crate) async fn products(&self, seen: &Seen) -> Result<Vec<Product>, Failure> {
        self.database.products(seen).await
    }

    /// One product, if there is one with this id.
    pub(crate) async fn product(&self, seen: &Seen, id: i64) -> Result<Option<Product>, Failure> {
        Ok(self.database.some_products(seen, &[id]).await?.pop())
    }

    /// What is in a basket, at today's prices; an empty one asks nobody.
    pub(crate) async fn price(&self, seen: &Seen, basket: &Basket) -> Result<Cart, Failure> {
        if basket.lines.is_empty() {
            return Ok(Cart::default());
        }
        let ids: Vec<i64> = basket.lines.keys().copied().collect();
        Ok(carts::price(&self.database.some_products(seen, &ids).await?, basket))
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
        self.database.place(seen, order).await
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
        self.database.set_price(&Seen::default(), id, cents).await
    }

    /// Sets how many pieces of a product there are.
    pub(crate) async fn set_stock(&self, id: i64, pieces: i64) -> Result<Option<Product>, Failure> {
        self.database.set_stock(&Seen::default(), id, pieces).await
    }
}
