//! What is refused, where, and what is made of a file that is not.

use super::*;

/// Everything that is wrong with `text`: `LINE KEY` of each.
fn places(text: &str) -> Vec<String> {
    let problems = compile(text, Path::new("/nowhere"), &Overrides::default()).unwrap_err();
    problems.iter().map(|p| format!("{} {}", p.line.unwrap_or(0), p.key)).collect()
}

#[test]
fn lines_and_keys_point_at_the_mistake() {
    let text = r#"
workers = "many"
[[listener]]
address = "127.0.0.1"
allow = [
  "10.0.0.0/8",
  "ten",
]
[[listener]]
addres = "127.0.0.1:1"
[[route]]
pool = "shop"
[pool."a b"]
[pool.shop.health]
interval = 5
[[pool.shop.target]]
address = "127.0.0.1:9001"
[[pool.shop.target]]
address = "127.0.0.1:9001"
weight = 300
"#;
    assert_eq!(
        places(text),
        [
            "2 workers",
            "4 listener[0].address",
            "7 listener[0].allow[1]",
            "9 listener[1].address",
            "10 listener[1].addres",
            "13 pool.\"a b\"",
            "13 pool.\"a b\"",
            "15 pool.shop.health.interval",
            "19 pool.shop.target[1].address",
            "20 pool.shop.target[1].weight",
        ]
    );
}
