//! The pages of the shop as a browser shows them: judged by axe-core, on a desk and on a phone, in light and in dark.

use crate::chromium::Chromium;
use crate::processes::Instance;

/// Pages that need nothing before them.
const OPEN: [&str; 6] = ["/", "/?category=Hats", "/product/13", "/login", "/signup", "/nothing"];

/// Those of a visitor with an account and something in the cart.
const OWN: [&str; 3] = ["/cart", "/checkout", "/account"];

/// What is wrong with the page that is shown, in every look.
async fn look(page: &mut Chromium, name: &str, found: &mut Vec<String>) {
    for (width, dark) in [(1280, false), (1280, true), (360, false)] {
        page.look(width, dark).await;
        let look = format!("{name} {width} px {}", if dark { "dark" } else { "light" });
        found.extend(page.violations().await.into_iter().map(|what| format!("{look}: {what}")));
        let wider = page.eval("document.documentElement.scrollWidth - innerWidth").await;
        if wider.as_i64().unwrap() > 0 {
            found.push(format!("{look}: {wider} px wider than the window"));
        }
    }
}

/// Sends the page's form, and waits for the page that follows.
async fn submit(page: &mut Chromium, form: &str, next: &str) {
    page.eval(&format!("document.querySelector('{form}').requestSubmit()")).await;
    let there = format!("document.readyState === 'complete' && location.pathname === '{next}'");
    page.until(&format!("{next} is there"), &there).await;
}

#[tokio::test]
async fn nothing_is_wrong_with_the_pages_for_who_cannot_see_them_or_uses_a_phone() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let url = |path: &str| format!("http://{}{path}", instance.address);
    let (mut page, mut found) = (Chromium::open(&url("/")).await, Vec::new());
    for path in OPEN {
        page.go(&url(path)).await;
        look(&mut page, path, &mut found).await;
    }
    page.go(&url("/product/13")).await;
    submit(&mut page, "main form[action=\"/cart/items\"]", "/cart").await;
    page.go(&url("/signup")).await;
    page.eval("document.getElementById('email').value = 'somebody@example.test'").await;
    page.eval("document.getElementById('password').value = 'correct-horse'").await;
    submit(&mut page, "main form", "/account").await;
    for path in OWN {
        page.go(&url(path)).await;
        let here = page.eval("location.pathname").await;
        assert_eq!(here, path, "the visitor may see it");
        look(&mut page, path, &mut found).await;
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
