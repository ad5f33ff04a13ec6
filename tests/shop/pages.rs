//! The pages of the shop as a browser shows them: judged by axe-core, on a desk and on a phone, in light and in dark.
//!
//! With `SELVEDGE_SCREENSHOTS=FOLDER` the browser leaves pictures there of what it has seen.

use crate::chromium::Chromium;
use crate::processes::Instance;

/// Pages that need nothing before them, and their names.
const OPEN: [(&str, &str); 4] = [
    ("/?category=Hats", "category"),
    ("/login", "login"),
    ("/signup", "signup"),
    ("/?q=nothing", "no-match"),
];

/// The wide and the narrow, the light and the dark.
const LOOKS: [(&str, u32, bool); 3] = [("light", 1280, false), ("dark", 1280, true), ("phone", 390, false)];

/// What is wrong with the page that is shown, in every look.
pub(crate) async fn look(page: &mut Chromium, name: &str, found: &mut Vec<String>) {
    for (look, width, dark) in LOOKS {
        page.look(width, dark).await;
        found.extend(page.violations().await.into_iter().map(|what| format!("{name} {look}: {what}")));
        let wider = page.eval("document.documentElement.scrollWidth - innerWidth").await;
        if wider.as_i64().unwrap() > 0 {
            found.push(format!("{name} {look}: {wider} px wider than the window"));
        }
        page.picture(&format!("{name}-{look}")).await;
    }
}

#[tokio::test]
async fn nothing_is_wrong_with_the_pages_for_who_cannot_see_them_or_uses_a_phone() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let url = |path: &str| format!("http://{}{path}", instance.address);
    let (mut page, mut found) = (Chromium::open(&url("/")).await, Vec::new());
    for (path, name) in OPEN {
        page.go(&url(path)).await;
        found.extend(page.troubles().await);
        look(&mut page, name, &mut found).await;
    }
    // A form that cannot be accepted.
    page.go(&url("/login")).await;
    page.write("#email", "nobody@example.test").await;
    page.write("#password", "wrong-horse").await;
    page.follow("main form button").await;
    look(&mut page, "login-refused", &mut found).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn nothing_is_wrong_with_the_pages_that_say_what_went_wrong() {
    let data = tempfile::tempdir().unwrap();
    // Nobody listens where carts should be.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let carts = format!("redis://{free}");
    let instance = Instance::start_with(data.path(), 1, &["--carts", &carts]).await;
    let url = |path: &str| format!("http://{}{path}", instance.address);
    let (mut page, mut found) = (Chromium::open(&url("/product/13")).await, Vec::new());
    for (path, name, says) in [
        ("/", "home-without-carts", "Carts cannot be reached"),
        ("/cart", "carts-away", "Your cart cannot be reached"),
        ("/nothing", "not-found", "There is nothing at this address"),
    ] {
        page.go(&url(path)).await;
        let text = page.eval("document.querySelector('main').innerText").await;
        assert!(text.as_str().unwrap().contains(says), "{path}: {text}");
        look(&mut page, name, &mut found).await;
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
