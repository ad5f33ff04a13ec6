//! The dashboard in a browser: by keyboard alone, as a screen reader finds it, in every state that matters.
//!
//! With `SELVEDGE_SCREENSHOTS=FOLDER` the browser leaves pictures there of what it has seen.

use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use crate::events::change;
use crate::support::chromium::Chromium;
use crate::support::edge::script;
use crate::support::{Client, Dns, Edge, Gate, Origin, Raw, Setup, eventually};

/// A node that answers DNS itself.
const DNS: &str = "[dns]\naddresses = [\"127.0.0.1:0\"]\ndomain = \"lb.test\"\n\
     [[dns.name_server]]\nname = \"ns.test\"\n\
     [[dns.node]]\nzone = \"az-a\"\nipv4 = \"192.0.2.1\"\ncheck = \"127.0.0.1:1\"";

/// The wide and the narrow, the light and the dark.
const LOOKS: [(&str, u32, bool); 4] =
    [("light", 1280, false), ("dark", 1280, true), ("phone", 360, false), ("phone-dark", 360, true)];

/// Three zones with two targets each, some of them found in DNS, and visitors with sessions on all.
struct Scene {
    edge: Edge,
    origins: Vec<Origin>,
    _dns: Dns,
}

async fn scene() -> Scene {
    let mut origins = Vec::new();
    let dns = Dns::start().await;
    let mut setup = Edge::asking(&[dns.address]).and(DNS).top("zone = \"az-a\"");
    for zone in ["az-a", "az-b", "az-c"] {
        for number in 1..=2 {
            let origin = Origin::named(&format!("{zone}-{number}")).await;
            setup = setup.target_with(&origin, &format!("zone = \"{zone}\""));
            origins.push(origin);
        }
    }
    let more = Origin::named("az-c-3").await;
    dns.a("more.shop.test", 60, [[127, 0, 0, 1].into()]);
    let found =
        format!("dns = \"more.shop.test\"\ntype = \"a\"\nport = {}\nzone = \"az-c\"", more.address.port());
    origins.push(more);
    let edge = setup
        .discover(&found)
        .pool("stickiness.mode = \"lb_cookie\"\nhealth.path = \"/healthz\"\nhealth.interval = \"500ms\"")
        .pool("zones.evacuate = \"1%/s\"")
        .start()
        .await;
    edge.counts("selvedge_target_status{status=\"healthy\"}", 7).await;
    let mut homes = std::collections::BTreeSet::new();
    eventually("a session on every target", async || {
        let mut visitor = Client::of(&edge);
        for _ in 0..3 {
            homes.insert(visitor.get("/").await.origin().to_owned());
        }
        homes.len() == 7
    })
    .await;
    Scene { edge, origins, _dns: dns }
}

async fn open(edge: &Edge) -> Chromium {
    let mut page = Chromium::open(&format!("http://{}/", edge.admin)).await;
    page.until("it is live", "document.getElementById('live').textContent === 'live'").await;
    page
}

const FIGURES: &str =
    "document.querySelector('#ask-figures table') !== null && !document.getElementById('ask-yes').disabled";

#[tokio::test]
async fn a_zone_is_shifted_and_restored_with_keys_alone() {
    let Scene { edge, origins: _origins, _dns } = scene().await;
    let mut page = open(&edge).await;
    page.tab_to("the button of zone az-b", "it.dataset.do === 'shift' && it.dataset.zone === 'az-b'").await;
    page.press("Enter").await;
    page.until("the figures are there", FIGURES).await;
    let says = page.eval("document.getElementById('ask').innerText").await;
    assert!(says.as_str().unwrap().contains("71 % of the targets of pool shop"), "{says}");
    page.picture("shift-asked").await;
    page.press("Escape").await;
    page.until("the dialog is gone", "!document.getElementById('ask').open").await;
    page.eval("void 0").await;
    assert_eq!(page.eval("document.activeElement.dataset.zone").await, "az-b", "the focus is where it was");

    page.press("Enter").await;
    page.until("the figures are there", FIGURES).await;
    page.tab_to("the comment", "it.id === 'ask-comment'").await;
    for letter in ["d", "r", "i", "l", "l"] {
        page.press(letter).await;
    }
    page.tab_to("the last button", "it.id === 'ask-yes'").await;
    page.press("Enter").await;
    page.until(
        "it is shifted",
        "document.querySelector('.state')?.innerText.includes('by the operator: drill') === true",
    )
    .await;
    eventually("the node to say so", async || edge.metric("selvedge_zone_out{zone=\"az-b\"}").await == 1)
        .await;
    // The button is another word now, and has the focus still, over as many pictures as may come.
    page.eval("new Promise((done) => { let n = 0; new MutationObserver(() => { n += 1; if (n > 2) done(); }) \
               .observe(document.querySelector('#node'), { subtree: true, childList: true, characterData: true }); })")
        .await;
    assert_eq!(
        page.eval("document.activeElement.dataset.do + ' ' + document.activeElement.dataset.zone").await,
        "restore az-b"
    );

    page.press("Enter").await;
    page.until("the figures are there", FIGURES).await;
    page.tab_to("the last button", "it.id === 'ask-yes'").await;
    page.press(" ").await;
    page.until("it is back", "document.querySelector('.state') === null").await;
    assert_eq!(edge.metric("selvedge_zone_out").await, 0);
}

