//! The JSON API: the contract of DESIGN.md, one handler per address.
//!
//! Answers are JSON, failures `{"error", "field"?}` with a 4xx or 5xx status. What the handlers do is in the files named
//! after the things they do it to; the pages use the same functions.

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::accounts::{Account, Delivery, Email, Password};
use crate::cache::Cache;
use crate::carts::{self, Basket, Cart};
use crate::catalogue::{self, Product, Search};
use crate::failure::{Failure, Invalid};
use crate::input::{Id, Json};
use crate::instance::App;
use crate::login;
use crate::orders::{self, Wish};
use crate::sessions::{Session, Visitor};

/// Addresses below `/api`.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/whoami", get(who_am_i))
        .route("/database", get(database))
        .route("/cache", get(cache))
        .route("/products", get(products))
        .route("/products/{id}", get(product))
        .route("/cart", get(cart))
        .route("/cart/items", post(add_item))
        .route("/cart/items/{product_id}", delete(remove_item))
        .route("/checkout", post(check_out))
        .route("/signup", post(sign_up))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
        .route("/account", get(account).put(change_account))
}

/// Turns a failure into the JSON that the API answers with.
pub(crate) fn failure(failure: &Failure) -> Response {
    let mut body = json!({ "error": failure.message() });
    if let Some(field) = failure.field() {
        body["field"] = field.into();
    }
    (failure.status(), axum::Json(body)).into_response()
}

async fn who_am_i(State(app): State<App>) -> Response {
    axum::Json(&*app.identity).into_response()
}

/// The servers of the database, as this instance sees them.
async fn database(State(app): State<App>) -> Response {
    axum::Json(json!({ "servers": app.store.servers() })).into_response()
}

/// What has come of the cache of the catalogue, in this instance.
async fn cache(State(app): State<App>) -> Response {
    axum::Json(json!({ "cache": app.store.cache().map(Cache::view) })).into_response()
}

async fn products(
    State(app): State<App>,
    visitor: Visitor,
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(search) = search.map_err(|_| Failure::Malformed("The query cannot be read.".into()))?;
    let products = catalogue::matching(&app.store.products(&visitor.seen).await?, &search);
    Ok(axum::Json(Products { products }).into_response())
}

#[derive(Serialize)]
struct Products {
    products: Vec<Product>,
}

async fn product(State(app): State<App>, visitor: Visitor, Id(id): Id) -> Result<Response, Failure> {
    let product = app.store.product(&visitor.seen, id).await?.ok_or(Failure::NotFound)?;
    Ok(axum::Json(product).into_response())
}

async fn cart(State(app): State<App>, visitor: Visitor) -> Result<impl IntoResponse, Failure> {
    let session = app.carts.find(&visitor).await?;
    priced(&app, &visitor, session).await
}

/// The cart of a session at today's prices, with its tag.
async fn priced(
    app: &App,
    visitor: &Visitor,
    session: Option<Session>,
) -> Result<([(HeaderName, HeaderValue); 1], axum::Json<Cart>), Failure> {
    let basket = session.map(|session| session.basket).unwrap_or_default();
    let tag = HeaderValue::from_str(&tag(&basket)).map_err(Failure::internal)?;
    let cart = if basket.lines.is_empty() {
        Cart::default()
    } else {
        app.store.price(&visitor.seen, &basket).await?
    };
    Ok(([(ETAG, tag)], axum::Json(cart)))
}

/// Another one after each change of the cart.
fn tag(basket: &Basket) -> String {
    format!("\"{}\"", basket.number)
}

/// Whether the cart is still one of those that `If-Match` names. A request that names none is about any.
fn check_tag(headers: &HeaderMap, basket: &Basket) -> Result<(), Failure> {
    let Some(wanted) = headers.get(IF_MATCH) else { return Ok(()) };
    let wanted = wanted.to_str().map_err(|_| Failure::CartChanged)?;
    let current = tag(basket);
    match wanted.split(',').map(str::trim).any(|one| one == "*" || one == current) {
        true => Ok(()),
        false => Err(Failure::CartChanged),
    }
}

#[derive(Deserialize)]
struct NewItem {
    product_id: i64,
    quantity: i64,
}

/// Puts pieces into the cart. With `If-Match` only if nobody has changed it since: then a request that is sent again, because no
/// answer came, counts once, even if the network delivers the first one later.
async fn add_item(
    State(app): State<App>,
    visitor: Visitor,
    headers: HeaderMap,
    body: Json<NewItem>,
) -> Result<impl IntoResponse, Failure> {
    let NewItem { product_id, quantity } = body.required()?;
    carts::check_product(product_id, app.store.product(&visitor.seen, product_id).await?.as_ref())?;
    let change = |session: &mut Session| {
        check_tag(&headers, &session.basket)?;
        session.basket.add(product_id, quantity)
    };
    let (session, cookies) = app.carts.change(&visitor, change).await?;
    Ok((cookies, priced(&app, &visitor, Some(session)).await?))
}

