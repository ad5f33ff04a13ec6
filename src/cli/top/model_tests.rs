//! Keys and news, and what the screen looks like then.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::super::screen;
use super::*;

fn picture(shifted: bool) -> Picture {
    let target = |zone: &str, number: u8, status: &str, reason: &str| {
        json!({
            "name": format!("{zone}/127.0.{number}.1:9001"), "zone": zone, "address": format!("127.0.{number}.1:9001"),
            "weight": 1, "status": status, "in_flight": 3, "takes_new": status == "healthy", "keeps_bound": true,
            "reason": reason, "attempts": 100, "sessions": 7, "first_byte_ms": { "p50": 1.25, "p99": 40.0 },
            "drain": if status == "draining" { json!({ "by": "operator" }) } else { Value::Null },
        })
    };
    let zone = |name: &str, state: &str| {
        json!({
            "name": name, "requests": 100, "share": if state == "ok" { 50.0 } else { 0.0 }, "state": state, "sessions": 7,
            "in_flight": 3, "left_seconds": if state == "ok" { Value::Null } else { json!(3599.0) },
            "reason": if state == "ok" { Value::Null } else { json!("a drill") }, "evacuated": 40.0,
        })
    };
    let picture = json!({
        "node": { "zone": "az-a", "phase": "serving", "uptime_seconds": 7300.0, "connections_open": 12,
            "config": { "generation": 3, "restart_needed": [], "last_reload": { "at": "2026-01-02T03:04:05Z",
                "problems": ["selvedge.toml:1: zone: no"] } } },
        "pools": [{
            "name": "shop", "balance": "peak_ewma", "panic": false, "waiting": 2, "live": 6, "requests": 200,
            "zones": [zone("az-a", "ok"), zone("az-b", if shifted { "shifted" } else { "ok" })],
            "targets": [target("az-a", 1, "healthy", "checks pass: 200"), target("az-b", 2, "draining", "drained by the operator")],
            "discovery": [{ "question": "A shop.test:9001", "targets": ["az-a/127.0.1.1:9001"], "error": null,
                "answer": { "targets": 1, "ttl_seconds": 60.0, "age_seconds": 5.0 } }],
            "decisions": [{ "at": "2026-01-02T03:04:05.678Z", "subject": "az-b/127.0.2.1:9001", "what": "drain",
                "reason": "the operator set it from up to drain" }],
        }],
        "dns": { "domain": "lb.test", "names": [{ "name": "lb.test", "policy": "multivalue", "answers": ["192.0.2.1"] }],
            "nodes": [{ "zone": "az-a", "ipv4": "192.0.2.1", "ipv6": null, "good": true, "reason": "checks pass" }] },
    });
    serde_json::from_value(picture).unwrap()
}

fn model() -> Model {
    let mut model = Model::new("http://127.0.0.1:9900".to_owned(), false);
    model.hear(Said::Picture(Box::new(picture(false))), Instant::now());
    model
}

fn press(model: &mut Model, keys: &[KeyCode]) -> Wish {
    keys.iter().fold(Wish::Nothing, |_, key| model.on_key(KeyEvent::from(*key)))
}

/// What is on a screen of this size.
fn shown(model: &mut Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, model)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn a_screen_shows_zones_targets_names_and_decisions() {
    let mut model = model();
    let screen = shown(&mut model, 160, 30);
    for text in [
        "selvedge  ● live  http://127.0.0.1:9900  az-a  serving  up 2 h 1 min  12 connections  configuration 3",
        "The reload of 03:04:05 was refused: selvedge.toml:1: zone: no",
        "peak ewma, – errors (5xx) a second, 2 waiting",
        "A shop.test:9001",
        "1 target, answered 5 s ago for 60 s",
        "1/1 open",
        "127.0.1.1:9001  healthy",
        "drained by the operator; 7 sessions still bound",
        "answered with 192.0.2.1",
        "03:04:05  az-b/127.0.2.1:9001 drain: the operator set it from up to drain",
        "d drain  u up  x down",
    ] {
        assert!(screen.contains(text), "{text} is not in\n{screen}");
    }
    model.hear(Said::Picture(Box::new(picture(true))), Instant::now());
    let screen = shown(&mut model, 180, 30);
    assert!(screen.contains("shifted (59 min left), 40 % of its sessions moved: a drill"), "{screen}");
}

#[test]
fn any_size_can_be_drawn() {
    let mut model = model();
    press(&mut model, &[KeyCode::Down, KeyCode::Down, KeyCode::Down, KeyCode::Char('d')]);
    for width in [1, 2, 7, 20, 40, 80, 300] {
        for height in [1, 2, 5, 11, 12, 24, 100] {
            shown(&mut model, width, height);
        }
    }
}