#[tokio::test]
async fn a_target_is_drained_with_keys_alone_and_says_what_is_left() {
    let Scene { edge, origins, _dns } = scene().await;
    let mut page = open(&edge).await;
    let name = format!("az-a/{}", origins[0].address);
    let its = format!("it.dataset.target === '{name}'");
    page.tab_to("its button", &format!("it.dataset.do === 'drain' && {its}")).await;
    page.press("Enter").await;
    page.until("the figures are there", FIGURES).await;
    for letter in ["9", "m"] {
        page.press(letter).await;
    }
    page.until(
        "the figures are for nine minutes",
        &format!("{FIGURES} && document.getElementById('ask').innerText.includes('for up to 9 min')"),
    )
    .await;
    page.press("Enter").await;
    let row = format!("document.querySelector('[data-key=\"{name}\"]').innerText");
    page.until("it drains", &format!("{row}.includes('draining') && {row}.includes('still bound')")).await;
    assert_eq!(page.eval("document.activeElement.dataset.do").await, "up");
    page.until(
        "it is said",
        &format!("document.getElementById('spoken').textContent.includes('{name} is draining')"),
    )
    .await;
}

#[tokio::test]
async fn nothing_is_wrong_with_the_page_for_who_cannot_see_it_or_uses_a_phone() {
    let Scene { edge, mut origins, _dns } = scene().await;
    let mut page = open(&edge).await;
    let mut found = Vec::new();
    for state in ["well", "trouble", "asked"] {
        match state {
            "trouble" => {
                change(
                    &edge,
                    "PUT",
                    "/v1/zones/az-b/shift",
                    &json!({ "for": "2h", "force": true, "comment": "power work" }),
                )
                .await;
                let path = format!("/v1/pools/shop/targets/az-a/{}/state", origins[0].address);
                change(&edge, "PUT", &path, &json!({ "state": "drain", "deadline": "10m" })).await;
                let path = format!("/v1/pools/shop/targets/az-a/{}/state", origins[1].address);
                change(&edge, "PUT", &path, &json!({ "state": "down" })).await;
                origins[4].stop().await;
                edge.counts("selvedge_target_status{status=\"unhealthy\"}", 1).await;
                page.until("all of it is shown", "['.draining', '.down', '.shifted', '.unhealthy'].every((name) => document.querySelector(name) !== null)").await;
            }
            "asked" => {
                page.eval("document.querySelector('[data-do=shift]').click()").await;
                page.until("the figures are there", "document.querySelector('#ask-figures table') !== null")
                    .await;
            }
            _ => {}
        }
        for (look, width, dark) in LOOKS {
            page.look(width, dark).await;
            found.extend(page.violations().await.into_iter().map(|what| format!("{state} {look}: {what}")));
            let wide = page.eval("document.documentElement.scrollWidth - innerWidth").await;
            if wide.as_i64().unwrap() > 0 {
                found.push(format!("{state} {look}: {wide} px wider than the window"));
            }
            let cut = "Math.max(...[...document.querySelectorAll('.zone')].map((it) => it.scrollWidth - it.clientWidth))";
            let cut = page.eval(cut).await;
            if cut.as_i64().unwrap() > 0 {
                found.push(format!("{state} {look}: a zone is {cut} px wider than its column"));
            }
            page.picture(&format!("{state}-{look}")).await;
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn an_upgrade_is_shown_from_its_start_to_the_end_of_the_old_process() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "correct-horse-battery-staple\n").unwrap();
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "finished").await;
    let admin = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = {token:?}");
    let patient = "[shutdown]\ndeadline = \"10m\"\n[upgrade]\ndeadline = \"10m\"";
    let setup = Edge::before(&origin).pool("timeouts.first_byte = \"10m\"").and(&admin).and(patient);
    let edge = setup.start().await;
    let upgrade = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(["upgrade", "--admin", &format!("http://{}", edge.admin), "--token-file"]);
        command.arg(&token).args(more);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let mut page = Chromium::open(&format!("http://{}/", edge.admin)).await;
    page.eval("sessionStorage.setItem('selvedge-token', 'correct-horse-battery-staple')").await;
    page.go(&format!("http://{}/?", edge.admin)).await;
    page.until("it is live", "document.getElementById('live').textContent === 'live'").await;

    // A program that says nothing, until it is killed.
    let hangs = script(&folder, "hangs", "exec sleep 600");
    let refused = upgrade(&["--binary", hangs.to_str().unwrap()]);
    let says = |text: &str| format!("document.getElementById('notices').innerText.includes('{text}')");
    page.until("it is under way", &says("An upgrade is under way, asked for by api")).await;
    seen(&mut page, "upgrading").await;
    edge.logged(&["a new process is started to take over"]).await;
    edge.signal_successor(edge.successors()[0], Signal::KILL);
    assert_eq!(refused.await.unwrap().status.code(), Some(1));
    page.until("it was refused", &says("the new process ended before it had taken over")).await;
    seen(&mut page, "upgrade-refused").await;

    let mut held = Raw::connect(&edge).await;
    held.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    origin.received(1).await;
    assert!(upgrade(&[]).await.unwrap().status.success());
    page.until("the old one drains", &says("which served before, drains: 1 connection is left, for")).await;
    seen(&mut page, "upgraded").await;
    gate.open();
    assert_eq!(held.response().await.text(), "finished");
    // It may have been answered before it was asked to leave.
    drop(held);
    page.until("nothing is left of it", "document.getElementById('notices').innerText === ''").await;
}

