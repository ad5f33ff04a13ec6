//! gRPC through the edge, with tonic on both sides: the four kinds of calls, how they fail, and which route they take.
//!
//! Messages are text in a codec of a few lines, so that nothing has to be generated; framing, metadata and statuses are
//! tonic's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::{Context, Pin, Poll, Service};
use tonic::server::{
    ClientStreamingService, Grpc as Serving, NamedService, ServerStreamingService, StreamingService,
    UnaryService,
};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::support::edge::Address;
use crate::support::{Call, Edge, Gate, H2Origin, Refusing, Setup, all, eventually, within};

const H2: &str = "protocol = \"h2\"";

/// Messages that are text.
#[derive(Clone, Copy, Default)]
struct TextCodec;

impl Codec for TextCodec {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for TextCodec {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(item.as_bytes());
        Ok(())
    }
}

impl Decoder for TextCodec {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let text = bytes.copy_to_bytes(bytes.remaining());
        String::from_utf8(text.into()).map(Some).map_err(|_| Status::internal("not text"))
    }
}

type Later<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Texts = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// The service `shop.Cart`; each method does what its name says.
#[derive(Clone)]
struct Cart {
    name: &'static str,
    /// What `List` waits for between its first message and the others.
    gate: Gate,
    /// What has happened.
    notes: Arc<Mutex<Vec<String>>>,
}

impl Cart {
    fn note(&self, text: impl Into<String>) {
        self.notes.lock().unwrap().push(text.into());
    }

    fn has_noted(&self, text: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|note| note == text)
    }
}

/// Notes its end, also that of a call that nobody waits for any more.
struct Ending(Cart, &'static str);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

impl NamedService for Cart {
    const NAME: &'static str = "shop.Cart";
}

impl UnaryService<String> for Cart {
    type Response = String;
    type Future = Later<String>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let cart = self.clone();
        Box::pin(async move {
            let (metadata, _, text) = request.into_parts();
            match text.as_str() {
                "missing" => return Err(Status::not_found("no such cart: é")),
                "endless" => {
                    let _ending = Ending(cart.clone(), "cancelled");
                    cart.note("endless");
                    return std::future::pending().await;
                }
                _ => {}
            }
            let mut response = Response::new(format!("{} has {text}", cart.name));
            if let Some(user) = metadata.get("x-user") {
                response.metadata_mut().insert("x-user-was", user.clone());
            }
            if let Some(timeout) = metadata.get("grpc-timeout") {
                cart.note(format!("timeout {}", timeout.to_str().unwrap()));
            }
            Ok(response)
        })
    }
}

impl ServerStreamingService<String> for Cart {
    type Response = String;
    type ResponseStream = Texts;
    type Future = Later<Texts>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (cart, text) = (self.clone(), request.into_inner());
        Box::pin(async move {
            let (send, receive) = mpsc::channel(1);
            tokio::spawn(async move {
                let _ = send.send(Ok(text.clone())).await;
                cart.gate.pass().await;
                for number in 0..1000 {
                    let _ = send.send(Ok(format!("{text} {number}"))).await;
                }
                let _ = send.send(Err(Status::resource_exhausted("that is enough"))).await;
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(receive)) as Texts))
        })
    }
}

impl ClientStreamingService<String> for Cart {
    type Response = String;
    type Future = Later<String>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        let cart = self.clone();
        Box::pin(async move {
            let mut messages = request.into_inner();
            let (mut count, mut bytes) = (0, 0);
            while let Some(message) = messages.message().await? {
                if count == 0 {
                    cart.note(format!("first: {message}"));
                }
                (count, bytes) = (count + 1, bytes + message.len());
            }
            Ok(Response::new(format!("{count} messages, {bytes} bytes")))
        })
    }
}

impl StreamingService<String> for Cart {
    type Response = String;
    type ResponseStream = Texts;
    type Future = Later<Texts>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move {
            let echoed = request.into_inner().map(|message| Ok(format!("you said {}", message?)));
            Ok(Response::new(Box::pin(echoed) as Texts))
        })
    }
}

