//! The pages for people: HTML that works without JavaScript, one handler per address.
//!
//! A page that changes something answers with a redirect to a page that shows it, so that "back" and "reload" are
//! harmless. A form that cannot be accepted is shown again with what was written and what is wrong (422). The
//! templates are in `templates/`; every page shows which instance served it.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use crate::accounts::{Account, Delivery, Email, Password};
use crate::cache::Cache;
use crate::carts::{self, Basket, Cart};
use crate::catalogue::{self, Product, Search};
use crate::failure::{Failure, Invalid};
use crate::input::{Form, Id};
use crate::instance::{App, Identity};
use crate::login;
use crate::orders::{self, Order, Wish};
use crate::sessions::{self, Session, Visitor};

/// Addresses of pages, forms and what the pages load.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(catalogue_page))
        .route("/product/{id}", get(product_page))
        .route("/cart", get(cart_page))
        .route("/cart/items", post(add_item))
        .route("/cart/items/{product_id}/quantity", post(set_quantity))
        .route("/cart/items/{product_id}/remove", post(remove_item))
        .route("/checkout", get(checkout_page).post(check_out))
        .route("/orders/{id}", get(order_page))
        .route("/account", get(account_page).post(change_account))
        .route("/signup", get(signup_page).post(sign_up))
        .route("/login", get(login_page).post(log_in))
        .route("/logout", post(log_out))
        .route("/style.css", get(|| file("text/css; charset=utf-8", include_str!("style.css"))))
        .route("/favicon.svg", get(|| file("image/svg+xml", include_str!("favicon.svg"))))
}

async fn file(content_type: &'static str, content: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "public, max-age=300")], content)
}

/// What the frame of every page shows.
struct Frame {
    served: Arc<Identity>,
    /// Per cent of its questions for the catalogue that the cache has answered, if there is one.
    cache_hits: Option<u64>,
    /// Content of the search field.
    search: String,
    /// Whether the store of carts and logins does not answer: then neither is known.
    carts_away: bool,
    /// Pieces in the cart.
    pieces: i64,
    /// Who is logged in.
    email: Option<String>,
    /// For every form on the page.
    token: String,
}

/// What is wrong with a form.
#[derive(Default)]
struct Problems(Vec<Invalid>);

impl Problems {
    fn of(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|invalid| invalid.field == field).map(|invalid| &*invalid.message)
    }

    fn all(&self) -> &[Invalid] {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn status(&self) -> StatusCode {
        if self.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY }
    }
}

/// What the frame of a page needs, and the visitor's session.
async fn look(app: &App, visitor: &Visitor) -> Result<(Frame, Option<Session>), Failure> {
    let session = app.carts.find(visitor).await?;
    Ok((frame(app, visitor, session.as_ref()).await?, session))
}

/// The same for what can be looked at without a session: while the store of carts is away, the page says so and shows
/// the rest.
async fn look_around(app: &App, visitor: &Visitor) -> Result<Frame, Failure> {
    match app.carts.find(visitor).await {
        Ok(session) => frame(app, visitor, session.as_ref()).await,
        Err(Failure::CartsAway) => Ok(Frame { carts_away: true, ..frame(app, visitor, None).await? }),
        Err(failure) => Err(failure),
    }
}

async fn frame(app: &App, visitor: &Visitor, session: Option<&Session>) -> Result<Frame, Failure> {
    let account = app.store.account(&visitor.seen, session.and_then(|session| session.account)).await?;
    Ok(Frame {
        served: Arc::clone(&app.identity),
        cache_hits: app.store.cache().and_then(Cache::hit_rate),
        search: String::new(),
        carts_away: false,
        pieces: session.map_or(0, |session| session.basket.pieces()),
        email: account.map(|account| account.email),
        token: visitor.sid.form_token(app.store.form_secret()),
    })
}

/// The visitor's cart, at today's prices.
async fn cart_of(app: &App, visitor: &Visitor, session: Option<&Session>) -> Result<Cart, Failure> {
    match session {
        Some(session) => app.store.price(&visitor.seen, &session.basket).await,
        None => Ok(Cart::default()),
    }
}

/// A page, with a cookie for the visitor who has none.
fn show(visitor: &Visitor, status: StatusCode, page: &impl Template) -> Result<Response, Failure> {
    let html = page.render().map_err(Failure::internal)?;
    Ok((status, visitor.cookies(), Html(html)).into_response())
}

