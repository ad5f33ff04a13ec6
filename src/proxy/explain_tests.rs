//! What is explained is what happens: in 10 000 random states of zones, targets and cookies, a request decided as
//! `exchange` decides it goes where `explain` has said just before.
//!
//! The same with the real program, in fewer states, is in `tests/edge/explain.rs`.

use std::rc::Rc;
use std::time::Instant;

use super::*;
use crate::config::{self, KeyRing, Overrides};
use crate::pool::{AdminState, Duty, Failure, HealthState, Member, Pools, Stay, TargetId, ZoneOut};
use crate::proxy::plan::{Plan, PoolPlan};
use crate::proxy::session::CookieForm;
use crate::proxy::worker::{PoolWorker, Worker};

/// Two pools on one host, and one alone on another, with these lines for each pool.
fn config(zone: &str, lines: &str) -> Arc<Config> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    let target = "[[pool.NAME.target]]\naddress = \"127.0.0.1:1\"\n";
    let pools = ["a", "b"].map(|name| format!("[pool.{name}]\n{lines}\n{}", target.replace("NAME", name)));
    let text = format!(
        "{zone}\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\nhost = \"one.test\"\npool = \"a\"\n\
         [[route]]\nhost = \"two.test\"\npools = [{{ pool = \"a\", weight = 1 }}, {{ pool = \"b\", weight = 3 }}]\n{}",
        pools.concat()
    );
    std::fs::write(&file, text).unwrap();
    Arc::new(Config::load(&file, &Overrides::default()).unwrap_or_else(|errors| panic!("{errors}")))
}

/// Every policy, mode and kind of stickiness, in several places.
fn configs() -> Vec<Arc<Config>> {
    let balance = ["round_robin", "least_outstanding", "peak_ewma", "hash\"\nhash_on = \"path"];
    let stickiness = ["off", "lb_cookie\"\nstickiness.failback = \"always", "lb_cookie"];
    let mut all = Vec::new();
    for (number, mode) in ["even", "local", "spill"].into_iter().cycle().take(24).enumerate() {
        let zone = if mode == "even" && number % 2 == 1 { "" } else { "zone = \"z1\"" };
        let (balance, stickiness) = (balance[number % 4], stickiness[number / 4 % 3]);
        all.push(config(
            zone,
            &format!("balance = \"{balance}\"\nstickiness.mode = \"{stickiness}\"\nzones.mode = \"{mode}\""),
        ));
    }
    all
}

/// Random numbers below a bound.
struct Dice(Random);

impl Dice {
    fn below(&self, bound: u64) -> u64 {
        self.0.next() % bound
    }

    fn one<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A target in a random state: in service more often than not.
fn member(dice: &Dice, pools: &Pools, pool: &str, host: u8) -> Member {
    use {AdminState as A, Duty as D, HealthState as H, Stay as S};
    let zone = dice.one(&["z1", "z2", "z3"]);
    let state = pools.state(pool, &zone.into(), ([127, 0, 0, host], 9001).into());
    state.answered();
    state.conduct.pardon(2);
    if dice.below(10) == 0 {
        (0..2).for_each(|_| {
            state.conduct.break_off(Failure::Connect, Instant::now());
        });
    }
    Member {
        weight: dice.one(&[1, 1, 2, 3, 0]),
        max_connections: dice.one(&[u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0, 1]),
        health: dice.one(&[
            H::Healthy,
            H::Healthy,
            H::Healthy,
            H::Healthy,
            H::Healthy,
            H::Unhealthy,
            H::Initial,
        ]),
        admin: dice.one(&[A::Up, A::Up, A::Up, A::Up, A::Up, A::Up, A::Drain, A::Drained, A::Down]),
        duty: dice.one(&[D::Serving, D::Serving, D::Serving, D::Serving, D::Serving, D::Standby, D::Leaving]),
        ejected: dice.one(&[
            None,
            None,
            None,
            None,
            None,
            None,
            Some(S::Here),
            Some(S::Elsewhere),
            Some(S::Moves),
        ]),
        ..Member::in_service(state)
    }
}

/// The cookie of a request: none, a good one, an old one, one of the other pool, or nonsense.
fn cookie(dice: &Dice, ring: &KeyRing, pool: &str, targets: &[TargetId], now: u64) -> Option<String> {
    let target = || match dice.below(8) {
        0 => TargetId(dice.0.next()),
        _ => dice.one(targets),
    };
    let (mut born, mut seen) = (now - 1000, now - dice.below(900));
    let mut sealed_for = pool;
    match dice.below(10) {
        0 => return None,
        1 => return Some("nonsense".to_owned()),
        2 => (born, seen) = (now - 3_000_000, now - 2_000_000),
        3 => born = now - 2_000_000,
        4 => sealed_for = if pool == "a" { "b" } else { "a" },
        _ => {}
    }
    let (target, home) = (target(), target());
    let bond = Bond { target, home, session: dice.0.next(), born: born as u32, seen: seen as u32 };
    let mut text = session::seal(ring, sealed_for, &bond, [dice.below(256) as u8; 12]).to_vec();
    if dice.below(10) == 0 {
        let at = 40 + dice.below(20) as usize;
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
    }
    Some(String::from_utf8(text).unwrap())
}

/// One random state, and a request in it.
struct State<'a> {
    config: &'a Arc<Config>,
    shared: Arc<Pools>,
    pools: Vec<Arc<Pool>>,
    query: Query,
}