#[test]
fn a_drain_is_done_after_its_figures_and_an_enter() {
    let mut model = model();
    assert_eq!(press(&mut model, &[KeyCode::Char('d')]), Wish::Nothing);
    assert_eq!(model.notice, "select a target for that");
    let Wish::Ask(asked) = press(
        &mut model,
        &[KeyCode::End, KeyCode::Home, KeyCode::Down, KeyCode::Down, KeyCode::Down, KeyCode::Char('d')],
    ) else {
        panic!("a dry run is asked for")
    };
    assert_eq!(
        (asked.path.as_str(), asked.dry),
        ("/v1/pools/shop/targets/az-a%2F127.0.1.1:9001/state", true)
    );
    assert_eq!(asked.body, json!({ "state": "drain", "deadline": null, "dry_run": true }));
    assert_eq!(
        press(&mut model, &[KeyCode::Enter]),
        Wish::Nothing,
        "not before it is known what that would do"
    );

    let Wish::Ask(longer) = press(&mut model, &[KeyCode::Char('9'), KeyCode::Char('m')]) else {
        panic!("anew")
    };
    assert_eq!(longer.body["deadline"], "9m");
    let figures = json!({ "figures": { "enough": true, "targets": 2, "open_now": 2, "open_then": 1, "sessions": 7,
        "sessions_move": 0, "in_flight": 3, "deadline_seconds": 540.0, "panic": false,
        "zones": [{ "zone": "az-a", "targets": 1, "healthy": 1, "share_now": 0.5, "share_then": 0.0 }] } });
    let answer = |number| Said::Answer { number, dry: true, answer: Ok(figures.to_string().into()) };
    model.hear(answer(asked.number), Instant::now());
    assert_eq!(
        press(&mut model, &[KeyCode::Enter]),
        Wish::Nothing,
        "that was the answer to another question"
    );
    model.hear(answer(longer.number), Instant::now());
    let screen = shown(&mut model, 100, 30);
    for text in [
        "Drain az-a/127.0.1.1:9001 of shop?",
        "about 7 sessions may stay for 9 min, 3 requests under way",
        "50.0 %",
        "Enter do it",
    ] {
        assert!(screen.contains(text), "{text} is not in\n{screen}");
    }
    let Wish::Ask(done) = press(&mut model, &[KeyCode::Enter]) else { panic!("it is done") };
    assert_eq!((done.dry, &done.body["dry_run"]), (false, &json!(false)));
    model.hear(Said::Answer { number: done.number, dry: false, answer: Ok("{}".into()) }, Instant::now());
    assert!(model.question.is_none());
    assert_eq!(model.notice, "az-a/127.0.1.1:9001 drains");
}

#[test]
fn what_leaves_too_little_has_to_be_forced() {
    let mut model = model();
    let Wish::Ask(asked) = press(&mut model, &[KeyCode::Down, KeyCode::Down, KeyCode::Char('s')]) else {
        panic!("a dry run")
    };
    assert_eq!((asked.path.as_str(), &asked.body["for"]), ("/v1/zones/az-a/shift", &json!("1h")));
    let figures = json!({ "figures": { "enough": false, "pools": [{ "pool": "shop", "capacity_left": 0.2,
        "capacity_needed": 0.5, "sessions": 7, "zones": [] }] } });
    let answer = Said::Answer { number: asked.number, dry: true, answer: Ok(figures.to_string().into()) };
    model.hear(answer, Instant::now());
    assert_eq!(press(&mut model, &[KeyCode::Enter]), Wish::Nothing);
    assert!(shown(&mut model, 100, 30).contains("too little is left: f to do it all the same"));
    let Wish::Ask(done) = press(&mut model, &[KeyCode::Char('f'), KeyCode::Enter]) else {
        panic!("it is done")
    };
    assert_eq!(done.body, json!({ "for": "1h", "force": true, "dry_run": false }));
    let refused = Said::Answer { number: done.number, dry: false, answer: Err("no".to_owned()) };
    model.hear(refused, Instant::now());
    assert!(shown(&mut model, 100, 30).contains("Shift zone az-a?"), "what is refused can be read");
    press(&mut model, &[KeyCode::Esc]);
    assert!(model.question.is_none());
}

#[test]
fn a_node_that_is_away_is_said_to_be_and_what_is_selected_stays() {
    let mut model = model();
    press(&mut model, &[KeyCode::End]);
    let last = model.selected.clone();
    model.hear(Said::Away("connection refused".to_owned()), Instant::now());
    let screen = shown(&mut model, 120, 30);
    assert!(
        screen.contains("○ away") && screen.contains("The node is away, and tried again each second"),
        "{screen}"
    );
    assert!(screen.contains("127.0.1.1:9001"), "what was known is shown on\n{screen}");
    let mut more = picture(false);
    more.pools[0].zones.remove(0);
    model.hear(Said::Picture(Box::new(more)), Instant::now());
    assert_eq!(model.selected, last);
    assert!(shown(&mut model, 120, 30).contains("● live"));
}
