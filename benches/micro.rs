//! `cargo bench --bench micro`: the steps of a request that no socket is needed for, one by one.
//!
//! Session cookies sealed and opened, routes looked up, targets picked. A whole request takes some 20 µs, so what is
//! seen here in nanoseconds matters when it grows with the number of routes or targets. What a request costs in all is
//! measured by the bench `peers`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use selvedge::config::{Balance, Config, KeyRing, Overrides};
use selvedge::pool::{Member, Snapshot, TargetId, TargetState};
use selvedge::proxy::balance::{Choice, Pick};
use selvedge::proxy::request::Head;
use selvedge::proxy::route::RouteTable;
use selvedge::proxy::session::{self, Bond};

criterion_group! {
    name = steps;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = sessions, routes, picks
}
criterion_main!(steps);

fn sessions(criterion: &mut Criterion) {
    let ring = KeyRing::generate();
    let bond = Bond {
        target: TargetId(7),
        home: TargetId(7),
        session: 11,
        born: 1_700_000_000,
        seen: 1_700_000_100,
    };
    let text = session::seal(&ring, "shop", &bond, [5; 12]);
    let mut forged = text;
    forged[40] ^= 1;
    let mut group = criterion.benchmark_group("session");
    group.bench_function("seal", |bencher| {
        bencher.iter(|| session::seal(&ring, "shop", black_box(&bond), black_box([5; 12])));
    });
    group.bench_function("open", |bencher| {
        bencher.iter(|| session::open(&ring, "shop", black_box(&text)));
    });
    group.bench_function("open, forged", |bencher| {
        bencher.iter(|| session::open(&ring, "shop", black_box(&forged)));
    });
    group.finish();
}

/// The last route of a table is looked up, which is the worst place: equally long paths are tried in the file's order.
fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    let source = [192, 0, 2, 1].into();
    for count in [1, 100, 1000] {
        let last = count - 1;
        let by_host = table(count, |number| format!("host = \"shop-{number}.test\""));
        let by_path = table(count, |number| format!("path = \"/department/{number:04}\""));
        let shapes = [
            ("one host each", by_host, format!("shop-{last}.test"), "/".to_owned()),
            ("paths of one host", by_path, "shop.test".to_owned(), format!("/department/{last:04}/item")),
        ];
        for (shape, table, host, path) in shapes {
            let head = head(&host, &path);
            assert!(table.find(&head, source).is_some(), "{shape}: no route for {host}{path}");
            group.bench_function(BenchmarkId::new(shape, count), |bencher| {
                bencher.iter(|| black_box(&table).find(black_box(&head), source).is_some());
            });
        }
    }
    group.finish();
}

/// Targets of three zones, all healthy, none loaded.
fn picks(criterion: &mut Criterion) {
    let pool = config("[[route]]\npool = \"shop\"\n").pools[0].clone();
    let mut group = criterion.benchmark_group("pick");
    for count in [3u32, 30, 300] {
        let snapshot = Snapshot::build(&pool, None, (0..count).map(member).collect());
        let bound = bond(snapshot.targets[0].state.id);
        let lost = bond(TargetId::of("shop", "az-a", ([127, 0, 9, 9], 9001).into()));
        let cases = [
            ("round robin", Balance::RoundRobin, None),
            ("least outstanding", Balance::LeastOutstanding, None),
            ("bound session", Balance::LeastOutstanding, Some(&bound)),
            ("re-homed session", Balance::LeastOutstanding, Some(&lost)),
        ];
        for (case, balance, bond) in cases {
            let choice = Choice {
                snapshot: &snapshot,
                balance: &balance,
                key: None,
                bond,
                may_return: false,
                tried: &[],
                may_hesitate: false,
                ahead: 0,
                counts: true,
            };
            let mut turn = 0usize;
            group.bench_function(BenchmarkId::new(case, count), |bencher| {
                bencher.iter(|| {
                    turn = turn.wrapping_add(1);
                    let random = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let pick = choice.pick(turn, random);
                    let Pick::Target { index, .. } = pick else { panic!("no target: {pick:?}") };
                    // Given back at once, as if the answer had come.
                    snapshot.targets[index].state.end();
                    index
                });
            });
        }
    }
    group.finish();
}

fn bond(target: TargetId) -> Bond {
    Bond { target, home: target, session: 11, born: 0, seen: 0 }
}

fn member(number: u32) -> Member {
    let zone = ["az-a", "az-b", "az-c"][number as usize % 3];
    let address = ([127, 0, (number >> 8) as u8, number as u8], 9001).into();
    let id = TargetId::of("shop", zone, address);
    Member::in_service(Arc::new(TargetState::new(id, zone.into(), address, 1)))
}

/// A table of `count` routes; `condition` is the line that tells them apart.
fn table(count: usize, condition: impl Fn(usize) -> String) -> RouteTable {
    let routes: String =
        (0..count).map(|number| format!("[[route]]\n{}\npool = \"shop\"\n", condition(number))).collect();
    RouteTable::new(&config(&routes).routes)
}

/// A checked configuration with these routes and one pool, `shop`.
fn config(routes: &str) -> Config {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("selvedge.toml");
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let pool = "[[pool.shop.target]]\naddress = \"127.0.0.1:9001\"\n";
    std::fs::write(&file, format!("{listener}{routes}{pool}")).expect("a configuration file");
    Config::load(&file, &Overrides::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn head(host: &str, path: &str) -> Head {
    Head::get(host.parse().expect("a host"), path.parse().expect("a path"))
}
