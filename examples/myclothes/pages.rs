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
use rusqlite::Transaction;

use crate::accounts::{self, Account, Delivery, Email, Password};
use crate::carts::{self, Basket, Cart};
use crate::catalogue::{self, Product, Search};
use crate::failure::{Failure, Invalid};
use crate::input::{Form, Id};
use crate::instance::{App, Identity};
use crate::login;
use crate::orders::{self, Order};
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

/// Reads what a page needs, frame included, from the visitor's session and one view of the database.
async fn look<T, W>(app: &App, visitor: &Visitor, work: W) -> Result<(Frame, T), Failure>
where
    T: Send + 'static,
    W: FnOnce(&rusqlite::Connection, Option<&Session>) -> Result<T, Failure> + Send + 'static,
{
    let session = app.carts.find(visitor).await?;
    look_with(app, visitor, session, work).await
}

/// The same for what can be looked at without a session: while the store of carts is away, the page says so and shows
/// the rest.
async fn look_around<T, W>(app: &App, visitor: &Visitor, work: W) -> Result<(Frame, T), Failure>
where
    T: Send + 'static,
    W: FnOnce(&rusqlite::Connection) -> Result<T, Failure> + Send + 'static,
{
    let (session, carts_away) = match app.carts.find(visitor).await {
        Ok(session) => (session, false),
        Err(Failure::CartsAway) => (None, true),
        Err(failure) => return Err(failure),
    };
    let (frame, found) = look_with(app, visitor, session, |view, _| work(view)).await?;
    Ok((Frame { carts_away, ..frame }, found))
}

async fn look_with<T, W>(
    app: &App,
    visitor: &Visitor,
    session: Option<Session>,
    work: W,
) -> Result<(Frame, T), Failure>
where
    T: Send + 'static,
    W: FnOnce(&rusqlite::Connection, Option<&Session>) -> Result<T, Failure> + Send + 'static,
{
    let served = Arc::clone(&app.identity);
    let token = visitor.sid.form_token(app.store.form_secret());
    app.store
        .read(move |view| {
            let session = session.as_ref();
            let pieces = session.map_or(0, |session| session.basket.pieces());
            let account = accounts::find(view, session.and_then(|session| session.account))?;
            let email = account.map(|account| account.email);
            let frame = Frame { served, search: String::new(), carts_away: false, pieces, email, token };
            Ok((frame, work(view, session)?))
        })
        .await
}

/// The visitor's cart, as a view of the database prices it.
fn cart_of(view: &rusqlite::Connection, session: Option<&Session>) -> Result<Cart, Failure> {
    session.map_or_else(|| Ok(Cart::default()), |session| carts::price(view, &session.basket))
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
    let Search { q, category } = search.clone();
    let (mut frame, (categories, products)) = look_around(&app, &visitor, move |view| {
        Ok((catalogue::categories(view)?, catalogue::search(view, &search)?))
    })
    .await?;
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
    let (frame, product) =
        look_around(app, visitor, move |view| catalogue::find(view, id)?.ok_or(Failure::NotFound)).await?;
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
    let (frame, cart) = look(app, visitor, cart_of).await?;
    let status = problem.map_or(StatusCode::OK, Failure::status);
    show(visitor, status, &CartPage { frame, cart, problem: problem.map(Failure::message) })
}

async fn add_item(State(app): State<App>, form: Form) -> Result<Response, Failure> {
    let (product, quantity) = (form.number("product_id"), form.number("quantity"));
    let changed = match app.store.read(move |view| carts::check_product(view, product)).await {
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
    let (frame, (cart, account)) = look(&app, &visitor, |view, session| {
        let account = accounts::find(view, session.and_then(|session| session.account))?;
        Ok((cart_of(view, session)?, account))
    })
    .await?;
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
    let complete = delivery.clone().ok();
    let given = |_: &Transaction<'_>, _| {
        complete.ok_or_else(|| Failure::invalid("address", "Write name and address."))
    };
    let bought = orders::check_out(&app, &form.visitor, Some(key.clone()), given).await;
    let problems = match (bought, delivery) {
        (Ok((order, _, cookies)), _) => {
            return Ok((cookies, Redirect::to(&format!("/orders/{}", order.id))).into_response());
        }
        (Err(Failure::Invalid(_)), Err(wrong)) => Problems(wrong),
        (Err(Failure::Conflict(message)), _) => Problems(vec![Invalid { field: "", message }]),
        (Err(failure), _) => return Err(failure),
    };
    let (frame, cart) = look(&app, &form.visitor, cart_of).await?;
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
    let (frame, order) = look(&app, &visitor, move |view, session| {
        let session = session.ok_or(Failure::NotFound)?;
        orders::find(view, session, id)?.ok_or(Failure::NotFound)
    })
    .await?;
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
            app.store.write(move |transaction| accounts::update(transaction, account.id, &delivery)).await?;
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
    let (frame, found) = look(app, visitor, |view, session| {
        let account = accounts::find(view, session.and_then(|session| session.account))?;
        account.map(|account| Ok((orders::of_account(view, account.id)?, account))).transpose()
    })
    .await?;
    Ok(found.map(|(orders, account)| (frame, account, orders)))
}

#[derive(Template)]
#[template(path = "signup.html", config = "examples/myclothes/askama.toml")]
struct SignupPage {
    frame: Frame,
    email: String,
    problems: Problems,
}

async fn signup_page(State(app): State<App>, visitor: Visitor) -> Result<Response, Failure> {
    let (frame, ()) = look(&app, &visitor, |_, _| Ok(())).await?;
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
    let (frame, ()) = look(&app, visitor, |_, _| Ok(())).await?;
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
    let (frame, ()) = look(&app, &visitor, |_, _| Ok(())).await?;
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
    let (frame, ()) = look(&app, visitor, |_, _| Ok(())).await?;
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
        Failure::Busy | Failure::CartsAway => "One moment",
        _ => "That did not work",
    };
    let served = Arc::clone(served);
    let (search, token) = (String::new(), String::new());
    let frame = Frame { served, search, carts_away: true, pieces: 0, email: None, token };
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
