//! `docs/metrics.md` and `/metrics` say the same, and what others read out of `/metrics` is what is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde_json::Value;

use crate::programs::{folder, python};
use crate::support::{Authority, Client, Dns, Edge, Origin, Refusing, Setup};

/// What is known of a metric.
#[derive(Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    /// Of labels that have a closed set.
    values: BTreeMap<String, BTreeSet<String>>,
}

type Metrics = BTreeMap<String, Metric>;

/// Labels whose values are names and addresses.
const OPEN: [&str; 10] =
    ["pool", "zone", "target", "listener", "node", "name", "certificate", "file", "le", "version"];

/// A scrape as `prometheus_client` understands it.
async fn scraped(edge: &Edge) -> Metrics {
    let text = edge.admin("/metrics").await.text();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("metrics.txt");
    std::fs::write(&file, &text).unwrap();
    let parsed = tokio::task::spawn_blocking(move || python("scrape.py", &[file.to_str().unwrap()]));
    let families: Value = serde_json::from_str(&parsed.await.unwrap()).unwrap();
    let mut metrics = Metrics::new();
    for family in families.as_array().unwrap() {
        let kind = family["type"].as_str().unwrap();
        // Families of counters are called without `_total` there.
        let name =
            family["name"].as_str().unwrap().to_owned() + if kind == "counter" { "_total" } else { "" };
        let mut metric = Metric {
            kind: kind.to_owned(),
            help: family["help"].as_str().unwrap().to_owned(),
            ..Metric::default()
        };
        for sample in family["samples"].as_array().unwrap() {
            for (label, value) in sample["labels"].as_object().unwrap() {
                if label != "le" {
                    metric.labels.insert(label.clone());
                }
                if !OPEN.contains(&label.as_str()) || (label == "version" && name.contains("tls")) {
                    let values = metric.values.entry(label.clone()).or_default();
                    values.insert(value.as_str().unwrap().to_owned());
                }
            }
        }
        let earlier = metrics.insert(name.clone(), metric);
        assert!(earlier.is_none(), "{name} is one family");
    }
    let helps = text.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(metrics.len(), helps, "every family is understood");
    metrics
}

/// What a node needs for as long as it runs.
pub(crate) type Needed = (Authority, Dns, Origin, Refusing, tempfile::TempDir);

/// A node that has all that can be measured: TLS, certificates from an authority, DNS both ways, zones, a reload, failures.
pub(crate) async fn full_node() -> (Edge, Needed) {
    let authority = Authority::new("edge");
    let issued = authority.issue("shop", &["shop.test"]);
    let dns = Dns::start().await;
    dns.a("shop.test", 60, [Ipv4Addr::LOCALHOST]);
    let (origin, refusing) = (Origin::start().await, Refusing::new());
    let storage = tempfile::tempdir().unwrap();
    let mut edge = Setup::default()
        .top("zone = \"az-a\"")
        .pool("health.interval = \"100ms\"\nhealth.timeout = \"100ms\"\nstickiness.mode = \"lb_cookie\"")
        .target_with(&origin, "zone = \"az-a\"")
        .target_with(&refusing, "zone = \"az-b\"")
        .discover("dns = \"shop.test\"\nport = 1")
        .and(&format!(
            "[resolver]\nnameservers = [\"{}\"]\n\
             [[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n\
             tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}], acme = true }}\n\
             [acme]\ndirectory = \"https://127.0.0.1:1/dir\"\nterms_of_service_agreed = true\nstorage = \"{}\"\n\
             [[acme.certificate]]\nnames = [\"shop.test\"]\n\
             [dns]\naddresses = [\"127.0.0.1:0\"]\ndomain = \"lb.shop.test\"\n\
             [[dns.name_server]]\nname = \"ns1.lb.shop.test\"\naddresses = [\"127.0.0.1\"]\n\
             [[dns.node]]\nipv4 = \"127.0.0.1\"\nzone = \"az-a\"\ncheck = \"127.0.0.1:1\"\n",
            dns.address,
            issued.cert.display(),
            issued.key.display(),
            storage.path().display(),
        ))
        .start()
        .await;
    edge.dns_address().await;
    assert_eq!(edge.reload().await.status, 200);
    Client::of(&edge).get("/").await;
    edge.counts("selvedge_requests_total", 1).await;
    edge.counts("selvedge_discovery_targets", 1).await;
    (edge, (authority, dns, origin, refusing, storage))
}

