//! The dashboard: one page without anything from elsewhere, that follows `/v1/events`.
//!
//! The page is the same for everybody and holds no data. It is put together of the files in `dashboard/`; its own style and
//! script are the only ones that the browser may use, by their hashes.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::reply::{Reply, text};

const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/style.css");
const SCRIPT: &str = concat!(
    include_str!("dashboard/figures.js"),
    include_str!("dashboard/elements.js"),
    include_str!("dashboard/view.js"),
    include_str!("dashboard/actions.js"),
    include_str!("dashboard/stream.js"),
);

static WHOLE: LazyLock<Bytes> = LazyLock::new(|| {
    let page = PAGE.replace("<style></style>", &format!("<style>{STYLE}</style>"));
    page.replace("<script></script>", &format!("<script>{SCRIPT}</script>")).into()
});

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (style, script) = (hash_of(STYLE), hash_of(SCRIPT));
    format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// `GET /`.
pub(super) fn page() -> Reply {
    let mut reply = text(StatusCode::OK, "text/html; charset=utf-8", WHOLE.clone());
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        reply.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    reply.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    reply
}

/// CSP's name for what stands between the tags of a style or a script.
fn hash_of(inside: &str) -> String {
    let hash = digest::digest(&digest::SHA256, inside.as_bytes());
    format!("'sha256-{}'", BASE64_STANDARD.encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_style_and_one_script_and_asks_nobody_else() {
        let page = std::str::from_utf8(&WHOLE).unwrap();
        for (tag, inside) in [("<style>", STYLE), ("<script>", SCRIPT)] {
            assert_eq!(page.matches(tag).count(), 1, "{tag}");
            assert!(page.contains(&format!("{tag}{inside}</")), "{tag} holds what its hash is of");
        }
        for outside in ["http://", "https://", "src=", "@import", "innerHTML", "style=\""] {
            assert!(!page.contains(outside), "{outside} in the page");
        }
    }
}
