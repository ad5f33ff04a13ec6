//! Dry runs: what a change would do is said, and nothing is done.

use serde_json::{Value, json};

use crate::events::{change, two_zones};
use crate::support::{Client, eventually};

fn share(figures: &Value, zone: usize) -> (f64, f64) {
    let zone = &figures["zones"][zone];
    (zone["share_now"].as_f64().unwrap(), zone["share_then"].as_f64().unwrap())
}

#[tokio::test]
async fn a_dry_run_says_what_becomes_of_a_target_and_leaves_it_alone() {
    let (origins, setup) = two_zones().await;
    let edge = setup.start().await;
    eventually("a session on the first target", async || {
        Client::of(&edge).get("/").await.origin() == "az-a-1"
    })
    .await;
    let sessions = async || {
        let pool: Value = serde_json::from_slice(&edge.admin("/v1/pools/shop").await.body).unwrap();
        pool["targets"][0]["sessions"].as_u64().unwrap()
    };
    let bound = sessions().await;
    assert!(bound > 0);
    let path = format!("/v1/pools/shop/targets/az-a/{}/state", origins[0].address);
    let plan = async |state: &str| {
        let planned = change(&edge, "PUT", &path, &json!({ "state": state, "dry_run": true })).await;
        assert_eq!(planned["done"], false);
        let pool: Value = serde_json::from_slice(&edge.admin("/v1/pools/shop").await.body).unwrap();
        assert_eq!(pool["targets"][0]["admin"], "up", "nothing was done");
        assert_eq!(pool["decisions"], json!([]), "nothing was decided");
        planned["figures"].clone()
    };
    let drain = plan("drain").await;
    assert_eq!(
        (&drain["open_now"], &drain["open_then"], &drain["enough"]),
        (&json!(2), &json!(1), &json!(true))
    );
    assert_eq!((share(&drain, 0), share(&drain, 1)), ((0.5, 0.0), (0.5, 1.0)));
    assert_eq!((&drain["sessions"], &drain["sessions_move"]), (&json!(bound), &json!(0)));
    assert_eq!(drain["deadline_seconds"], 300.0);
    let down = plan("down").await;
    assert_eq!((&down["sessions_move"], &down["deadline_seconds"]), (&json!(bound), &Value::Null));
    let up = plan("up").await;
    assert_eq!((share(&up, 0), &up["open_then"]), ((0.5, 0.5), &json!(2)));

    let other = format!("/v1/pools/shop/targets/az-b/{}/state", origins[1].address);
    change(&edge, "PUT", &other, &json!({ "state": "down" })).await;
    let last = change(&edge, "PUT", &path, &json!({ "state": "down", "dry_run": true })).await;
    assert_eq!(last["figures"]["enough"], false, "nobody would be left");
}

#[tokio::test]
async fn a_dry_run_says_where_a_zones_share_goes_and_how_it_comes_back() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.start().await;
    let shift = "/v1/zones/az-a/shift";
    let out = change(&edge, "PUT", shift, &json!({ "for": "1h", "dry_run": true })).await;
    assert_eq!(share(&out["figures"]["pools"][0], 1), (0.5, 1.0));
    change(&edge, "PUT", shift, &json!({ "for": "1h", "force": true })).await;
    let back = change(&edge, "DELETE", &format!("{shift}?dry_run=true"), &json!({})).await;
    assert_eq!(back["restored"], false);
    assert_eq!(share(&back["figures"]["pools"][0], 0), (0.0, 0.5));
    assert_eq!(back["figures"]["pools"][0]["sessions"], 0, "nobody moves back at once");
    let restored = change(&edge, "DELETE", shift, &json!({})).await;
    assert_eq!(restored, json!({ "zone": "az-a", "restored": true }), "it was out until now");
}
