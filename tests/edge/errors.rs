//! Error pages: in the form the client asks for, with the request's id, and with nothing a client could inject.

use crate::support::{Client, Edge, Origin, Raw, Refusing, Response};

async fn error(edge: &Edge, accept: &[&str]) -> Response {
    let answer = Client::of(edge).get_with("/missing", accept).await;
    assert_eq!(answer.status, 404);
    answer
}

/// A node without any route for `shop.test`.
async fn without_route() -> Edge {
    Edge::without_pool().and("[[route]]\nhost = \"other.test\"\nrespond = { status = 200 }").start().await
}

fn content_type(answer: &Response) -> &str {
    answer.fields.get("content-type").expect("an error page says what it is")
}

#[tokio::test]
async fn text_is_what_a_client_without_a_wish_gets() {
    let edge = without_route().await;
    for accept in
        [&[][..], &["Accept: */*"], &["Accept: text/plain"], &["Accept: image/png"], &["Accept: ;;,,q="]]
    {
        let answer = error(&edge, accept).await;
        assert!(content_type(&answer).starts_with("text/plain"), "{accept:?}: {answer:?}");
        assert!(answer.text().contains("404"), "{answer:?}");
        assert!(!answer.text().contains('<'));
    }
}

#[tokio::test]
async fn json_is_for_programs() {
    let edge = without_route().await;
    for accept in
        ["Accept: application/json", "Accept: text/html;q=0.1, application/json", "ACCEPT: Application/JSON"]
    {
        let answer = error(&edge, &[accept]).await;
        assert!(content_type(&answer).starts_with("application/json"), "{accept}: {answer:?}");
        let page: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(page.to_string().contains("404"), "{page}");
    }
}

#[tokio::test]
async fn html_is_for_people() {
    let edge = without_route().await;
    let browser = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for accept in ["Accept: text/html", browser] {
        let answer = error(&edge, &[accept]).await;
        assert!(content_type(&answer).starts_with("text/html"), "{accept}: {answer:?}");
        let page = answer.text().to_ascii_lowercase();
        assert!(page.contains("<!doctype html") && page.contains("404"), "{page}");
        assert!(page.contains("lang="), "a page for people names its language: {page}");
    }
}

#[tokio::test]
async fn every_page_carries_the_requests_id() {
    let refusing = Refusing::new();
    let edge = Edge::before(&refusing)
        .pool("queue.length = 0\nqueue.timeout = \"100ms\"")
        .listener("trusted = [\"127.0.0.2/32\"]")
        .start()
        .await;
    for accept in ["Accept: text/plain", "Accept: application/json", "Accept: text/html"] {
        let fields = [accept, "X-Request-Id: order-4711"];
        let answer = Client::of(&edge).from("127.0.0.2").get_with("/", &fields).await;
        assert!(answer.status >= 500, "{answer:?}");
        assert!(answer.text().contains("order-4711"), "{accept}: {}", answer.text());
        let answer = Client::of(&edge).get_with("/", &[accept]).await;
        let id = answer.fields.get("x-request-id").expect("an error names the request").to_owned();
        assert!(id.len() >= 16 && answer.text().contains(&id), "{accept}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_claimed_id_cannot_put_markup_into_a_page() {
    let edge = Edge::without_pool()
        .listener("trusted = [\"127.0.0.0/8\"]")
        .and("[[route]]\nhost = \"other.test\"\nrespond = { status = 200 }")
        .start()
        .await;
    let nasty = "X-Request-Id: <script>alert(\"1\")</script>";
    let answer = error(&edge, &["Accept: text/html", nasty]).await;
    assert!(!answer.text().contains("<script>"), "{}", answer.text());
    let answer = error(&edge, &["Accept: application/json", "X-Request-Id: a\"b\\c"]).await;
    serde_json::from_slice::<serde_json::Value>(&answer.body).expect("JSON whatever the id is");
}

#[tokio::test]
async fn an_error_in_answer_to_head_has_no_body() {
    let edge = without_route().await;
    let mut raw = Raw::connect(&edge).await;
    for _ in 0..2 {
        raw.send("HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert_eq!(raw.response_to("HEAD").await.status, 404);
    }
}

#[tokio::test]
async fn errors_are_not_kept_by_caches_and_do_not_name_targets() {
    let refusing = Refusing::new();
    let edge = Edge::before(&refusing).pool("queue.length = 0").start().await;
    let answer = Client::of(&edge).get("/").await;
    assert_eq!(answer.fields.get("cache-control"), Some("no-store"), "{answer:?}");
    let address = refusing.address.port().to_string();
    assert!(!answer.text().contains(&address), "{}", answer.text());
}

#[tokio::test]
async fn a_target_that_fails_is_logged_with_the_reason() {
    let origin = Origin::answering("nonsense\r\n\r\n").await;
    let edge = Edge::before(&origin).start().await;
    assert_eq!(Client::of(&edge).post("/", b"x").await.status, 502);
    edge.logged(&["protocol", &origin.address.to_string()]).await;
}