impl Service<http::Request<Body>> for Cart {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let cart = self.clone();
        Box::pin(async move {
            let mut serving = Serving::new(TextCodec);
            Ok(match request.uri().path() {
                "/shop.Cart/Add" => serving.unary(cart, request).await,
                "/shop.Cart/List" => serving.server_streaming(cart, request).await,
                "/shop.Cart/Fill" => serving.client_streaming(cart, request).await,
                "/shop.Cart/Talk" => serving.streaming(cart, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A server of `shop.Cart`.
struct Shop {
    address: SocketAddr,
    cart: Cart,
    serving: JoinHandle<()>,
}

impl Shop {
    async fn named(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cart = Cart { name, gate: Gate::closed(), notes: Arc::default() };
        let server = Server::builder().add_service(cart.clone());
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self { address, cart, serving }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Address for Shop {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A client of the edge.
async fn client(edge: &Edge) -> Grpc<Channel> {
    let endpoint = Endpoint::try_from(format!("http://{}", edge.web)).unwrap();
    let mut client = Grpc::new(within("a connection", endpoint.connect()).await.unwrap());
    client.ready().await.unwrap();
    client
}

fn method(name: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(name)
}

const ADD: &str = "/shop.Cart/Add";

async fn add(client: &mut Grpc<Channel>, text: &str) -> Result<Response<String>, Status> {
    client.ready().await.unwrap();
    within("an answer", client.unary(Request::new(text.to_owned()), method(ADD), TextCodec)).await
}

#[tokio::test]
async fn a_unary_call_carries_messages_and_metadata_both_ways() {
    let shop = Shop::named("a").await;
    let edge = Edge::before(&shop).pool(H2).start().await;
    let mut client = client(&edge).await;
    let mut request = Request::new("tea".to_owned());
    request.metadata_mut().insert("x-user", "ann".parse().unwrap());
    request.set_timeout(Duration::from_secs(7));
    let response = client.unary(request, method(ADD), TextCodec).await.unwrap();
    assert_eq!(response.metadata().get("x-user-was").unwrap(), "ann");
    assert_eq!(response.get_ref(), "a has tea");
    assert!(shop.cart.notes.lock().unwrap()[0].starts_with("timeout 7"), "{:?}", shop.cart.notes);
    let large = "x".repeat(3_000_000);
    assert_eq!(add(&mut client, &large).await.unwrap().get_ref().len(), large.len() + 6);
}

#[tokio::test]
async fn a_status_of_the_service_reaches_the_client_as_it_is() {
    let shop = Shop::named("a").await;
    let edge = Edge::before(&shop).pool(H2).start().await;
    let status = add(&mut client(&edge).await, "missing").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such cart: é"));
}

#[tokio::test]
async fn messages_of_a_server_arrive_one_by_one_and_its_status_after_them() {
    let shop = Shop::named("a").await;
    let edge = Edge::before(&shop).pool(H2).start().await;
    let request = Request::new("tea".to_owned());
    let call = client(&edge).await.server_streaming(request, method("/shop.Cart/List"), TextCodec).await;
    let mut messages = call.unwrap().into_inner();
    assert_eq!(within("the first message", messages.message()).await.unwrap().unwrap(), "tea");
    shop.cart.gate.open();
    for number in 0..1000 {
        let message = within("another message", messages.message()).await.unwrap().unwrap();
        assert_eq!(message, format!("tea {number}"));
    }
    let status = within("a status", messages.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "that is enough"));
}

#[tokio::test]
async fn messages_of_a_client_arrive_one_by_one() {
    let shop = Shop::named("a").await;
    let edge = Edge::before(&shop).pool(H2).start().await;
    let (send, receive) = mpsc::channel(1);
    let mut client = client(&edge).await;
    let call = tokio::spawn(async move {
        let messages = Request::new(ReceiverStream::new(receive));
        client.client_streaming(messages, method("/shop.Cart/Fill"), TextCodec).await
    });
    send.send("tea".to_owned()).await.unwrap();
    eventually("the first message to arrive", async || shop.cart.has_noted("first: tea")).await;
    for _ in 0..1000 {
        send.send("x".repeat(1000)).await.unwrap();
    }
    drop(send);
    let answer = within("the answer", call).await.unwrap().unwrap();
    assert_eq!(answer.get_ref(), "1001 messages, 1000003 bytes");
}

#[tokio::test]
async fn client_and_server_talk_in_turn() {
    let shop = Shop::named("a").await;
    let edge = Edge::before(&shop).pool(H2).start().await;
    let (send, receive) = mpsc::channel(1);
    let messages = Request::new(ReceiverStream::new(receive));
    let call = client(&edge).await.streaming(messages, method("/shop.Cart/Talk"), TextCodec).await;
    let mut answers = call.unwrap().into_inner();
    for number in 0..100 {
        send.send(number.to_string()).await.unwrap();
        let answer = within("an answer", answers.message()).await.unwrap().unwrap();
        assert_eq!(answer, format!("you said {number}"));
    }
    drop(send);
    assert_eq!(within("the end", answers.message()).await.unwrap(), None);
}

#[tokio::test]
async fn many_calls_at_once_are_answered_each_with_its_own() {
    let shop = Shop::named("a").await;
    let edge = Edge::before(&shop).pool(H2).start().await;
    let client = client(&edge).await;
    let answers = all((0..300).map(|number| {
        let mut client = client.clone();
        async move { add(&mut client, &number.to_string()).await.unwrap().into_inner() }
    }))
    .await;
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, format!("a has {number}"));
    }
    let connects = edge.metric("selvedge_target_connects_total").await;
    assert!((1..=3).contains(&connects), "{connects} connections");
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_at_the_server() {
    let shop = Shop::named("a").await;
    let edge = Edge::before(&shop).pool(H2).start().await;
    let mut calling = client(&edge).await;
    let call = tokio::spawn(async move { add(&mut calling, "endless").await });
    eventually("the call to arrive", async || shop.cart.has_noted("endless")).await;
    call.abort();
    eventually("the call to be cancelled", async || shop.cart.has_noted("cancelled")).await;
    edge.counts("selvedge_target_in_flight", 0).await;
}

#[tokio::test]
async fn calls_are_routed_by_service_and_by_method() {
    let (all_methods, lists) = (Shop::named("general").await, Shop::named("special").await);
    let edge = Edge::before(&all_methods)
        .route("path = \"/shop.Cart/\"")
        .pool(H2)
        .and(&format!(
            "[[route]]\npath = \"/shop.Cart/Add\"\nheaders = [{{ name = \"x-special\", value = \"1\" }}]\npool = \"special\"\n\
             [[route]]\npath = \"/shop.Cart/List\"\npool = \"special\"\n\
             [pool.special]\n{H2}\nhealth.enabled = false\nstickiness.mode = \"off\"\n\
             [[pool.special.target]]\naddress = \"{}\"",
            lists.address
        ))
        .start()
        .await;
    let mut client = client(&edge).await;
    assert_eq!(add(&mut client, "tea").await.unwrap().get_ref(), "general has tea");
    let mut special = Request::new("tea".to_owned());
    special.metadata_mut().insert("x-special", "1".parse().unwrap());
    client.ready().await.unwrap();
    assert_eq!(client.unary(special, method(ADD), TextCodec).await.unwrap().get_ref(), "special has tea");
    lists.cart.gate.open();
    client.ready().await.unwrap();
    let request = Request::new("x".to_owned());
    let listed = client.server_streaming(request, method("/shop.Cart/List"), TextCodec).await;
    assert!(listed.unwrap().into_inner().message().await.unwrap().is_some());
    client.ready().await.unwrap();
    let elsewhere = method("/shop.Account/Get");
    let status = client.unary(Request::new(String::new()), elsewhere, TextCodec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "no route: {status:?}");
}

#[tokio::test]
async fn failures_of_the_edge_are_statuses_of_grpc() {
    let refusing = Refusing::new();
    let edge =
        Setup::default().target(&refusing).pool(&format!("{H2}\nqueue.timeout = \"100ms\"")).start().await;
    let status = add(&mut client(&edge).await, "tea").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(!status.message().is_empty() && !status.message().contains("127.0.0.1"), "{status:?}");
}

#[tokio::test]
async fn a_server_that_dies_in_a_call_is_no_success() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.read().await;
        let mut sending = call.head(200, &[("content-type", "application/grpc")], false);
        sending.send_data(bytes::Bytes::from_static(b"\0\0\0\0\x03tea"), false).unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let edge = Edge::before(&origin).pool(H2).start().await;
    let request = Request::new("tea".to_owned());
    let call = client(&edge).await.server_streaming(request, method("/shop.Cart/List"), TextCodec).await;
    let mut messages = call.unwrap().into_inner();
    assert_eq!(within("the first message", messages.message()).await.unwrap().unwrap(), "tea");
    origin.cut();
    let ended = within("the end", messages.message()).await;
    assert!(ended.is_err(), "{ended:?}");
}
