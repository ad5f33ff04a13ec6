//! The dashboard: one page without anything from elsewhere, that reads `/v1/pools` each second.
//!
//! The page is the same for everybody and holds no data. Its own style and script are the only ones that the browser
//! may use, by their hashes.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, StatusCode, header};

use super::reply::{Reply, text};

const PAGE: &str = include_str!("dashboard.html");

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (style, script) = (hash_of("<style>", "</style>"), hash_of("<script>", "</script>"));
    format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// `GET /`.
pub(super) fn page() -> Reply {
    let mut reply = text(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        reply.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    reply.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    reply
}

/// CSP's name for what stands between `open` and `close`.
fn hash_of(open: &str, close: &str) -> String {
    let inside = PAGE.split_once(open).and_then(|(_, rest)| rest.split_once(close));
    let hash = digest::digest(&digest::SHA256, inside.map_or("", |(inside, _)| inside).as_bytes());
    format!("'sha256-{}'", BASE64_STANDARD.encode(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_style_and_one_script_and_asks_nobody_else() {
        for tag in ["<style>", "<script>"] {
            assert_eq!(PAGE.matches(tag).count(), 1, "{tag}");
        }
        for outside in ["http://", "https://", "src=", "@import", "innerHTML", "style=\""] {
            assert!(!PAGE.contains(outside), "{outside} in the page");
        }
        assert_ne!(hash_of("<style>", "</style>"), hash_of("<script>", "</script>"));
    }
}
