//! What DynamoDB may say, or fail to say, that dynalite never does.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::{Address, CartStore as _, DynamoDb, Login, Written};
use crate::cart_stores::{Held, Version};
use crate::failure::Failure;
use crate::sessions::{Session, Visitor};

/// The store, with a server in the place of DynamoDB: what it refuses a request with, by the name of the request and its
/// content. With `None` it ends the connection and says nothing.
async fn refused_by(refusal: impl Fn(&str, &Value) -> Option<Value> + Send + 'static) -> DynamoDb {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("dynamodb://carts?region=local&endpoint=http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (mut stream, mut name, mut body) = (BufReader::new(stream), String::new(), Vec::new());
            let mut line = String::new();
            while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                let (field, value) = line.trim().split_once(": ").unwrap_or_default();
                match &*field.to_ascii_lowercase() {
                    "x-amz-target" => name = value.trim_start_matches("DynamoDB_20120810.").to_owned(),
                    "content-length" => body.resize(value.parse().unwrap(), 0),
                    _ => {}
                }
                line.clear();
            }
            if stream.read_exact(&mut body).await.is_err() {
                continue;
            }
            if let Some(refusal) = refusal(&name, &serde_json::from_slice(&body).unwrap()) {
                let text = refusal.to_string();
                let length = text.len();
                let answer = format!(
                    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/x-amz-json-1.0\r\n\
                     content-length: {length}\r\nconnection: close\r\n\r\n{text}"
                );
                // The client may have left.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    let address = Address::parse(&place).unwrap().unwrap();
    let login = Login::new(&address, |name| Some(format!("a test's {name}"))).unwrap();
    DynamoDb::new(&address, login)
}

fn held(number: i64) -> Held {
    Held { version: Version(number), session: Session::fresh() }
}

#[tokio::test]
async fn a_write_that_was_done_though_its_answer_was_lost_counts_as_kept() {
    let (puts, kept) = (Arc::new(AtomicU32::new(0)), Mutex::new(None));
    let counted = Arc::clone(&puts);
    let store = refused_by(move |name, content| {
        assert_eq!(name, "PutItem");
        let mut kept = kept.lock().unwrap();
        if counted.fetch_add(1, SeqCst) == 0 {
            *kept = Some(content["Item"].clone());
            return None;
        }
        let kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
        Some(json!({ "__type": kind, "message": "The conditional request failed", "Item": *kept }))
    })
    .await;
    let ana = Visitor::new();
    assert_eq!(store.save(&ana, None, &held(7)).await.unwrap(), Written::Kept);
    assert_eq!(puts.load(SeqCst), 2, "it was sent twice");
    assert_eq!(store.save(&ana, None, &held(8)).await.unwrap(), Written::Changed, "that is another's");
}

#[tokio::test]
async fn what_is_refused_for_now_is_no_empty_cart_and_what_never_works_is_told_at_the_start() {
    let busy = refused_by(|_, _| {
        let kind = "com.amazonaws.dynamodb.v20120810#ThrottlingException";
        Some(json!({ "__type": kind, "message": "Rate exceeded" }))
    })
    .await;
    let ana = Visitor::new();
    busy.prepare().await.unwrap();
    assert!(matches!(busy.load(&ana).await, Err(Failure::CartsAway)));
    assert!(matches!(busy.save(&ana, None, &held(7)).await, Err(Failure::CartsAway)));
    assert!(matches!(busy.remove(&ana, Version(7)).await, Err(Failure::CartsAway)));

    let stranger = refused_by(|_, _| {
        let kind = "com.amazon.coral.service#UnrecognizedClientException";
        Some(json!({ "__type": kind, "message": "The security token included in the request is invalid." }))
    })
    .await;
    let told = stranger.prepare().await.unwrap_err();
    assert!(told.contains("DynamoDB refuses") && told.contains("security token"), "{told}");
    assert!(matches!(stranger.load(&ana).await, Err(Failure::CartsAway)));
}
