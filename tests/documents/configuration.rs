//! What is made of `config/selvedge.toml`: the page with all keys, and the schema for editors.

use std::path::Path;

use serde_json::{Value, json};

use crate::pages::{blocks, completed, pages};
use crate::programs::{folder, printed, python};

#[test]
fn the_page_of_all_keys_is_that_of_this_version() {
    let page = std::fs::read_to_string(folder("docs/configuration.md")).unwrap();
    assert!(
        page == printed(&["schema", "--markdown"]),
        "docs/configuration.md is stale: cargo run --bin selvedge -- schema --markdown > docs/configuration.md"
    );
    assert!(page.lines().filter(|line| line.starts_with("- **`")).count() > 150);
}

/// What another implementation of JSON Schema finds wrong with each of these files, as paths in it.
fn complaints(files: &[&Path]) -> Vec<Vec<String>> {
    let scratch = tempfile::tempdir().unwrap();
    let schema = scratch.path().join("schema.json");
    std::fs::write(&schema, printed(&["schema"])).unwrap();
    let mut arguments = vec![schema.to_str().unwrap()];
    arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
    let found: Value = serde_json::from_str(&python("schema.py", &arguments)).unwrap();
    serde_json::from_value(found).unwrap()
}

#[test]
fn the_schema_admits_every_configuration_that_passes_the_check() {
    let scratch = tempfile::tempdir().unwrap();
    let config = std::fs::read_dir(folder("config")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = config.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for (_, text) in pages() {
        for block in blocks(&text, "toml") {
            let file = scratch.path().join(format!("{}.toml", files.len()));
            std::fs::write(&file, completed(block, scratch.path())).unwrap();
            files.push(file);
        }
    }
    let files: Vec<_> = files.iter().map(|path| &**path).collect();
    for (file, wrong) in files.iter().zip(complaints(&files)) {
        assert!(wrong.is_empty(), "{}: {wrong:?}", file.display());
    }
}

#[test]
fn the_schema_refuses_slips_where_they_are() {
    let cases = [
        ("wrkers = 4", ""),
        ("zone = \"az a\"", "zone"),
        ("workers = \"four\"", "workers"),
        ("[[listener]]\nname = \"web\"", "listener.0"),
        ("[[listener]]\naddress = \"127.0.0.1\"", "listener.0.address"),
        ("[[listener]]\naddress = \"127.0.0.1:1\"\nhead_timeout = 10", "listener.0.head_timeout"),
        ("[[listener]]\naddress = \"127.0.0.1:1\"\nmax_head = \"32 kilo\"", "listener.0.max_head"),
        ("[[listener]]\naddress = \"127.0.0.1:1\"\nprotocols = [\"h3\"]", "listener.0.protocols.0"),
        ("[[route]]\npath = \"cart\"", "route.0.path"),
        ("[pool.shop]\nbalance = \"quickest\"", "pool.shop.balance"),
        ("[pool.shop]\nhealth.interval = \"5 seconds\"", "pool.shop.health.interval"),
        ("[pool.shop]\nzones.panic = 50", "pool.shop.zones.panic"),
        ("[pool.shop]\nretry.statuses = [\"5xx\"]", "pool.shop.retry.statuses.0"),
        ("[pool.shop]\nstickiness = {}", "pool.shop.stickiness"),
        ("[[pool.shop.target]]\nweight = 1", "pool.shop.target.0"),
        ("[log]\nlevel = \"verbose\"", "log.level"),
    ];
    let scratch = tempfile::tempdir().unwrap();
    let files = cases.iter().enumerate().map(|(index, (text, _))| {
        let file = scratch.path().join(format!("{index}.toml"));
        std::fs::write(&file, text).unwrap();
        file
    });
    let files: Vec<_> = files.collect();
    let files: Vec<_> = files.iter().map(|path| &**path).collect();
    for ((text, place), wrong) in cases.iter().zip(complaints(&files)) {
        assert_eq!(json!(wrong), json!([place]), "{text}");
    }
}