/// The rows of the tables of a page, by the title of their first column.
fn rows(text: &str, first_column: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut of_this = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if !line.starts_with('|') {
            of_this = false;
        } else if line.starts_with(&format!("| {first_column} |")) {
            of_this = true;
        } else if of_this && !line.starts_with("| ---") {
            found.push(cells(line));
        }
    }
    found
}

/// The words of a cell that are written as code.
fn words(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_lists_every_metric_that_a_node_shows_and_no_other() {
    let (edge, _kept) = full_node().await;
    let live = scraped(&edge).await;
    let page = std::fs::read_to_string(folder("docs/metrics.md")).unwrap();
    let listed = rows(&page, "metric");
    assert!(listed.len() >= 80 && live.len() >= 80, "{} and {} metrics are found", listed.len(), live.len());
    let mut wrong = String::new();
    let mut names = BTreeSet::new();
    for row in listed.iter().filter(|row| row.len() == 5) {
        let name = row[0].trim_matches('`');
        assert!(names.insert(name), "{name} is listed twice");
        let Some(metric) = live.get(name) else {
            let _ = writeln!(wrong, "{name} is listed, and no node shows it");
            continue;
        };
        // Failures have their reason from the first one on.
        let mut labels = words(&row[2]);
        if name == "selvedge_target_failures_total" && metric.labels.is_empty() {
            labels.clear();
        }
        let same = metric.kind == row[1] && metric.labels == labels && row[4].starts_with(&metric.help);
        if !same || row[3].is_empty() {
            let _ = writeln!(wrong, "{name} is {row:?}, and a node shows {metric:?}");
        }
    }
    for (name, metric) in live.iter().filter(|(name, _)| !names.contains(name.as_str())) {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        let _ =
            writeln!(wrong, "missing: | `{name}` | {} | {labels} | UNIT | {} |", metric.kind, metric.help);
    }
    for (name, metric) in &live {
        for (label, values) in &metric.values {
            let row = listed.iter().find(|row| {
                row.len() == 3 && words(&row[0]).contains(name) && words(&row[1]).contains(label)
            });
            let known = row.map(|row| words(&row[2])).unwrap_or_default();
            if !values.is_subset(&known) {
                let _ = writeln!(wrong, "{name}: {label} has {values:?}, and the page knows {known:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "docs/metrics.md:\n{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_of_300_targets_is_understood_and_below_a_mebibyte() {
    let targets = (0..300).map(|number: u32| {
        let zone = ["az-a", "az-b", "az-c"][number as usize / 100];
        let address = format!("127.100.{}.{}:9001", 100 + number / 100, 100 + number % 100);
        format!("[[pool.storefront.target]]\naddress = \"{address}\"\nzone = \"{zone}\"\n")
    });
    let edge = Edge::without_pool()
        .and(&format!(
            "[[route]]\npool = \"storefront\"\n[pool.storefront]\nhealth.enabled = false\n{}",
            targets.collect::<String>()
        ))
        .start()
        .await;
    let size = edge.admin("/metrics").await.body.len();
    assert!(size < 1 << 20, "{size} bytes");
    let metrics = scraped(&edge).await;
    assert!(metrics.contains_key("selvedge_target_first_byte_seconds"));
    let shown = edge.metric("selvedge_target_weight").await;
    assert_eq!(shown, 300);
}
