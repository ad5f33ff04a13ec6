//! `config/grafana`: what the dashboard asks for is there, and each alert fires for its cause and for nothing else. A real Prometheus
//! scrapes real nodes; only the times in the rules are made shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::metrics::full_node;
use crate::programs::folder;
use crate::prometheus::Prometheus;
use crate::support::{Authority, Client, Dns, Edge, Origin, Raw, Refusing, Reply, eventually};

fn shipped(name: &str) -> String {
    std::fs::read_to_string(folder("config/grafana").join(name)).unwrap()
}

/// Every `expr` in a dashboard, with its title; variables stand for everything.
fn queries(of: &Value, title: &str, found: &mut Vec<(String, String)>) {
    let title = of["title"].as_str().or(of["name"].as_str()).unwrap_or(title);
    match of {
        Value::Object(fields) => {
            if let Some(query) = fields.get("expr").and_then(Value::as_str) {
                let query =
                    query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$pool", ".*");
                found.push((title.to_owned(), query));
            }
            fields.values().for_each(|value| queries(value, title, found));
        }
        Value::Array(elements) => elements.iter().for_each(|value| queries(value, title, found)),
        _ => {}
    }
}

/// The metrics that a query names, without the ends that histograms have.
fn named(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("selvedge_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboard_and_the_alerts_names_metrics_that_a_node_shows() {
    let (edge, _needed) = full_node().await;
    let prometheus = Prometheus::scraping(&[edge.admin], &shipped("alerts.yml")).await;
    eventually("a second scrape", async || {
        let scrapes = prometheus.query("count_over_time(up[1m])").await;
        scrapes.first().is_some_and(|series| series["value"][1] != "1")
    })
    .await;
    let names = prometheus.api("label/__name__/values").await;
    let mut names: BTreeSet<_> =
        names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    // Not there before the first failure.
    names.insert("selvedge_target_failures_total".to_owned());

    let dashboard: Value = serde_json::from_str(&shipped("dashboard.json")).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, "", &mut found);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        found.push(("a variable".to_owned(), variable["query"].as_str().unwrap().to_owned()));
    }
    let rules = prometheus.api("rules").await;
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        found.push((rule["name"].as_str().unwrap().to_owned(), rule["query"].as_str().unwrap().to_owned()));
    }
    assert!(found.len() >= 60, "{} queries are found", found.len());
    for (title, query) in &found {
        for name in named(query) {
            assert!(names.contains(&name), "{title}: no node shows {name}");
        }
        if !query.starts_with("label_values") && query != "prometheus" {
            // What looks for trouble finds none here, nor has anything failed yet.
            let is_filter = query.contains(" == ") || query.contains(" > ");
            let result = prometheus.query(query).await;
            let may_be_empty = is_filter || query.contains("selvedge_target_failures_total");
            assert!(may_be_empty || !result.is_empty(), "{title} shows nothing: {query}");
        }
    }
    let mut titles = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(titles.insert(title), "two panels are called {title}");
        assert!(
            panel["type"] == "row" || panel["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{title}"
        );
    }
}

/// The rules with times that a test can wait for.
fn hurried(rules: &str) -> String {
    let mut text = String::new();
    for line in rules.lines() {
        let mut pieces = line.split('[');
        text += pieces.next().unwrap();
        for piece in pieces {
            let (inside, rest) = piece.split_once(']').unwrap();
            let is_span = inside.starts_with(|c: char| c.is_ascii_digit());
            text += &format!("[{}]{rest}", if is_span { "8s" } else { inside });
        }
        if let Some((indent, _)) = line.split_once("for: ").filter(|(indent, _)| indent.trim().is_empty()) {
            text.truncate(text.len() - line.len());
            text += &format!("{indent}for: 0s");
        }
        text.push('\n');
    }
    text
}

/// A node without trouble: everything that the other one has, in good order.
async fn healthy(origin: &Origin, names: &Dns, authority: &Authority) -> Edge {
    let issued = authority.issue("healthy", &["shop.test"]);
    Edge::start(&node(&format!(
        "tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}\n\
         [pool.shop]\nstickiness.mode = \"lb_cookie\"\nhealth.interval = \"100ms\"\nhealth.timeout = \"100ms\"\n\
         [[pool.shop.target]]\naddress = \"{origin}\"\nzone = \"az-a\"\n\
         [[pool.shop.discover]]\ndns = \"shop.test\"\nport = {}\nzone = \"az-a\"\n\
         [resolver]\nnameservers = [\"{}\"]\n\
         [[route]]\npool = \"shop\"\n\
         [[dns.node]]\nipv4 = \"127.0.0.1\"\ncheck = \"{origin}\"\n",
        issued.cert.display(),
        issued.key.display(),
        origin.address.port(),
        names.address,
    )))
    .await
}