impl<'a> State<'a> {
    fn random(config: &'a Arc<Config>, dice: &Dice) -> Self {
        let shared = Arc::new(Pools::new(1));
        let pools: Vec<_> = config.pools.iter().map(|pool| shared.pool(pool)).collect();
        let mut targets = Vec::new();
        for (pool, of) in pools.iter().zip(&config.pools) {
            let hosts = 1..=dice.below(8) as u8 + 1;
            let mut members: Vec<_> = hosts.map(|host| member(dice, &shared, &pool.name, host)).collect();
            let out = dice.one(&["", "", "z1", "z2"]);
            let zone_out =
                ZoneOut { moved: dice.one(&[1.0, 1.0, 0.5]), trickle: dice.one(&[0.0, 0.0, 0.05]) };
            members.iter_mut().filter(|member| &*member.state.zone == out).for_each(|member| {
                member.zone_out = Some(zone_out);
            });
            targets.push(members.iter().map(|member| member.state.id).collect::<Vec<_>>());
            pool.publish(Snapshot::build(of, config.zone.as_ref(), members));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let of = dice.below(2) as usize;
        let query = Query {
            host: dice.one(&["one.test", "two.test"]).to_owned(),
            path: format!("/{}", dice.below(50)),
            method: "GET".to_owned(),
            headers: Vec::new(),
            cookie: cookie(dice, &config.session_keys.ring, &config.pools[of].name, &targets[of], now),
            source: None,
            listener: None,
        };
        Self { config, shared, pools, query }
    }

    fn in_flight(&self) -> u32 {
        let all = self.pools.iter().map(|pool| pool.snapshot());
        all.map(|snapshot| snapshot.targets.iter().map(|target| target.state.in_flight()).sum::<u32>()).sum()
    }

    /// Decides as `exchange` does, with what a worker has, and compares: the code of the decision, and whether there was no
    /// choice. `None` if weight has chosen another pool than it did for `trace`.
    fn follow(&self, trace: &Trace, dice: &Dice) -> Option<(String, bool)> {
        let config = self.config;
        let worker = Worker::new(0, self.shared.clone(), config.clone(), None, None);
        let plan = plan(config, &self.pools);
        let head = head(&self.query, config).unwrap();
        let source = Ipv4Addr::LOCALHOST.into();
        let route = plan.routes.find(&head, source).unwrap();
        assert_eq!(trace.route.as_deref(), Some(&*route.name));
        let Action::Pools(choices) = &route.action else { panic!("all lead to pools") };
        let session = Session::read(&worker, &plan, choices, &head);
        let name = |pool: usize| Some(&*config.pools[pool].name);
        if session.bond.is_none() && choices.len() > 1 {
            assert!(choices.iter().any(|choice| name(choice.pool) == trace.pool.as_deref()), "{trace}");
            assert!(!trace.rounds[0].certain);
        }
        if trace.pool.as_deref() != name(session.pool) {
            return None;
        }
        let verdict = session.verdict().map_or("off", Verdict::as_str);
        assert_eq!(trace.session.as_ref().unwrap().verdict, verdict, "{trace}");
        let pool = plan.pool(session.pool);
        let view = pool.view();
        let choice = Choice {
            snapshot: &view.snapshot,
            balance: &pool.config.balance,
            key: balance::key(&pool.config.balance, &head, source),
            bond: session.bond.as_ref(),
            may_return: session.may_return,
            tried: &[],
            may_hesitate: false,
            ahead: 0,
            counts: true,
        };
        let pick = choice.pick(dice.0.next() as usize, dice.0.next());
        let [round] = &*trace.rounds else { panic!("one round: {trace}") };
        let went = match pick {
            Pick::Target { index, .. } => Some(view.snapshot.targets[index].state.name.clone()),
            _ => None,
        };
        if let Some(name) = &went {
            assert!(round.candidates.iter().any(|one| one.target == *name), "{name}\n{trace}");
            assert!(round.left_out.iter().all(|one| one.target != *name), "{name}\n{trace}");
        }
        let certain = round.certain || went.is_none();
        let code = choice.decision(pick, Place::new(&pool.config, config.zone.as_ref())).to_string();
        if certain {
            assert_eq!((&round.pick, &round.code), (&went, &code), "{trace}");
        }
        Some((code, certain))
    }
}

#[test]
fn a_request_goes_where_explain_has_said_in_ten_thousand_states() {
    let (configs, dice) = (configs(), Dice(Random::seeded(7)));
    let mut seen = std::collections::BTreeMap::new();
    let mut without_choice = 0;
    for number in 0..10_000 {
        let state = State::random(&configs[number % configs.len()], &dice);
        let trace = explain(&state.query, state.config, &state.pools).unwrap();
        assert_eq!(state.in_flight(), 0, "explaining counts nothing");
        if let Some((code, certain)) = state.follow(&trace, &dice) {
            without_choice += u32::from(certain);
            *seen.entry(code).or_insert(0) += 1;
        }
    }
    assert!(without_choice > 4000, "{without_choice}");
    // All that can be decided was decided, or the states are not what they should be.
    for code in
        ["new/any", "new/near", "new/none_near", "new/spilled", "bound/session", "bound:draining/session"]
    {
        assert!(seen.contains_key(code), "{code} is not in {seen:?}");
    }
    for code in ["moved:gone/any", "moved:down/same", "moved:shifted/other", "returned/session", "nobody/any"]
    {
        assert!(seen.contains_key(code), "{code} is not in {seen:?}");
    }
    for begin in ["lent:", "full", "moved:unhealthy", "moved:ejected", "moved:drained"] {
        assert!(seen.keys().any(|code| code.starts_with(begin)), "{begin} is not in {seen:?}");
    }
}

fn plan(config: &Arc<Config>, pools: &[Arc<Pool>]) -> Plan {
    let of = |(config, shared): (&Arc<config::Pool>, &Arc<Pool>)| PoolPlan {
        cookie: CookieForm::new(&config.stickiness),
        config: config.clone(),
        pool: Rc::new(PoolWorker::new(shared.clone(), config, 0)),
    };
    Plan {
        routes: Arc::new(RouteTable::new(&config.routes)),
        pools: config.pools.iter().zip(pools).map(of).collect(),
        config: config.clone(),
    }
}

#[test]
fn a_query_that_is_no_request_says_what_is_wrong() {
    let config = config("", "");
    let shared = Pools::new(1);
    let pools: Vec<_> = config.pools.iter().map(|pool| shared.pool(pool)).collect();
    let good = || -> Query { serde_json::from_str("{\"host\":\"one.test\"}").unwrap() };
    assert!(explain(&good(), &config, &pools).is_ok());
    for (query, field) in [
        (Query { host: "a b".to_owned(), ..good() }, "host"),
        (Query { host: String::new(), ..good() }, "host"),
        (Query { path: "cart".to_owned(), ..good() }, "path"),
        (Query { path: "/a b".to_owned(), ..good() }, "path"),
        (Query { method: "CONNECT".to_owned(), ..good() }, "method"),
        (Query { method: "G T".to_owned(), ..good() }, "method"),
        (Query { headers: vec![("a b".to_owned(), String::new())], ..good() }, "headers"),
        (Query { headers: vec![("a".to_owned(), "\n".to_owned())], ..good() }, "headers"),
        (Query { cookie: Some("a\nb".to_owned()), ..good() }, "cookie"),
    ] {
        assert_eq!(explain(&query, &config, &pools).unwrap_err().field, field, "{query:?}");
    }
    let lost = explain(&Query { host: "none.test".to_owned(), ..good() }, &config, &pools).unwrap();
    assert_eq!(lost.lines(), ["route: none matches: answered 404"]);
}
