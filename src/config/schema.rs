//! The configuration as JSON Schema, for editors: forms from the types that read the file, words from the reference.
//!
//! An editor that knows it completes keys, shows what they mean and underlines slips while one types. It is more lenient than
//! `check`, which alone knows limits and what fits together.

use serde_json::{Value, json};

use super::file;
use super::reference::{self, Part};

/// The schema, draft 7, which is what editors of TOML understand.
pub fn schema() -> Value {
    let mut schema = file::schema();
    describe(&mut schema, "", &reference::parts());
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!(concat!("Configuration of Selvedge ", env!("CARGO_PKG_VERSION")));
    schema
}

/// Puts what is said of the keys of the table at `path`, and of the tables in it, where it belongs.
fn describe(schema: &mut Value, path: &str, parts: &[Part]) {
    if let Some(element) = schema.get_mut("items") {
        describe(element, path, parts);
    }
    if let Some(named) = schema.get_mut("additionalProperties") {
        describe(named, &below(path, "*"), parts);
    }
    let mut required = Vec::new();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        let place = below(path, name);
        for part in parts {
            match part {
                Part::Table(table) if table.path == place && !table.text.is_empty() => {
                    property["description"] = json!(table.text.line());
                }
                // The checks of nodes have the keys of a pool's.
                Part::Key(key)
                    if key.name == name
                        && (key.table == path || (path == "dns.health" && key.table == "pool.*.health")) =>
                {
                    if !key.text.is_empty() {
                        property["description"] = json!(key.text.line());
                    }
                    if let Some(value) =
                        Some(key).filter(|key| key.has_default()).and_then(|key| json_of(key.value))
                    {
                        property["default"] = value;
                    }
                    if key.is_required() {
                        required.push(json!(name));
                    }
                }
                _ => {}
            }
        }
        describe(property, &place, parts);
    }
    if !required.is_empty() {
        schema["required"] = Value::Array(required);
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A value in TOML as JSON.
fn json_of(toml: &str) -> Option<Value> {
    let document: toml::Table = toml::from_str(&format!("value = {toml}")).ok()?;
    serde_json::to_value(document.get("value")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the schema with its place.
    fn each_key(schema: &Value, place: &str, look: &mut impl FnMut(&str, &Value)) {
        if schema["items"].is_object() {
            each_key(&schema["items"], place, look);
        }
        if schema["additionalProperties"].is_object() {
            each_key(&schema["additionalProperties"], place, look);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let place = below(place, name);
            look(&place, property);
            each_key(property, &place, look);
        }
    }

    #[test]
    fn nearly_every_key_is_described() {
        let mut silent = Vec::new();
        let mut count = 0;
        each_key(&schema(), "", &mut |place, property| {
            count += 1;
            if property["description"].is_null() {
                silent.push(place.to_owned());
            }
        });
        assert!(count > 150, "{count} keys");
        // Those of inline tables, which the list they stand in explains.
        silent.retain(|place| {
            ![
                "listener.tls.certificates",
                "route.headers",
                "route.query",
                "route.pools",
                "acme.external_account",
            ]
            .iter()
            .any(|list| place.starts_with(list))
        });
        assert!(silent.len() < 8, "without a description: {silent:?}");
    }

    #[test]
    fn defaults_and_what_is_required_come_from_the_reference() {
        let schema = schema();
        let listener = &schema["properties"]["listener"]["items"];
        assert_eq!(listener["required"], json!(["address"]));
        assert_eq!(listener["properties"]["max_connections"]["default"], json!(65536));
        assert_eq!(listener["properties"]["allow"]["default"], json!(["0.0.0.0/0", "::/0"]));
        let pool = &schema["properties"]["pool"]["additionalProperties"]["properties"];
        assert_eq!(pool["balance"]["default"], json!("least_outstanding"));
        assert_eq!(pool["balance"]["enum"][0], json!("round_robin"));
        let health = &schema["properties"]["dns"]["properties"]["health"]["properties"];
        assert_eq!(
            (&health["path"]["default"], &health["interval"]["default"]),
            (&json!("/readyz"), &json!("5s"))
        );
    }
}
