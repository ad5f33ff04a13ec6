//! The manifests in `config/kubernetes`: as Kubernetes wants them, consistent with each other, and with a configuration that runs.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::programs::{folder, myclothes, python, selvedge};

/// All resources, after they have been held against Kubernetes' schemas.
fn resources() -> Vec<Value> {
    let files: Vec<String> = std::fs::read_dir(folder("config/kubernetes"))
        .unwrap()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.ends_with(".yaml") && !path.ends_with("kustomization.yaml"))
        .collect();
    assert!(files.len() >= 4, "some manifests are found: {files:?}");
    let text = python("manifests.py", &files.iter().map(String::as_str).collect::<Vec<_>>());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_kind<'r>(resources: &'r [Value], kind: &'r str) -> impl Iterator<Item = &'r Value> {
    resources.iter().filter(move |resource| resource["kind"] == kind)
}

#[test]
fn the_manifests_are_valid_and_name_each_other_rightly() {
    let resources = resources();
    let labels: Vec<_> = of_kind(&resources, "Deployment")
        .map(|deployment| {
            let own = &deployment["spec"]["selector"]["matchLabels"];
            assert_eq!(own, &deployment["spec"]["template"]["metadata"]["labels"], "{deployment}");
            own.as_object().unwrap()
        })
        .collect();
    assert_eq!(labels.len(), 2);
    let kinds = ["Service", "PodDisruptionBudget"];
    for resource in kinds.into_iter().flat_map(|kind| of_kind(&resources, kind)) {
        let selector = &resource["spec"]["selector"];
        let selector = selector.get("matchLabels").unwrap_or(selector).as_object().unwrap();
        let is_chosen = |labels: &&serde_json::Map<String, Value>| {
            selector
                .iter()
                .filter(|(name, _)| !name.starts_with("topology"))
                .all(|(name, value)| labels.get(name) == Some(value))
        };
        assert!(labels.iter().any(is_chosen), "nothing has the labels of {resource}");
    }
    let scaled: BTreeSet<&str> = of_kind(&resources, "HorizontalPodAutoscaler")
        .map(|scaler| scaler["spec"]["scaleTargetRef"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(scaled, BTreeSet::from(["edge", "shop"]));
}

#[test]
fn each_tier_is_reached_by_the_tier_before_it_only() {
    let resources = resources();
    let policy = |name: &str| {
        of_kind(&resources, "NetworkPolicy").find(|policy| policy["metadata"]["name"] == name).unwrap()["spec"].clone()
    };
    let nobody = policy("nobody");
    assert_eq!(
        (nobody["podSelector"].to_string().as_str(), nobody.get("ingress")),
        ("{}", None),
        "without a rule, nobody"
    );
    let from = |name: &str| policy(name)["ingress"].to_string();
    assert!(
        from("shop").contains("\"edge\"") && !from("shop").contains("namespaceSelector"),
        "{}",
        from("shop")
    );
    for store in ["postgresql", "redis"] {
        assert!(from(store).contains("\"shop\"") && !from(store).contains("\"edge\""), "{}", from(store));
    }
    // Anybody: a rule that names ports, and no senders.
    let anybody = policy("edge")["ingress"][0].clone();
    assert_eq!((anybody.get("from"), anybody["ports"][0]["port"].as_str()), (None, Some("http")));
}

#[test]
fn the_shop_keeps_nothing_to_itself_and_may_ask_whom_it_is_told_to_ask() {
    let resources = resources();
    let named = |kind: &'static str| {
        of_kind(&resources, kind).find(|resource| resource["metadata"]["name"] == "shop").unwrap()
    };
    let pod = &named("Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod.get("volumes"), None, "whatever is in one ends with its instance");
    let container = &pod["containers"][0];
    let args = container["args"].as_array().unwrap();
    let args: Vec<&str> = args.iter().map(|arg| arg.as_str().unwrap()).collect();
    let output = myclothes(&[&args[..], &["--help"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let value_of = |option| args[args.iter().position(|arg| *arg == option).unwrap() + 1];
    for (option, name, port) in [("--database", "postgresql", 5432), ("--carts", "redis", 26379)] {
        let (_, rest) = value_of(option).split_once("://").unwrap();
        let servers = rest.split('/').next().unwrap().rsplit('@').next().unwrap();
        for server in servers.split(',') {
            assert!(server.contains(&format!(".{name}")), "{server} is in the service {name}");
            let asked = server.split_once(':').map_or(port, |(_, written)| written.parse().unwrap());
            assert_eq!(asked, port, "{server}");
        }
        let rules = named("NetworkPolicy")["spec"]["egress"].as_array().unwrap();
        let rule = rules.iter().find(|rule| rule["to"].to_string().contains(&format!("\"{name}\""))).unwrap();
        let mut ports = rule["ports"].as_array().unwrap().iter();
        assert!(ports.any(|allowed| allowed["port"] == port), "{name}: {rule}");
    }
    let made = std::fs::read_to_string(folder("config/kubernetes/kustomization.yaml")).unwrap();
    let secrets = container["env"].as_array().unwrap().iter();
    let secrets: Vec<_> = secrets.filter_map(|variable| variable["valueFrom"].get("secretKeyRef")).collect();
    assert_eq!(secrets.len(), 2);
    for secret in secrets {
        let [name, key] = ["name", "key"].map(|what| secret[what].as_str().unwrap());
        let mut lines = made.lines().filter(|line| line.contains(&format!("create secret generic {name} ")));
        assert!(lines.any(|line| line.contains(&format!("--from-file={key}"))), "nobody makes {secret}");
    }
}

#[test]
fn the_configuration_in_the_manifests_passes_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let keys = selvedge(&["keys", "new"]).stdout;
    std::fs::write(folder.path().join("session.keys"), keys).unwrap();
    std::fs::write(folder.path().join("admin.token"), "0123456789abcdef0123456789abcdef").unwrap();
    let resources = resources();
    let maps: Vec<_> = of_kind(&resources, "ConfigMap").collect();
    assert_eq!(maps.len(), 1);
    let text = maps[0]["data"]["selvedge.toml"].as_str().unwrap();
    let text = text.replace("/etc/selvedge-keys", folder.path().to_str().unwrap());
    let file = folder.path().join("selvedge.toml");
    std::fs::write(&file, text).unwrap();
    let output = selvedge(&["check", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