/// Cents as people write them: `$1,234.50`.
pub(crate) fn dollars(cents: impl std::borrow::Borrow<i64>) -> String {
    let cents = *cents.borrow();
    let mut whole = (cents / 100).to_string();
    for place in
        (1..whole.len()).rev().filter(|place| (whole.len() - place).is_multiple_of(3)).collect::<Vec<_>>()
    {
        whole.insert(place, ',');
    }
    format!("${whole}.{:02}", cents % 100)
}

// ── The catalogue ──

#[derive(Template)]
#[template(path = "catalogue.html", config = "examples/myclothes/askama.toml")]
struct CataloguePage {
    frame: Frame,
    category: String,
    categories: Vec<String>,
    products: Vec<Product>,
}

async fn catalogue_page(
    State(app): State<App>,
    visitor: Visitor,
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(search) = search.map_err(|_| Failure::Malformed("The search cannot be read.".into()))?;
    let mut frame = look_around(&app, &visitor).await?;
    let all = app.store.products(&visitor.seen).await?;
    let (categories, products) = (catalogue::categories(&all), catalogue::matching(&all, &search));
    let Search { q, category } = search;
    frame.search = q.trim().to_owned();
    show(&visitor, StatusCode::OK, &CataloguePage { frame, category, categories, products })
}

#[derive(Template)]
#[template(path = "product.html", config = "examples/myclothes/askama.toml")]
struct ProductPage {
    frame: Frame,
    product: Product,
    problem: Option<String>,
}

async fn product_page(State(app): State<App>, visitor: Visitor, Id(id): Id) -> Result<Response, Failure> {
    product_with(&app, &visitor, id, None).await
}

/// The page of a product, and why it could not be put into the cart.
async fn product_with(
    app: &App,
    visitor: &Visitor,
    id: i64,
    problem: Option<&Failure>,
) -> Result<Response, Failure> {
    let frame = look_around(app, visitor).await?;
    let product = app.store.product(&visitor.seen, id).await?.ok_or(Failure::NotFound)?;
    let status = problem.map_or(StatusCode::OK, Failure::status);
    show(visitor, status, &ProductPage { frame, product, problem: problem.map(Failure::message) })
}

// ── The cart ──

#[derive(Template)]
#[template(path = "cart.html", config = "examples/myclothes/askama.toml")]
struct CartPage {
    frame: Frame,
    cart: Cart,
    problem: Option<String>,
}

async fn cart_page(State(app): State<App>, visitor: Visitor) -> Result<Response, Failure> {
    cart_with(&app, &visitor, None).await
}

/// The cart, and why it could not be changed.
async fn cart_with(app: &App, visitor: &Visitor, problem: Option<&Failure>) -> Result<Response, Failure> {
    let (frame, session) = look(app, visitor).await?;
    let cart = cart_of(app, visitor, session.as_ref()).await?;
    let status = problem.map_or(StatusCode::OK, Failure::status);
    show(visitor, status, &CartPage { frame, cart, problem: problem.map(Failure::message) })
}

async fn add_item(State(app): State<App>, form: Form) -> Result<Response, Failure> {
    let (product, quantity) = (form.number("product_id"), form.number("quantity"));
    let found = app.store.product(&form.visitor.seen, product).await?;
    let changed = match carts::check_product(product, found.as_ref()) {
        Ok(()) => change_cart(&app, &form, |basket| basket.add(product, quantity)).await,
        Err(refused) => Err(refused),
    };
    match changed {
        Err(refused @ (Failure::Invalid(_) | Failure::Conflict(_))) => {
            product_with(&app, &form.visitor, product, Some(&refused)).await
        }
        changed => changed,
    }
}

async fn set_quantity(State(app): State<App>, Id(product): Id, form: Form) -> Result<Response, Failure> {
    let quantity = form.number("quantity");
    match change_cart(&app, &form, |basket| basket.set(product, quantity)).await {
        Err(refused @ (Failure::Invalid(_) | Failure::Conflict(_))) => {
            cart_with(&app, &form.visitor, Some(&refused)).await
        }
        changed => changed,
    }
}

async fn remove_item(State(app): State<App>, Id(product): Id, form: Form) -> Result<Response, Failure> {
    let remove = |basket: &mut Basket| {
        basket.remove(product);
        Ok(())
    };
    change_cart(&app, &form, remove).await
}

/// Changes the cart, then shows it.
async fn change_cart(
    app: &App,
    form: &Form,
    change: impl Fn(&mut Basket) -> Result<(), Failure> + Sync,
) -> Result<Response, Failure> {
    let (_, cookies) = app.carts.change(&form.visitor, |session| change(&mut session.basket)).await?;
    Ok((cookies, Redirect::to("/cart")).into_response())
}

// ── Checkout and orders ──

