//! What `selvedge check` says of certificates, keys and authorities.

use std::process::Command;

use crate::support::{Authority, Edge, Findings, Issued, Origin};

/// A good configuration with this listener.
fn with_listener(lines: &str) -> String {
    Edge::without_pool()
        .listener(lines)
        .and("[[route]]\nhost = \"shop.test\"\nrespond = { status = 200 }")
        .text()
}

/// What `check` writes of this configuration, and its exit code.
fn check(config: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    let output = command.args(["check", "--config"]).arg(&file).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_certificate_in_good_order_is_not_spoken_of() {
    let ca = Authority::new("ca");
    let (code, text) = check(&with_listener(&ca.issue("shop", &["shop.test"]).listener()));
    assert_eq!((code, text.contains("warning")), (Some(0), false), "{text}");
}

#[test]
fn what_works_but_not_for_long_or_not_for_all_is_warned_of() {
    let ca = Authority::new("ca");
    let names = &["shop.test"][..];
    let mut findings = Findings::default();
    for (issued, warning) in [
        (ca.issue_for("expired", names, -20..=-1), "expired.crt has expired"),
        (ca.issue_for("early", names, 2..=90), "early.crt is not valid yet, not before"),
        (ca.issue_for("soon", names, -20..=13), "soon.crt expires soon"),
        (ca.issue("other", &["other.test"]), "listener web: shop.test is on none of its certificates"),
        (ca.issue("below", &["*.shop.test"]), "listener web: shop.test is on none of its certificates"),
    ] {
        let (code, text) = check(&with_listener(&issued.listener()));
        let said = text.matches("warning").count() == 1 && text.contains(warning);
        findings.expect(code == Some(0) && said, || format!("{warning}: {code:?} {text}"));
    }
    findings.report();
}

#[test]
fn what_cannot_work_is_an_error_that_says_what_to_do() {
    let ca = Authority::new("ca");
    let (one, two) = (ca.issue("one", &["shop.test"]), ca.issue("two", &["shop.test"]));
    let absent = Issued { cert: "absent.crt".into(), key: "absent.key".into() };
    let swapped = Issued { cert: one.key.clone(), key: one.cert.clone() };
    let mixed = Issued { cert: one.cert.clone(), key: two.key };
    let good = one.listener();
    let bundle = ca.bundle().display().to_string();
    let mut findings = Findings::default();
    for (lines, key, what) in [
        (mixed.listener(), "tls.certificates[0].key", "is not the key of"),
        (absent.listener(), "tls.certificates[0].cert", "cannot be read"),
        (absent.listener(), "tls.certificates[0].key", "cannot be read"),
        (swapped.listener(), "tls.certificates[0].cert", "holds no certificate"),
        (swapped.listener(), "tls.certificates[0].key", "holds no key that can be used"),
        ("tls.certificates = []".to_owned(), "tls.certificates", "is empty"),
        ("tls.tickets = true".to_owned(), "tls.certificates", "is missing"),
        (format!("{good}\ntls.client_certificates = \"require\""), "tls.client_ca", "is missing"),
        (format!("{good}\ntls.client_ca = \"{bundle}\""), "tls.client_ca", "has a meaning only"),
        (format!("{good}\ntls.min_version = \"1.1\""), "tls.min_version", "did you mean"),
        (
            format!("{good}\nredirect_to_https = 443"),
            "redirect_to_https",
            "has no meaning on a listener with TLS",
        ),
        (
            format!("{good}\ntls.hsts = {{ max_age = \"1d\", preload = true }}"),
            "tls.hsts.preload",
            "is refused by",
        ),
    ] {
        let (code, text) = check(&with_listener(&lines));
        let said =
            text.lines().any(|line| line.contains(&format!("listener[0].{key}: ")) && line.contains(what));
        findings.expect(code == Some(78) && said, || format!("{key} {what}: {code:?} {text}"));
    }
    findings.report();
}

#[tokio::test]
async fn tls_to_targets_is_checked_too() {
    let ca = Authority::new("ca");
    let node = ca.issue("node", &["node.test"]);
    let origin = Origin::start().await;
    let mut findings = Findings::default();
    for (lines, key, what) in [
        ("tls.verify = \"full\"".to_owned(), "tls.ca", "is missing"),
        (format!("tls.ca = \"{}\"", node.key.display()), "tls.ca", "holds no certificate"),
        (
            format!("tls.ca = \"{}\"\ntls.cert = \"{}\"", ca.bundle().display(), node.cert.display()),
            "tls.key",
            "is missing",
        ),
        (
            format!("tls.verify = \"none\"\ntls.ca = \"{}\"", ca.bundle().display()),
            "tls.ca",
            "has no meaning",
        ),
    ] {
        let (code, text) = check(&Edge::before(&origin).pool(&lines).text());
        let said =
            text.lines().any(|line| line.contains(&format!("pool.shop.{key}: ")) && line.contains(what));
        findings.expect(code == Some(78) && said, || format!("{key} {what}: {code:?} {text}"));
    }
    findings.report();
}

#[test]
fn certificates_by_acme_are_checked_before_an_authority_is_asked() {
    let acme = |lines: &str| {
        with_listener("tls.acme = true")
            + &format!(
                "[acme]\ndirectory = \"https://ca.test/dir\"\nterms_of_service_agreed = true\nstorage = \"acme\"\n{lines}"
            )
    };
    let certificate = "[[acme.certificate]]\nnames = [\"shop.test\"]\n";
    let (code, text) = check(&acme(certificate));
    assert_eq!((code, text.contains("warning")), (Some(0), false), "{text}");
    let mut findings = Findings::default();
    for (config, said) in [
        (with_listener("tls.acme = true"), "acme: is missing, and listener web says acme = true"),
        (acme("[[acme.certificate]]\nnames = []\n"), "acme.certificate[0].names: is empty"),
        (acme("[[acme.certificate]]\nnames = [\"*.shop.test\"]\n"), "\"*.shop.test\" is not a domain name"),
        (acme("[[acme.certificate]]\nnames = [\"localhost\"]\n"), "localhost is not a public name"),
        (acme(""), "acme.certificate: is missing"),
        (
            acme(&format!("{certificate}{certificate}")),
            "shop.test is the first name of another certificate already",
        ),
        (
            acme(&format!("challenge = \"http-01\"\n{certificate}")),
            "acme.challenge: needs a listener without TLS",
        ),
        (acme(&format!("challenge = \"dns-01\"\n{certificate}")), "write \"tls-alpn-01\" or \"http-01\""),
        (
            acme(certificate).replace("https://ca.test/dir", "http://ca.test/dir"),
            "\"http://ca.test/dir\" is not an https:// address",
        ),
        (
            acme(certificate).replace("agreed = true", "agreed = false"),
            "acme.terms_of_service_agreed: is not true",
        ),
        (
            acme(&format!("external_account = {{ key_id = \"1\" }}\n{certificate}")),
            "acme.external_account.hmac_key_file: is missing",
        ),
    ] {
        let (code, text) = check(&config);
        findings.expect(code == Some(78) && text.contains(said), || format!("{said}: {code:?} {text}"));
    }
    findings.report();
}
