//! The pages themselves: their configurations pass the check, their links lead somewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::{folder, selvedge};

/// README.md and everything in docs/: where it is, and its text.
pub(crate) fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(folder("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    paths.push(folder("README.md"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The blocks of a page that are of this language.
pub(crate) fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// A block of TOML with what pages leave out, so that it is a whole configuration: a listener, the pools that routes lead to,
/// targets for pools without any, and the files it names.
pub(crate) fn completed(block: &str, folder: &Path) -> String {
    let mut text = block.to_owned();
    if !text.contains("[[listener]]") {
        text = format!("{text}\n[[listener]]\naddress = \"127.0.0.1:8080\"\n");
    }
    let document: toml::Table = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let none = toml::Table::new();
    let pools = document.get("pool").and_then(toml::Value::as_table).unwrap_or(&none);
    let mut names: Vec<String> = pools.keys().cloned().collect();
    for route in document.get("route").and_then(toml::Value::as_array).into_iter().flatten() {
        let one = route.get("pool").and_then(toml::Value::as_str);
        let several = route.get("pools").and_then(toml::Value::as_array).into_iter().flatten();
        names.extend(
            one.into_iter().chain(several.map(|pool| pool["pool"].as_str().unwrap())).map(str::to_owned),
        );
    }
    names.sort();
    names.dedup();
    for name in names {
        let has = |list: &str| pools.get(&name).is_some_and(|pool| pool.get(list).is_some());
        if !has("target") && !has("discover") {
            text += &format!("\n[[pool.{name}.target]]\naddress = \"127.0.1.1:9001\"\n");
        }
    }
    for file in ["session.keys", "admin.token"] {
        if text.contains(file) {
            let key = selvedge(&["keys", "new"]).stdout;
            std::fs::write(folder.join(file), key).unwrap();
        }
    }
    text
}

#[test]
fn every_configuration_in_the_documents_passes_the_check() {
    let mut found = 0;
    for (page, text) in pages() {
        for block in blocks(&text, "toml") {
            found += 1;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("selvedge.toml");
            std::fs::write(&file, completed(block, folder.path())).unwrap();
            let output = selvedge(&["check", "--config", file.to_str().unwrap()]);
            let said = String::from_utf8_lossy(&output.stderr);
            // That one is shown to be good where there is the feature, by `tests/otlp.rs`.
            let lacks = block.contains("[otlp]") && !cfg!(feature = "otlp");
            let expected = if lacks { 78 } else { 0 };
            assert_eq!(output.status.code(), Some(expected), "{}:\n{block}\n{said}", page.display());
            assert_eq!(said.contains("without the feature"), lacks, "{said}");
        }
    }
    assert!(found >= FEWEST_CONFIGURATIONS, "{found} configurations are found");
}

/// Fewer would say that they are not found, or not written any more.
const FEWEST_CONFIGURATIONS: usize = 7;

#[test]
fn what_the_documents_give_to_prometheus_is_understood() {
    let scratch = tempfile::tempdir().unwrap();
    let mut found = 0;
    for (page, text) in pages() {
        for block in blocks(&text, "yaml").into_iter().filter(|block| block.contains("scrape_configs:")) {
            found += 1;
            let file = scratch.path().join("prometheus.yml");
            std::fs::write(&file, block).unwrap();
            let output = Command::new("promtool").args(["check", "config"]).arg(&file).output();
            let output = output.expect("promtool is installed: see tests/run.sh");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {block}\n{said}", page.display());
        }
    }
    assert_eq!(found, 1);
}

#[test]
fn the_configurations_of_other_proxies_are_such() {
    let mut found = [0; 2];
    let scratch = tempfile::tempdir().unwrap();
    let judge = |text: &str, command: &str, arguments: &[&str]| {
        let file = scratch.path().join("proxy.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(command);
        // Debian keeps what only the administrator needs where not everybody looks.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
        let output = command.args(arguments).arg(&file).output().expect("installed by tests/run.sh");
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    for (_, text) in pages() {
        for block in blocks(&text, "haproxy") {
            found[0] += 1;
            // Which wants an end of the last line.
            judge(&format!("{block}\n"), "haproxy", &["-c", "-q", "-f"]);
        }
        for block in blocks(&text, "nginx") {
            found[1] += 1;
            let folder = scratch.path().display();
            let whole = format!(
                "pid {folder}/pid;\nerror_log {folder}/log;\nevents {{}}\nhttp {{\naccess_log off;\n{block}\n}}\n"
            );
            judge(&whole, "nginx", &["-t", "-q", "-e", "stderr", "-c"]);
        }
    }
    assert_eq!(found, [1, 1]);
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let mut found = 0;
    for (page, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('<')) {
            found += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let there = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(there.exists(), "{}: there is no {target}", page.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(&there).unwrap();
                let anchors: Vec<_> = text.lines().filter_map(anchor_of).collect();
                assert!(anchors.iter().any(|a| a == anchor), "{}: there is no {target}", page.display());
            }
        }
    }
    assert!(found >= 10, "{found} links are found");
}

#[test]
fn drawings_can_be_read_in_dark_and_light_and_by_who_does_not_see_them() {
    let files = std::fs::read_dir(folder("docs/drawings")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for part in ["prefers-color-scheme: dark", "<title ", "<desc ", "role=\"img\""] {
            assert!(text.contains(part), "{} has no {part}", file.display());
        }
        assert!(!text.contains("href") && !text.contains("<script"), "{} stands alone", file.display());
        let shown =
            pages().into_iter().any(|(_, page)| page.contains(file.file_name().unwrap().to_str().unwrap()));
        assert!(shown, "{} is shown somewhere", file.display());
    }
}

/// What a heading is called in links.
pub(crate) fn anchor_of(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = title
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
        .collect::<String>();
    Some(kept.replace(' ', "-"))
}