#[derive(Template)]
#[template(path = "checkout.html", config = "examples/myclothes/askama.toml")]
struct CheckoutPage {
    frame: Frame,
    cart: Cart,
    /// Makes the form count once.
    key: String,
    name: String,
    address: String,
    problems: Problems,
}

async fn checkout_page(State(app): State<App>, visitor: Visitor) -> Result<Response, Failure> {
    let (frame, session) = look(&app, &visitor).await?;
    let cart = cart_of(&app, &visitor, session.as_ref()).await?;
    let account = session.and_then(|session| session.account);
    let account = app.store.account(&visitor.seen, account).await?;
    if cart.items.is_empty() {
        return Ok(Redirect::to("/cart").into_response());
    }
    let (name, address) = account.map(|account| (account.name, account.address)).unwrap_or_default();
    let key = sessions::random_text();
    let page = CheckoutPage { frame, cart, key, name, address, problems: Problems::default() };
    show(&visitor, StatusCode::OK, &page)
}

async fn check_out(State(app): State<App>, form: Form) -> Result<Response, Failure> {
    let (name, address) = (form.get("name").to_owned(), form.get("address").to_owned());
    let key = form.get("key").to_owned();
    if !(1..=orders::MAX_KEY).contains(&key.len()) {
        return Err(Failure::Malformed("The form lacks its key.".into()));
    }
    let delivery = Delivery::parse(&name, &address);
    let complete = delivery.clone().map_err(|_| Failure::invalid("address", "Write name and address."));
    let session = app.carts.find(&form.visitor).await?;
    let wish =
        Wish { key: Some(key.clone()), delivery: complete, total_cents: form.get("total").parse().ok() };
    let bought = orders::check_out(&app, &form.visitor, session, wish).await;
    let problems = match (bought, delivery) {
        (Ok((order, _, cookies)), _) => {
            return Ok((cookies, Redirect::to(&format!("/orders/{}", order.id))).into_response());
        }
        (Err(Failure::Invalid(_)), Err(wrong)) => Problems(wrong),
        (Err(Failure::Conflict(message)), _) => Problems(vec![Invalid { field: "", message }]),
        (Err(failure), _) => return Err(failure),
    };
    let (frame, session) = look(&app, &form.visitor).await?;
    let cart = cart_of(&app, &form.visitor, session.as_ref()).await?;
    let status = problems.status();
    show(&form.visitor, status, &CheckoutPage { frame, cart, key, name, address, problems })
}

#[derive(Template)]
#[template(path = "order.html", config = "examples/myclothes/askama.toml")]
struct OrderPage {
    frame: Frame,
    order: Order,
}

async fn order_page(State(app): State<App>, visitor: Visitor, Id(id): Id) -> Result<Response, Failure> {
    let (frame, session) = look(&app, &visitor).await?;
    let session = session.ok_or(Failure::NotFound)?;
    let order = app.store.order(&visitor.seen, id, &session.id, session.account).await?;
    let order = order.ok_or(Failure::NotFound)?;
    show(&visitor, StatusCode::OK, &OrderPage { frame, order })
}

// ── The account ──

#[derive(Template)]
#[template(path = "account.html", config = "examples/myclothes/askama.toml")]
struct AccountPage {
    frame: Frame,
    account_email: String,
    name: String,
    address: String,
    orders: Vec<Order>,
    saved: bool,
    problems: Problems,
}

async fn account_page(
    State(app): State<App>,
    visitor: Visitor,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let Some((frame, account, orders)) = own_account(&app, &visitor).await? else {
        return Ok(Redirect::to("/login").into_response());
    };
    let Account { email: account_email, name, address, .. } = account;
    let saved = query.as_deref() == Some("saved");
    let problems = Problems::default();
    let page = AccountPage { frame, account_email, name, address, orders, saved, problems };
    show(&visitor, StatusCode::OK, &page)
}

async fn change_account(State(app): State<App>, form: Form) -> Result<Response, Failure> {
    let Some((frame, account, orders)) = own_account(&app, &form.visitor).await? else {
        return Err(Failure::LoginNeeded);
    };
    let (name, address) = (form.get("name").to_owned(), form.get("address").to_owned());
    let wrong = match Delivery::parse(&name, &address) {
        Ok(delivery) => {
            app.store.change_account(&form.visitor.seen, account.id, &delivery).await?;
            return Ok(Redirect::to("/account?saved").into_response());
        }
        Err(wrong) => Problems(wrong),
    };
    let status = wrong.status();
    let account_email = account.email;
    let page = AccountPage { frame, account_email, name, address, orders, saved: false, problems: wrong };
    show(&form.visitor, status, &page)
}