/// What both nodes have: a listener, one with TLS whose table goes on with `rest`, and `[dns]`.
fn node(rest: &str) -> String {
    format!(
        "workers = 1\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [dns]\naddresses = [\"127.0.0.1:0\"]\ndomain = \"lb.shop.test\"\n\
         health.interval = \"100ms\"\nhealth.timeout = \"100ms\"\n\
         [[dns.name_server]]\nname = \"ns1.lb.shop.test\"\naddresses = [\"127.0.0.1\"]\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n{rest}"
    )
}

/// What goes wrong behind the troubled node.
struct Causes {
    failing: [Origin; 2],
    good: Origin,
    spare: Origin,
    slow: Origin,
    holding: Origin,
    dead: [Refusing; 2],
    storage: tempfile::TempDir,
}

impl Causes {
    async fn new() -> Self {
        let failing = || Origin::replying(|_| Reply::status(500));
        let slow = Origin::raw(async |mut conn| {
            while conn.request().await.is_some() {
                tokio::time::sleep(Duration::from_millis(2200)).await;
                if conn.try_send(Reply::ok("at last").bytes("GET")).await.is_err() {
                    return;
                }
            }
        });
        Self {
            failing: [failing().await, failing().await],
            good: Origin::named("good").await,
            spare: Origin::named("spare").await,
            slow: slow.await,
            holding: Origin::raw(async |mut conn| {
                conn.request().await;
                std::future::pending::<()>().await;
            })
            .await,
            dead: [Refusing::new(), Refusing::new()],
            storage: tempfile::tempdir().unwrap(),
        }
    }

    /// The node that has them all.
    fn config(&self, authority: &Authority) -> String {
        let issued = authority.issue_for("expiring", &["shop.test"], -1..=5);
        let pool = |name: &str, keys: &str, targets: &[(String, &str)]| {
            let most = if name == "full" { "1" } else { "\"off\"" };
            let targets = targets.iter().map(|(address, zone)| {
                format!(
                    "[[pool.{name}.target]]\naddress = \"{address}\"\nzone = \"{zone}\"\nmax_connections = {most}\n"
                )
            });
            let targets: String = targets.collect();
            format!(
                "[[route]]\npath = \"/{name}\"\npool = \"{name}\"\n[pool.{name}]\nzones.gray.enabled = false\n{keys}\n{targets}"
            )
        };
        let [one, other] = self.failing.each_ref().map(|origin| (origin.to_string(), "az-a"));
        let good = || (self.good.to_string(), "az-a");
        let [gone, lost] = self.dead.each_ref().map(|dead| dead.address.to_string());
        let unchecked = "health.enabled = false\noutlier.enabled = false";
        let mut text = node(&format!(
            "tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}], acme = true }}\n\
             [acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nterms_of_service_agreed = true\nstorage = \"{}\"\n\
             [[acme.certificate]]\nnames = [\"shop.test\"]\n\
             [resolver]\nnameservers = [\"127.0.0.1:1\"]\ntimeout = \"50ms\"\nattempts = 1\n\
             [access_log]\noutput = \"/dev/full\"\n\
             [[dns.node]]\nipv4 = \"127.0.0.1\"\ncheck = \"{gone}\"\n",
            issued.cert.display(),
            issued.key.display(),
            self.storage.path().display(),
        ));
        let spent = format!("{unchecked}\nretry.budget = \"0%\"\nretry.budget_min = 0");
        text += &pool("errors", &spent, &[one.clone(), other]);
        let quick = "health.enabled = false\noutlier.consecutive = 2";
        text += &pool("ejects", quick, &[one, good()]);
        text += &pool("slow", unchecked, &[(self.slow.to_string(), "az-a")]);
        let no_queue = format!("{unchecked}\nqueue.length = 0");
        text += &pool("full", &no_queue, &[(self.holding.to_string(), "az-a")]);
        let checked = "health.interval = \"100ms\"\nhealth.timeout = \"100ms\"";
        text += &pool("dead", checked, &[(gone, "az-a"), (lost, "az-b")]);
        let sticky = format!("{unchecked}\nstickiness.mode = \"lb_cookie\"");
        text += &pool("shop", &sticky, &[good(), (self.spare.to_string(), "az-z")]);
        text + "[[pool.shop.discover]]\ndns = \"shop.test\"\nport = 80\nzone = \"az-a\"\n"
    }
}

