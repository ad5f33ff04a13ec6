//! Who is in a pool as lists change and checks come in.

use super::*;

fn name() -> Source {
    Source::Dns("SRV shop".into())
}

fn control() -> PoolControl {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npool = \"shop\"\n\
                [[pool.shop.target]]\naddress = \"127.0.0.1:1\"\nzone = \"az-a\"\n";
    std::fs::write(&file, text).unwrap();
    let config = config::Config::load(&file, &config::Overrides::default()).unwrap();
    let pools = Arc::new(Pools::new(1));
    PoolControl::new(pools.pool(&config.pools[0]), config.pools[0].clone(), &pools, None, Rc::default())
}

fn listed(port: u16) -> Listed {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    Listed { zone: "az-a".into(), address, weight: 1, max_connections: None, priority: 0 }
}

/// `record`s the result of a check of the target with this port.
fn checked(control: &PoolControl, port: u16, passed: bool) {
    let id = TargetId::of("shop", "az-a", listed(port).address);
    let took = Duration::from_millis(1);
    control.record(id, Probed { at: SystemTime::now(), took, passed, drain: false, what: String::new() });
}

/// Ports and statuses in the published snapshot.
fn shown(control: &PoolControl) -> Vec<(u16, Status)> {
    let snapshot = control.pool().snapshot();
    snapshot.targets.iter().map(|target| (target.state.address.port(), target.status)).collect()
}

#[test]
fn a_target_that_came_waits_for_its_check_and_one_that_went_drains_once_it_is_relieved() {
    let control = control();
    control.set_source(&name(), vec![listed(2), listed(3)]);
    [1, 2, 3].into_iter().for_each(|port| checked(&control, port, true));
    use Status::{Draining, Healthy, Initial};
    assert_eq!(shown(&control), [(1, Healthy), (2, Healthy), (3, Healthy)]);
    control.set_source(&name(), vec![listed(4)]);
    assert_eq!(shown(&control), [(1, Healthy), (2, Healthy), (3, Healthy), (4, Initial)]);
    checked(&control, 4, true);
    assert_eq!(shown(&control), [(1, Healthy), (2, Draining), (3, Draining), (4, Healthy)]);
    let snapshot = control.pool().snapshot();
    assert!(snapshot.targets.iter().all(|target| target.keeps.any()));
    let departure = control.next_departure().unwrap().saturating_duration_since(Instant::now());
    assert!(departure > Duration::from_secs(240), "{departure:?}");
}

#[test]
fn a_target_that_returns_is_what_it_was() {
    let control = control();
    control.set_source(&name(), vec![listed(2), listed(3)]);
    [2, 3].into_iter().for_each(|port| checked(&control, port, true));
    let state = control.pool().snapshot().targets[1].state.clone();
    control.set_source(&name(), vec![listed(3)]);
    assert_eq!(shown(&control)[1], (2, Status::Draining));
    control.set_source(&name(), vec![listed(3), listed(2)]);
    assert_eq!(shown(&control)[1], (2, Status::Healthy));
    assert!(Arc::ptr_eq(&state, &control.pool().snapshot().targets[1].state));
    assert_eq!(control.next_departure(), None);
}

#[test]
fn a_target_that_cannot_serve_leaves_as_soon_as_it_is_not_listed() {
    let control = control();
    control.set_source(&name(), vec![listed(2), listed(3), listed(4)]);
    checked(&control, 2, true);
    checked(&control, 3, false);
    checked(&control, 3, false);
    control.set_source(&name(), vec![listed(2)]);
    assert_eq!(shown(&control), [(1, Status::Initial), (2, Status::Healthy)]);
    control.set_source(&name(), vec![]);
    assert_eq!(shown(&control)[1], (2, Status::Draining));
    checked(&control, 2, false);
    checked(&control, 2, false);
    assert_eq!(shown(&control), [(1, Status::Initial)]);
}

#[test]
fn priorities_step_in_for_each_other() {
    let control = control();
    let of = |port, priority| Listed { priority, ..listed(port) };
    control.set_source(&name(), vec![of(2, 10), of(3, 20)]);
    [1, 2, 3].into_iter().for_each(|port| checked(&control, port, true));
    use Status::{Healthy, Standby, Unhealthy};
    assert_eq!(shown(&control), [(1, Healthy), (2, Healthy), (3, Standby)]);
    checked(&control, 2, false);
    checked(&control, 2, false);
    assert_eq!(shown(&control), [(1, Healthy), (2, Unhealthy), (3, Healthy)]);
}

#[test]
fn what_a_node_begins_with_must_be_known_and_what_comes_later_need_not() {
    let control = control();
    assert!(control.known().unwrap_err().contains("has not been checked yet"));
    checked(&control, 1, false);
    assert_eq!(control.known(), Ok(()));
    control.set_source(&name(), vec![listed(2)]);
    assert_eq!(control.known(), Ok(()));
}
