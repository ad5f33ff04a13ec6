//! Signing up, logging in, logging out: where accounts and sessions meet.
//!
//! Each gives the visitor a new sid, in cookies that the caller has to send. A visitor who logs in keeps the cart.

use crate::accounts::{self, Account, Delivery, Email, Password};
use crate::databases::Seen;
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
    let account = app.store.create_account(&visitor.seen, &email, &hash, &delivery).await?;
    Ok((app.carts.log_in(visitor, account.id).await?, account))
}

/// Logs in, if the password is right.
pub(crate) async fn log_in(
    app: &App,
    visitor: &Visitor,
    email: Email,
    password: String,
) -> Result<(SetCookies, Account), Failure> {
    // Who has signed up elsewhere a moment ago is perhaps not everywhere yet; nobody is refused by an old copy.
    let mut found = app.store.account_with_email(&visitor.seen, &email).await?;
    if found.is_none() {
        found = app.store.account_with_email(&Seen::everything(), &email).await?;
    }
    let (account, hash) = found.unzip();
    let right = accounts::verify(password, hash).await?;
    let account = account.filter(|_| right).ok_or(Failure::WrongPassword)?;
    Ok((app.carts.log_in(visitor, account.id).await?, account))
}

/// Logs out: the session and its cart end, the new sid stands for nobody.
pub(crate) async fn log_out(app: &App, visitor: &Visitor) -> Result<SetCookies, Failure> {
    app.carts.log_out(visitor).await
}
