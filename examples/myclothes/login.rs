//! Signing up, logging in, logging out: where accounts and sessions meet.
//!
//! Each gives the visitor a new sid, in cookies that the caller has to send. A visitor who logs in keeps the cart.

use rusqlite::Transaction;

use crate::accounts::{self, Account, Delivery, Email, Password};
use crate::failure::Failure;
use crate::instance::App;
use crate::sessions::{SetCookies, Visitor};

/// Makes an account and logs in.
pub(crate) async fn sign_up(
    app: &App,
    visitor: &Visitor,
    email: Email,
    password: Password,
    delivery: Delivery,
) -> Result<(SetCookies, Account), Failure> {
    let hash = accounts::hash(password).await?;
    let work = move |transaction: &Transaction<'_>| accounts::create(transaction, &email, &hash, delivery);
    let account = app.store.write(work).await?;
    Ok((app.carts.log_in(visitor, account.id).await?, account))
}

/// Logs in, if the password is right.
pub(crate) async fn log_in(
    app: &App,
    visitor: &Visitor,
    email: Email,
    password: String,
) -> Result<(SetCookies, Account), Failure> {
    let found = app.store.read(move |view| accounts::with_email(view, &email)).await?;
    let (account, hash) = found.unzip();
    let right = accounts::verify(password, hash).await?;
    let account = account.filter(|_| right).ok_or(Failure::WrongPassword)?;
    Ok((app.carts.log_in(visitor, account.id).await?, account))
}

/// Logs out: the session and its cart end, the new sid stands for nobody.
pub(crate) async fn log_out(app: &App, visitor: &Visitor) -> Result<SetCookies, Failure> {
    app.carts.log_out(visitor).await
}