/// Looks at the page in every look: nothing is wrong with it, and nothing is cut.
async fn seen(page: &mut Chromium, state: &str) {
    for (look, width, dark) in LOOKS {
        page.look(width, dark).await;
        assert_eq!(page.violations().await, [""; 0], "{state} {look}");
        let wide = page.eval("document.documentElement.scrollWidth - innerWidth").await;
        assert!(wide.as_i64().unwrap() <= 0, "{state} {look}: {wide} px wider than the window");
        page.picture(&format!("{state}-{look}")).await;
    }
}

#[tokio::test]
async fn three_hundred_targets_can_be_searched() {
    let mut setup = Setup::default();
    for number in 0..300u16 {
        let address = std::net::SocketAddr::from(([127, 1, (number % 3) as u8, (number / 3) as u8], 9001));
        setup = setup
            .target_with(&address, &format!("zone = \"az-{}\"", ["a", "b", "c"][usize::from(number % 3)]));
    }
    let edge = setup.start().await;
    let mut page = open(&edge).await;
    assert_eq!(page.eval("document.querySelectorAll('.target').length").await, 300);
    page.tab_to("the search", "it.id === 'words'").await;
    for letter in "127.1.1.42:".chars() {
        page.press(&letter.to_string()).await;
    }
    assert_eq!(page.eval("document.querySelectorAll('.target').length").await, 1);
    assert_eq!(page.eval("document.getElementById('matches').textContent").await, "1 of 300");
    let took = page.eval("(() => { document.getElementById('words').value = ''; const begun = performance.now(); show(); return performance.now() - begun; })()").await;
    assert!(took.as_f64().unwrap() < 1000.0, "a picture takes {took} ms to draw");
    page.picture("three-hundred").await;
}

#[tokio::test]
async fn a_node_that_goes_away_is_noticed_and_a_token_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "correct-horse-battery-staple\n").unwrap();
    let origin = Origin::start().await;
    let admin = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = {file:?}");
    let mut edge = Edge::before(&origin).and(&admin).start().await;
    let mut page = Chromium::open(&format!("http://{}/", edge.admin)).await;
    page.until("it asks for the token", "!document.getElementById('login').hidden").await;
    assert_eq!(page.violations().await, [""; 0]);
    page.tab_to("the field", "it.id === 'token'").await;
    for letter in "correct-horse-battery-staple".chars() {
        page.press(&letter.to_string()).await;
    }
    page.press("Enter").await;
    page.until("it is live", "document.getElementById('live').textContent === 'live'").await;
    page.eval("document.querySelector('[data-do=down]').click()").await;
    page.until(
        "the figures of the last target are there",
        "document.getElementById('ask').innerText.includes('Nobody is left')",
    )
    .await;
    assert_eq!(page.eval("document.getElementById('ask-yes').disabled").await, true, "that has to be meant");
    edge.stop_gracefully().await;
    page.until(
        "it says so",
        "document.getElementById('trouble').innerText.startsWith('The node does not answer')",
    )
    .await;
    assert_eq!(page.violations().await, [""; 0]);
}