async fn own_account(app: &App, visitor: &Visitor) -> Result<Option<(Frame, Account, Vec<Order>)>, Failure> {
    let (frame, session) = look(app, visitor).await?;
    let account = session.and_then(|session| session.account);
    let Some(account) = app.store.account(&visitor.seen, account).await? else { return Ok(None) };
    let orders = app.store.orders_of(&visitor.seen, account.id).await?;
    Ok(Some((frame, account, orders)))
}

#[derive(Template)]
#[template(path = "signup.html", config = "examples/myclothes/askama.toml")]
struct SignupPage {
    frame: Frame,
    email: String,
    problems: Problems,
}

async fn signup_page(State(app): State<App>, visitor: Visitor) -> Result<Response, Failure> {
    let (frame, _) = look(&app, &visitor).await?;
    if frame.email.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    let page = SignupPage { frame, email: String::new(), problems: Problems::default() };
    show(&visitor, StatusCode::OK, &page)
}

async fn sign_up(State(app): State<App>, form: Form) -> Result<Response, Failure> {
    let visitor = &form.visitor;
    let problems = match (Email::parse(form.get("email")), Password::parse(form.get("password"))) {
        (Ok(email), Ok(password)) => {
            let later = Delivery { name: String::new(), address: String::new() };
            match login::sign_up(&app, visitor, email, password, later).await {
                Ok((cookies, _)) => return Ok((cookies, Redirect::to("/account")).into_response()),
                Err(Failure::Conflict(message)) => Problems(vec![Invalid { field: "email", message }]),
                Err(failure) => return Err(failure),
            }
        }
        (email, password) => Problems(email.err().into_iter().chain(password.err()).collect()),
    };
    let (frame, _) = look(&app, visitor).await?;
    let status = problems.status();
    show(visitor, status, &SignupPage { frame, email: form.get("email").to_owned(), problems })
}

#[derive(Template)]
#[template(path = "login.html", config = "examples/myclothes/askama.toml")]
struct LoginPage {
    frame: Frame,
    email: String,
    problems: Problems,
}

async fn login_page(State(app): State<App>, visitor: Visitor) -> Result<Response, Failure> {
    let (frame, _) = look(&app, &visitor).await?;
    if frame.email.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    let page = LoginPage { frame, email: String::new(), problems: Problems::default() };
    show(&visitor, StatusCode::OK, &page)
}

async fn log_in(State(app): State<App>, form: Form) -> Result<Response, Failure> {
    let visitor = &form.visitor;
    let problem = match Email::parse(form.get("email")) {
        Ok(email) => match login::log_in(&app, visitor, email, form.get("password").to_owned()).await {
            Ok((cookies, _)) => return Ok((cookies, Redirect::to("/account")).into_response()),
            Err(wrong @ Failure::WrongPassword) => Invalid { field: "email", message: wrong.message() },
            Err(failure) => return Err(failure),
        },
        Err(wrong) => wrong,
    };
    let problems = Problems(vec![problem]);
    let (frame, _) = look(&app, visitor).await?;
    let status = problems.status();
    show(visitor, status, &LoginPage { frame, email: form.get("email").to_owned(), problems })
}

async fn log_out(State(app): State<App>, form: Form) -> Result<Response, Failure> {
    let cookies = login::log_out(&app, &form.visitor).await?;
    Ok((cookies, Redirect::to("/")).into_response())
}

// ── When something goes wrong ──

#[derive(Template)]
#[template(path = "error.html", config = "examples/myclothes/askama.toml")]
struct ErrorPage {
    frame: Frame,
    title: &'static str,
    message: String,
}

/// Turns a failure into a page. Asks the database nothing: it may be what failed.
pub(crate) fn failure(served: &Arc<Identity>, failure: &Failure) -> Response {
    let title = match failure {
        Failure::NotFound => "Not found",
        Failure::Internal => "That is our fault",
        Failure::Busy | Failure::CartsAway | Failure::DatabaseAway => "One moment",
        _ => "That did not work",
    };
    let served = Arc::clone(served);
    let (search, token) = (String::new(), String::new());
    let frame = Frame { served, cache_hits: None, search, carts_away: true, pieces: 0, email: None, token };
    match (ErrorPage { frame, title, message: failure.message() }).render() {
        Ok(html) => (failure.status(), Html(html)).into_response(),
        Err(_) => failure.status().into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::dollars;

    #[test]
    fn cents_are_written_as_dollars() {
        assert_eq!(dollars(5), "$0.05");
        assert_eq!(dollars(1900), "$19.00");
        assert_eq!(dollars(123_456_789), "$1,234,567.89");
    }
}