async fn remove_item(
    State(app): State<App>,
    visitor: Visitor,
    Id(product_id): Id,
) -> Result<Response, Failure> {
    if app.carts.find(&visitor).await?.is_none() {
        return Ok(priced(&app, &visitor, None).await?.into_response());
    }
    let change = |session: &mut Session| {
        session.basket.remove(product_id);
        Ok(())
    };
    let (session, cookies) = app.carts.change(&visitor, change).await?;
    Ok((cookies, priced(&app, &visitor, Some(session)).await?).into_response())
}

#[derive(Default, Deserialize)]
struct Destination {
    #[serde(default)]
    name: String,
    #[serde(default)]
    address: String,
}

/// Buys the cart. Where it goes is in the body (`name`, `address`), or else in the account of who is logged in.
async fn check_out(
    State(app): State<App>,
    visitor: Visitor,
    headers: HeaderMap,
    body: Json<Destination>,
) -> Result<impl IntoResponse, Failure> {
    let key = idempotency_key(&headers)?;
    let session = app.carts.find(&visitor).await?;
    let mut to = body.0.unwrap_or_default();
    if to.name.is_empty() && to.address.is_empty() {
        let account = session.as_ref().and_then(|session| session.account);
        let account = app.store.account(&visitor.seen, account).await?;
        (to.name, to.address) = account.map(|a| (a.name, a.address)).unwrap_or_default();
    }
    let delivery = Delivery::parse(&to.name, &to.address).map_err(first);
    let wish = Wish { key, delivery, total_cents: None };
    let (order, placed_now, cookies) = orders::check_out(&app, &visitor, session, wish).await?;
    let status = if placed_now { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, cookies, axum::Json(order)))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=orders::MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Failure::Malformed(format!(
            "Idempotency-Key must be 1 to {} printable ASCII characters.",
            orders::MAX_KEY
        ))),
    }
}

#[derive(Deserialize)]
struct NewAccount {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    address: String,
}

async fn sign_up(
    State(app): State<App>,
    visitor: Visitor,
    body: Json<NewAccount>,
) -> Result<impl IntoResponse, Failure> {
    let new = body.required()?;
    let delivery = Delivery::parse_optional(&new.name, &new.address).map_err(first)?;
    let email = Email::parse(&new.email).map_err(Failure::Invalid)?;
    let password = Password::parse(&new.password).map_err(Failure::Invalid)?;
    let (cookies, account) = login::sign_up(&app, &visitor, email, password, delivery).await?;
    Ok((StatusCode::CREATED, cookies, axum::Json(account)))
}

#[derive(Deserialize)]
struct Credentials {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
}

async fn log_in(
    State(app): State<App>,
    visitor: Visitor,
    body: Json<Credentials>,
) -> Result<impl IntoResponse, Failure> {
    let Credentials { email, password } = body.required()?;
    let email = Email::parse(&email).map_err(Failure::Invalid)?;
    let (cookies, account) = login::log_in(&app, &visitor, email, password).await?;
    Ok((cookies, axum::Json(account)))
}

async fn log_out(
    State(app): State<App>,
    visitor: Visitor,
    _: Json<Nothing>,
) -> Result<impl IntoResponse, Failure> {
    let cookies = login::log_out(&app, &visitor).await?;
    Ok((StatusCode::NO_CONTENT, cookies, ()))
}

/// A body that is ignored; only its type is checked.
#[derive(Deserialize)]
struct Nothing {}

async fn account(State(app): State<App>, visitor: Visitor) -> Result<impl IntoResponse, Failure> {
    let id = app.carts.find(&visitor).await?.and_then(|session| session.account);
    let account = app.store.account(&visitor.seen, id).await?;
    Ok(axum::Json(account.ok_or(Failure::LoginNeeded)?))
}

async fn change_account(
    State(app): State<App>,
    visitor: Visitor,
    body: Json<Destination>,
) -> Result<axum::Json<Account>, Failure> {
    let to = body.required()?;
    let account = app.carts.find(&visitor).await?.and_then(|session| session.account);
    let id = account.ok_or(Failure::LoginNeeded)?;
    let delivery = Delivery::parse(&to.name, &to.address).map_err(first)?;
    Ok(axum::Json(app.store.change_account(&visitor.seen, id, &delivery).await?))
}

/// JSON names one field: the first that is wrong.
fn first(mut wrong: Vec<Invalid>) -> Failure {
    Failure::Invalid(wrong.swap_remove(0))
}
