//! Signing up, logging in, logging out: where accounts and sessions meet.
//!
//! Each gives the visitor a new sid, which the caller has to set as the cookie. A visitor who logs in keeps the cart.

use crate::accounts::{self, Account, Delivery, Email, Password};
use crate::failure::Failure;
use crate::instance::App;
use crate::sessions::{self, Sid, Visitor};

/// Makes an account and logs in.
pub(crate) async fn sign_up(
    app: &App,
    visitor: &Visitor,
    email: Email,
    password: Password,
    delivery: Delivery,
) -> Result<(Sid, Account), Failure> {
    let hash = accounts::hash(password).await?;
    let (old, fresh) = (visitor.sid.clone(), Sid::fresh());
    let sid = fresh.clone();
    let account = app
        .store
        .write(move |transaction| {
            let account = accounts::create(transaction, &email, &hash, delivery)?;
            let session = sessions::open(transaction, &old)?;
            sessions::renew(transaction, session, &fresh, account.id)?;
            Ok(account)
        })
        .await?;
    Ok((sid, account))
}

/// Logs in, if the password is right.
pub(crate) async fn log_in(
    app: &App,
    visitor: &Visitor,
    email: Email,
    password: String,
) -> Result<(Sid, Account), Failure> {
    let found = app.store.read(move |view| accounts::with_email(view, &email)).await?;
    let (account, hash) = found.unzip();
    let right = accounts::verify(password, hash).await?;
    let account = account.filter(|_| right).ok_or(Failure::WrongPassword)?;
    let (old, fresh) = (visitor.sid.clone(), Sid::fresh());
    let sid = fresh.clone();
    let id = account.id;
    app.store
        .write(move |transaction| {
            let session = sessions::open(transaction, &old)?;
            sessions::renew(transaction, session, &fresh, id)
        })
        .await?;
    Ok((sid, account))
}

/// Logs out: the session and its cart end, the new sid stands for nobody.
pub(crate) async fn log_out(app: &App, visitor: &Visitor) -> Result<Sid, Failure> {
    let old = visitor.sid.clone();
    app.store.write(move |transaction| sessions::end(transaction, &old)).await?;
    Ok(Sid::fresh())
}
