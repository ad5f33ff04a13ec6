//! What a cookie survives, and what it must not.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn bond() -> Bond {
    let (target, home) = (TargetId(0x0123_4567_89ab_cdef), TargetId(9));
    Bond { target, home, session: 42, born: 1_800_000_000, seen: 1_800_000_100 }
}

fn stickiness(idle: u64, absolute: Option<u64>) -> config::Stickiness {
    config::Stickiness {
        mode: config::StickinessMode::LbCookie,
        cookie: "SELVEDGE".into(),
        application_cookie: "".into(),
        failback: config::Failback::Never,
        idle: Duration::from_secs(idle),
        absolute: absolute.map(Duration::from_secs),
        same_site: SameSite::Lax,
        secure: Secure::Auto,
        partitioned: false,
        domain: None,
    }
}

#[test]
fn no_flipped_bit_is_ever_accepted() {
    let ring = KeyRing::generate();
    let text = seal(&ring, "shop", &bond(), [7; 12]);
    assert_eq!(open(&ring, "shop", &text), Ok(bond()));
    assert!(text.len() < 128);
    for bit in 0..text.len() * 8 {
        let mut flipped = text;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&ring, "shop", &flipped).is_err(), "bit {bit}");
    }
    let raw = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    for bit in 0..raw.len() * 8 {
        let mut flipped = raw.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&ring, "shop", BASE64_URL_SAFE_NO_PAD.encode(flipped).as_bytes()).is_err(), "bit {bit}");
    }
}

#[test]
fn a_cookie_of_another_pool_or_key_is_told_apart() {
    let (ring, other) = (KeyRing::generate(), KeyRing::generate());
    let text = seal(&ring, "shop", &bond(), [7; 12]);
    assert_eq!(open(&ring, "blog", &text), Err(Verdict::Forged));
    assert_eq!(open(&other, "shop", &text), Err(Verdict::UnknownKey));
    assert_eq!(open(&ring, "shop", &text[1..]), Err(Verdict::Malformed));
    assert_eq!(open(&ring, "shop", b""), Err(Verdict::Malformed));
}

#[test]
fn sessions_end_by_idleness_and_by_age() {
    let (bond, born) = (bond(), 1_800_000_000);
    assert_eq!(judge(&bond, &stickiness(100, None), born + 200), Verdict::Valid);
    assert_eq!(judge(&bond, &stickiness(100, None), born + 201), Verdict::IdleExpired);
    assert_eq!(judge(&bond, &stickiness(1000, Some(300)), born + 300), Verdict::Valid);
    assert_eq!(judge(&bond, &stickiness(1000, Some(300)), born + 301), Verdict::AbsoluteExpired);
    assert_eq!(
        judge(&bond, &stickiness(100, Some(100)), 0),
        Verdict::Valid,
        "a clock that is ahead elsewhere"
    );
    assert!(!is_stale(&bond, &stickiness(100, None), born + 110));
    assert!(is_stale(&bond, &stickiness(100, None), born + 111));
}

#[test]
fn the_cookie_is_found_in_any_company() {
    let mut headers = Fields::new();
    for field in
        ["a=1; SELVEDGE=one", "XSELVEDGE=no;SELVEDGE=\"two\" ; SELVEDGEX=no", "b=2", "SELVEDGE = three"]
    {
        headers.append(header::COOKIE, HeaderValue::from_static(field));
    }
    let found: Vec<_> = find(&headers, "SELVEDGE").collect();
    assert_eq!(found, [&b"one"[..], b"two", b"three"]);
    hide(&mut headers, "SELVEDGE");
    let left: Vec<_> = headers.get_all(header::COOKIE).map(|v| v.to_str().unwrap()).collect();
    assert_eq!(left, ["a=1", "XSELVEDGE=no; SELVEDGEX=no", "b=2"]);
}

#[test]
fn attributes_follow_the_configuration() {
    let form = CookieForm::new(&config::Stickiness {
        partitioned: true,
        domain: Some("myclothes.test".into()),
        ..stickiness(100, None)
    });
    let text = [b'x'; TEXT];
    let secure = form.set_cookie(&text, true).unwrap();
    let rest = "; Path=/; HttpOnly; SameSite=Lax; Domain=myclothes.test; Partitioned; Secure";
    assert_eq!(secure, format!("SELVEDGE={}{rest}", "x".repeat(TEXT)));
    assert!(!form.set_cookie(&text, false).unwrap().to_str().unwrap().contains("Secure"));
}

proptest! {
    #[test]
    fn every_bond_survives_sealing(target: u64, session: u64, born: u32, seen: u32, nonce: [u8; 12], pool in ".{0,40}") {
        let ring = KeyRing::generate();
        let bond = Bond { target: TargetId(target), home: TargetId(target.wrapping_add(1)), session, born, seen };
        prop_assert_eq!(open(&ring, &pool, &seal(&ring, &pool, &bond, nonce)), Ok(bond));
    }

    #[test]
    fn no_text_opens_by_chance(text in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(open(&KeyRing::generate(), "shop", &text).is_err());
    }

    #[test]
    fn hiding_keeps_all_other_cookies_in_order(names in prop::collection::vec("[a-z]{1,8}|SELVEDGE", 0..20)) {
        let field = names.iter().map(|name| format!("{name}=v")).collect::<Vec<_>>().join("; ");
        let mut headers = Fields::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(&field).unwrap());
        hide(&mut headers, "SELVEDGE");
        let kept: Vec<_> = names.iter().filter(|n| *n != "SELVEDGE").map(|n| format!("{n}=v")).collect();
        let left = headers.get(header::COOKIE).map_or("", |field| field.to_str().unwrap());
        prop_assert_eq!(left, kept.join("; "));
    }
}