/// Goes on asking until it is dropped: what works of the healthy node, and of the other one what does not.
async fn load(
    holding: &Origin,
    healthy: (Client, Client),
    troubled: &Edge,
    secure: std::net::SocketAddr,
    foreign: &str,
) -> JoinSet<()> {
    let mut load = JoinSet::new();
    let pace = || tokio::time::interval(Duration::from_millis(20));
    let (mut plain, mut over_tls) = healthy;
    load.spawn(async move {
        let mut pace = pace();
        loop {
            pace.tick().await;
            plain.get("/").await;
            over_tls.hang_up();
            over_tls.get("/").await;
        }
    });
    let (web, cookie) = (troubled.web, format!("Cookie: {foreign}"));
    load.spawn(async move {
        let mut pace = pace();
        loop {
            pace.tick().await;
            for path in ["/errors", "/ejects", "/ejects"] {
                Client::to(web).get(path).await;
            }
            Client::to(web).get_with("/shop", &[&cookie]).await;
            let mut plain = Raw::to(secure).await;
            plain.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
            assert_eq!(plain.response().await.status, 400);
        }
    });
    let mut held = Raw::to(web).await;
    held.send("GET /full HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    holding.received(1).await;
    load.spawn(async move {
        std::future::pending::<()>().await;
        drop(held);
    });
    for path in ["/full", "/slow"] {
        load.spawn(async move {
            let mut pace = pace();
            loop {
                pace.tick().await;
                Client::to(web).get(path).await;
            }
        });
    }
    load
}

/// A node with room for few, and a listener on which each client may have little.
async fn crowded(holding: &Origin) -> Edge {
    let limited = "per_client = { max_connections = 1, rate = \"1/m\" }";
    let limited = format!("[[listener]]\nname = \"limited\"\naddress = \"127.0.0.1:0\"\n{limited}");
    let setup = Edge::before(holding).pool("timeouts.first_byte = \"10m\"").and(&limited);
    setup.and("[limits]\nmax_requests = 1").open_files(256).start().await
}

/// Goes on asking it for more than it has, until it is dropped. Its target has `had` so many requests already.
async fn crowd(load: &mut JoinSet<()>, holding: &Origin, had: usize, crowded: &mut Edge) {
    const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let pace = || tokio::time::interval(Duration::from_millis(20));
    let (web, limited) = (crowded.web, crowded.address_of("limited").await);
    // It holds the only place there is.
    let mut held = Raw::to(web).await;
    held.send(GET).await;
    holding.received(had + 1).await;
    load.spawn(async move {
        let (mut pace, mut idle) = (pace(), std::collections::VecDeque::from([held]));
        loop {
            pace.tick().await;
            let mut raw = Raw::to(web).await;
            // Refused, it stays: the node has to close it, or another.
            if raw.try_send(GET).await.is_ok() {
                let _ = raw.try_response("GET").await;
            }
            idle.push_back(raw);
            if idle.len() > 200 {
                idle.remove(1);
            }
        }
    });
    load.spawn(async move {
        let (mut pace, mut one) = (pace(), Client::to(limited));
        loop {
            pace.tick().await;
            let _ = one.try_request("GET", "/", &[], b"").await;
            // If it is let in after all, it has taken the place of the one.
            let _ = tokio::time::timeout(Duration::from_secs(1), Raw::to(limited).await.ended()).await;
        }
    });
}

/// A node's metrics with a panic more at each scrape: a defect that no test can cause, so it is made up.
async fn defect() -> Origin {
    let panics = std::sync::atomic::AtomicUsize::new(0);
    Origin::replying(move |_| {
        let count = panics.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Reply::ok(format!("# TYPE selvedge_panics_total counter\nselvedge_panics_total {count}\n"))
            .field("Content-Type: text/plain; version=0.0.4")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_alert_fires_when_its_cause_is_made_and_not_otherwise() {
    let authority = Authority::new("edge");
    let (names, origin, causes, defect) =
        (Dns::start().await, Origin::named("good").await, Causes::new().await, defect().await);
    names.a("shop.test", 60, [std::net::Ipv4Addr::LOCALHOST]);
    let mut healthy = healthy(&origin, &names, &authority).await;
    let config = causes.config(&authority);
    let mut troubled = Edge::start(&config).await;
    let mut ending = Edge::before(&origin).start().await;
    let mut crowded = crowded(&causes.holding).await;

    // A cookie that the healthy node has sealed is foreign to the other, as they have no keys in common.
    let mut shopper = Client::of(&healthy);
    shopper.get("/").await;
    let (name, value) = shopper.jar.first_key_value().unwrap();
    let foreign = format!("{name}={value}");
    let secure = healthy.address_of("secure").await;
    let over_tls = Client::to(secure).over(&authority.dialer("shop.test"));
    let refused = troubled.address_of("secure").await;
    let prometheus = Prometheus::scraping(
        &[healthy.admin, troubled.admin, ending.admin, crowded.admin, defect.address],
        &hurried(&shipped("alerts.yml")),
    )
    .await;
    eventually("every node to be scraped", async || prometheus.query("up == 1").await.len() == 5).await;
    let mut load = load(&causes.holding, (shopper, over_tls), &troubled, refused, &foreign).await;

    crowd(&mut load, &causes.holding, 1, &mut crowded).await;

    let shift = ["Connection: close", "Content-Type: application/json"];
    let body = br#"{"for": "1h", "comment": "a test", "force": true}"#;
    let mut admin = Client::to(troubled.admin);
    admin.host = troubled.admin.to_string();
    let answer = admin.request("PUT", "/v1/zones/az-z/shift", &shift, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    troubled.becomes(&config.replace("workers = 1", "workers = 2")).await;
    troubled.write("nonsense");
    assert_ne!(troubled.reload().await.status, 200);
    assert_ne!(troubled.upgrade().await.status, 200);
    troubled.leave_descriptors(4);
    assert!(ending.stop_gracefully().await.success());

    let rules = prometheus.api("rules").await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    let all: BTreeSet<_> = rules.iter().map(|rule| rule["name"].as_str().unwrap().to_owned()).collect();
    assert!(all.len() >= 20, "{all:?}");
    let mut fired = BTreeMap::new();
    let fire = tokio::time::timeout(Duration::from_secs(60), async {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        while fired.keys().collect::<BTreeSet<_>>() != all.iter().collect() {
            tick.tick().await;
            fired = fired_so_far(&prometheus).await;
        }
    });
    let all_fired = fire.await.is_ok();
    let missing: Vec<_> = all.iter().filter(|alert| !fired.contains_key(*alert)).collect();
    assert!(all_fired, "these alerts did not fire: {missing:?}");
    load.shutdown().await;

    let admin = |edge: &Edge| edge.admin.to_string();
    for (alert, instances) in &fired {
        // How quick anything is says nothing on a machine that is busy with other tests.
        let of_time = ["SelvedgeDown", "SelvedgeSlow"].contains(&alert.as_str());
        assert!(of_time || !instances.contains(&admin(&healthy)), "{alert} fired for a node without trouble");
    }
    assert_eq!(fired["SelvedgeDefect"], BTreeSet::from([defect.to_string()]));
    assert!(fired["SelvedgeDown"].contains(&admin(&ending)));
    for alert in ["SelvedgeNoRoom", "SelvedgeConnectionsShed", "SelvedgeClientsLimited"] {
        assert!(fired[alert].contains(&admin(&crowded)), "{alert}");
    }
    assert_eq!(fired["SelvedgeUpgradeFailed"], BTreeSet::from([admin(&troubled)]));
    rules.iter().for_each(is_of_use);
}

/// A rule says what it is about, how bad that is, and which part of the runbook helps.
fn is_of_use(rule: &Value) {
    let runbook = std::fs::read_to_string(folder("docs/runbook.md")).unwrap();
    let (name, says) = (&rule["name"], &rule["annotations"]);
    let (page, anchor) = says["runbook"].as_str().unwrap().split_once('#').unwrap();
    let anchors: Vec<_> = runbook.lines().filter_map(crate::pages::anchor_of).collect();
    assert!(page == "docs/runbook.md" && anchors.iter().any(|other| other == anchor), "{name}: {says}");
    assert!(!says["summary"].as_str().unwrap().is_empty(), "{name}");
    assert!(["page", "ticket"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
}

/// The alerts that have been firing at any time, and for which nodes.
async fn fired_so_far(prometheus: &Prometheus) -> BTreeMap<String, BTreeSet<String>> {
    let mut fired = BTreeMap::<_, BTreeSet<_>>::new();
    let query = "count by (alertname, instance) (count_over_time(ALERTS{alertstate=\"firing\"}[10m]))";
    for series in prometheus.query(query).await {
        let label = |name: &str| series["metric"][name].as_str().unwrap_or_default().to_owned();
        fired.entry(label("alertname")).or_default().insert(label("instance"));
    }
    fired
}
