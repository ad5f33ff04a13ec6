//! A shopper in a real browser, from the first page to the order: whoever served a page is killed before the next click.

use rustix::process::Signal;

use crate::chromium::Chromium;
use crate::pages::look;
use crate::processes::{System, runs, send_signal, until};

/// A browser in front of the whole system.
struct Shopper<'s> {
    system: &'s System,
    page: Chromium,
    /// What was wrong with the pages so far.
    found: Vec<String>,
    /// Processes that were killed after they had served a page.
    killed: Vec<u32>,
}

impl Shopper<'_> {
    /// Looks at the page that has come, which must be this one, and kills who has served it.
    async fn sees(&mut self, name: &str, path: &str) {
        let here = self.text("location.pathname").await;
        assert!(here == path || (path.ends_with('/') && here.starts_with(path)), "{name} is at {here}");
        self.found.extend(self.page.troubles().await.into_iter().map(|what| format!("{name}: {what}")));
        look(&mut self.page, name, &mut self.found).await;
        self.page.look(1280, false).await;

        // "Served by az-a-1 in zone az-a, process 4711"
        let foot = self.text("document.querySelector('.served').innerText").await;
        let words: Vec<&str> = foot.split_whitespace().collect();
        let (instance, pid) = (words[2], words[words.len() - 1].parse().unwrap());
        assert!(!self.killed.contains(&pid), "{name}: {pid} was killed, and serves");
        let instances = self.system.instances();
        let (_, address) =
            instances.into_iter().find(|(name, _)| name == instance).expect("it is one of ours");
        assert_eq!(
            self.system.pid_of(address).await,
            Some(pid),
            "{name}: what /api/whoami says of {instance}"
        );
        send_signal(pid, Signal::KILL);
        until("it is gone", async || {
            (!runs(pid) && self.system.pid_of(address).await != Some(pid)).then_some(())
        })
        .await;
        self.killed.push(pid);
    }

    /// What a script says of the page.
    async fn text(&mut self, script: &str) -> String {
        self.page.eval(script).await.as_str().unwrap_or_else(|| panic!("{script} is no text")).to_owned()
    }

    /// What the page says, without its head and foot.
    async fn reads(&mut self) -> String {
        self.text("document.querySelector('main').innerText").await
    }

    /// Pieces in the cart, as the head of the page says.
    async fn pieces(&mut self) -> String {
        self.text("document.querySelector('.count').innerText").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shopper_loses_nothing_when_who_served_a_page_is_killed_before_the_next_click() {
    let system = System::start().await;
    let page = Chromium::open(&format!("http://{}/", system.proxy)).await;
    let mut shopper = Shopper { system: &system, page, found: Vec::new(), killed: Vec::new() };
    shopper.sees("home", "/").await;

    shopper.page.write("#q", "jeans").await;
    shopper.page.follow(".search button").await;
    assert!(shopper.reads().await.contains("Results for “jeans”"));
    shopper.sees("search", "/").await;
    shopper.page.follow("a[href='/product/13']").await;
    assert!(shopper.reads().await.contains("Selvedge Jeans"));
    shopper.sees("product", "/product/13").await;

    shopper.page.write("#quantity", "2").await;
    shopper.page.follow("main form button").await;
    assert_eq!(shopper.pieces().await, "2");
    shopper.sees("cart", "/cart").await;
    shopper.page.write("#quantity-13", "3").await;
    shopper.page.follow(".change form button").await;
    assert_eq!(shopper.pieces().await, "3");
    assert_eq!(shopper.text("document.querySelector('#quantity-13').value").await, "3");
    shopper.sees("cart-changed", "/cart").await;

    shopper.page.follow(".top a[href='/login']").await;
    shopper.page.follow("main a[href='/signup']").await;
    shopper.page.write("#email", "ana@example.test").await;
    shopper.page.write("#password", "correct-horse").await;
    shopper.page.follow("main form button").await;
    assert_eq!(shopper.pieces().await, "3", "the cart came along");
    shopper.sees("account", "/account").await;

    shopper.page.follow("a[href='/cart']").await;
    shopper.page.follow("main a[href='/checkout']").await;
    shopper.page.write("#name", "Ana Weaver").await;
    shopper.page.write("#address", "1 Loom Street\nSpindleton").await;
    shopper.sees("checkout", "/checkout").await;
    shopper.page.follow("main form button").await;
    let order = shopper.reads().await;
    for said in ["Thank you, Ana Weaver", "Selvedge Jeans", "Spindleton"] {
        assert!(order.contains(said), "{order}");
    }
    assert_eq!(shopper.pieces().await, "0");
    shopper.sees("order", "/orders/").await;

    shopper.page.follow("a[href='/account']").await;
    assert_eq!(shopper.text("document.querySelectorAll('tbody tr').length + ''").await, "1", "bought once");
    shopper.sees("account-with-order", "/account").await;
    assert!(shopper.found.is_empty(), "{}", shopper.found.join("\n"));
}
