//! WebSockets whose target or node leaves: both sides get a Close (1001) between two frames, within the deadline, each at
//! a moment of its own. `SELVEDGE_SOAK=1` holds 10 000 of them, or as many as the limit of open files allows.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::websocket::{BINARY, CLOSE, Frame, Socket, echoing, frame, next, switch};
use crate::support::{
    Authority, Client, Edge, End, Gate, Origin, Raw, all, eventually, still_waiting_after, within,
};

const CLOSED: &str = "selvedge_tunnels_closed_total";
const IN_FLIGHT: &str = "selvedge_target_in_flight";

/// What origins were told, one after the other.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(u16, String)>>>);

impl Told {
    async fn echoing(&self) -> Origin {
        let told = self.clone();
        echoing(move |close| told.0.lock().unwrap().push(close)).await
    }

    fn take(&self) -> Vec<(u16, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn going_away() -> (u16, String) {
    (1001, "going away".to_owned())
}

/// Sets the state of a target of the pool `shop`, given as JSON.
pub(crate) async fn set(edge: &Edge, origin: &Origin, state: &str) {
    let mut admin = Client::to(edge.admin);
    admin.host = edge.admin.to_string();
    let path = format!("/v1/pools/shop/targets/-/{origin}/state");
    let answer = admin.request("PUT", &path, &["Content-Type: application/json"], state.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// How many WebSockets are held, and the drain's seconds.
fn crowd() -> (usize, u64) {
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    if std::env::var_os("SELVEDGE_SOAK").is_none() {
        return (500, 5);
    }
    // Each takes two here and two at the edge.
    let room = most.map_or(usize::MAX, |most| most as usize).saturating_sub(200) / 2;
    (room.min(10_000), 60)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_of_a_target_tells_and_closes_all_of_its_websockets_within_the_deadline() {
    let (count, seconds) = crowd();
    let (told, others_told) = (Told::default(), Told::default());
    let (leaving, staying) = (told.echoing().await, others_told.echoing().await);
    let edge = Edge::without_pool()
        .target_with(&leaving, "weight = 99")
        .target_with(&staying, "weight = 1")
        .top("workers = 2")
        .pool("balance = \"round_robin\"\ntimeouts.idle = \"10m\"")
        .start()
        .await;
    let edge = Arc::new(edge);
    let before = edge.rss();
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let some = (0..100.min(count - sockets.len())).map(|_| {
            let edge = edge.clone();
            async move { Socket::open(&edge).await }
        });
        sockets.extend(all(some).await);
    }
    edge.counts("selvedge_tunnels_open", count as u64).await;
    println!("{count} WebSockets, {} bytes each at the edge", (edge.rss() - before) / count as u64);
    let at_leaving = leaving.open();
    let at_staying = staying.open();
    assert_eq!(at_leaving + at_staying, count);
    set(&edge, &leaving, &format!("{{\"state\":\"drain\",\"deadline\":\"{seconds}s\"}}")).await;
    let begun = Instant::now();
    // Fifty of them talk all the time.
    let stop = Gate::closed();
    let closes = sockets.into_iter().enumerate().map(|(number, socket)| {
        let stop = stop.clone();
        async move {
            let talks = number % (count / 50) == 0;
            let told = until_told(socket, number * usize::from(talks), &stop).await;
            told.map(|(close, orderly)| (close, begun.elapsed(), orderly))
        }
    });
    let closing = tokio::spawn(all(closes.collect::<Vec<_>>()));
    patiently("all tunnels of the target to be closed", || async {
        edge.metric(&format!("{CLOSED}{{reason=\"drain\"}}")).await == at_leaving as u64
    })
    .await;
    let took = begun.elapsed();
    let deadline = Duration::from_secs(seconds);
    // With the time until a busy machine has counted it.
    assert!(took < deadline + Duration::from_secs(4), "the last was closed after {took:?}");
    stop.open();
    let closes: Vec<_> = closing.await.unwrap().into_iter().flatten().collect();
    assert!(closes.iter().all(|(close, _, orderly)| *close == going_away() && *orderly), "{closes:?}");
    let mut moments: Vec<_> = closes.into_iter().map(|(_, at, _)| at).collect();
    moments.sort_unstable();
    assert_eq!(moments.len(), at_leaving);
    let (first, last) = (moments[0], moments[at_leaving - 1]);
    assert!(
        first > deadline * 7 / 10 && last < deadline + Duration::from_secs(1),
        "told between {first:?} and {last:?}"
    );
    // All but the first and the last few: a busy machine may hold up some of them, but hardly all.
    let spread = moments[at_leaving * 19 / 20] - moments[at_leaving / 20];
    assert!(spread > deadline / 50, "most of them were told within {spread:?}");
    let at_target = told.take();
    assert_eq!(at_target.len(), at_leaving);
    assert!(at_target.iter().all(|close| *close == going_away()));
    assert_eq!(others_told.take(), []);
    edge.counts("selvedge_tunnels_open", 0).await;
    edge.counts(IN_FLIGHT, 0).await;
    edge.counts(&format!("selvedge_target_safe_to_remove{{target=\"{leaving}\"}}"), 1).await;
}

/// Waits for a Close, meanwhile exchanging messages of all sizes if `seed` is not 0; answers it. What it said, and whether the
/// connection ended in order; `None` if the gate opens first.
async fn until_told(mut socket: Socket, seed: usize, stop: &Gate) -> Option<((u16, String), bool)> {
    let mut message = vec![seed as u8; seed];
    let close = loop {
        if seed > 0 {
            message.resize((message.len() * 31 + 7) % 70_000, seed as u8);
            socket.say(&message).await;
        }
        let heard = tokio::select! {
            heard = socket.hear() => heard.expect("a Close before the end"),
            () = stop.opens() => return None,
        };
        match heard.opcode {
            BINARY => assert_eq!(heard.payload, message),
            _ => break heard.closes(),
        }
    };
    socket.0.send(frame(CLOSE, Some([1, 2, 3, 4]), &1001u16.to_be_bytes())).await;
    let (rest, end) = socket.0.until_end().await;
    Some((close, rest.is_empty() && end == End::Closed))
}

/// Like [`eventually`], for as long as a drain may take.
async fn patiently<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let waiting = async {
        while !holds().await {
            let _ = tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(90), waiting).await.is_ok(),
        "waited in vain for {what}"
    );
}

#[tokio::test]
async fn the_websockets_of_a_target_that_is_taken_down_are_closed_at_once() {
    let ca = Authority::new("ca");
    let told = Told::default();
    let (down, up) = (told.echoing().await, Told::default().echoing().await);
    let edge = Edge::before_all(&[&down, &up])
        .listener(&ca.issue("shop", &["shop.test"]).listener())
        .pool("balance = \"round_robin\"")
        .start()
        .await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = Socket::over(Raw::over(&ca.dialer("shop.test"), &edge).await).await;
        socket.echo(b"hello").await;
        sockets.push(socket);
    }
    set(&edge, &down, "{\"state\":\"down\"}").await;
    edge.counts(&format!("{IN_FLIGHT}{{target=\"{down}\"}}"), 0).await;
    edge.counts(&format!("{CLOSED}{{reason=\"down\"}}"), 10).await;
    assert_eq!(told.take(), vec![going_away(); 10]);
    let mut closed = 0;
    for socket in &mut sockets {
        socket.say(b"still there?").await;
        match socket.hear().await.unwrap() {
            Frame { opcode: BINARY, payload } => assert_eq!(payload, b"still there?"),
            close => {
                assert_eq!(close.closes(), going_away());
                closed += 1;
            }
        }
    }
    assert_eq!(closed, 10);
}

#[tokio::test]
async fn a_frame_under_way_to_the_client_is_delivered_whole_and_what_follows_it_is_not() {
    let (message, gate) = (vec![42; 100_000], Gate::closed());
    let (whole, at_origin) = (frame(BINARY, None, &message), gate.clone());
    let origin = Origin::raw(move |mut conn| {
        let (whole, gate) = (whole.clone(), at_origin.clone());
        async move {
            switch(&mut conn).await;
            conn.send(&whole[..50_000]).await;
            assert_eq!(next(&mut conn, true).await.unwrap().closes(), going_away());
            conn.send(&whole[50_000..]).await;
            conn.send(frame(BINARY, None, b"too late")).await;
            conn.send(frame(CLOSE, None, &1001u16.to_be_bytes())).await;
            assert_eq!(conn.until_end().await, (Vec::new(), End::Closed));
            gate.open();
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut socket = Socket::open(&edge).await;
    set(&edge, &origin, "{\"state\":\"down\"}").await;
    assert_eq!(socket.hear().await.unwrap().payload, message);
    assert_eq!(socket.closed().await, going_away());
    gate.pass().await;
    edge.counts(&format!("{CLOSED}{{reason=\"down\"}}"), 1).await;
}

#[tokio::test]
async fn a_frame_under_way_to_the_target_is_delivered_whole_and_what_follows_it_is_not() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            switch(&mut conn).await;
            assert_eq!(next(&mut conn, true).await.unwrap().payload, vec![24; 1000]);
            assert_eq!(next(&mut conn, true).await.unwrap().closes(), going_away());
            conn.send(frame(CLOSE, None, &1001u16.to_be_bytes())).await;
            assert_eq!(conn.until_end().await, (Vec::new(), End::Closed));
            gate.open();
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut socket = Socket::open(&edge).await;
    let mask = Some([1, 2, 3, 4]);
    let whole = frame(BINARY, mask, &[24; 1000]);
    socket.0.send(&whole[..7]).await;
    set(&edge, &origin, "{\"state\":\"down\"}").await;
    assert_eq!(socket.hear().await.unwrap().closes(), going_away());
    socket.0.send(&whole[7..]).await;
    socket.0.send(frame(BINARY, mask, b"too late")).await;
    socket.0.send(frame(CLOSE, mask, &1001u16.to_be_bytes())).await;
    assert_eq!(socket.0.until_end().await, (Vec::new(), End::Closed));
    gate.pass().await;
}

#[tokio::test]
async fn sides_that_do_not_answer_and_frames_that_do_not_end_are_not_waited_for_long() {
    let origin = Origin::raw(async |mut conn| {
        switch(&mut conn).await;
        conn.send(&frame(BINARY, None, &[0; 100])[..50]).await;
        conn.until_end().await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut socket = Socket::open(&edge).await;
    socket.0.exactly(50).await.unwrap();
    set(&edge, &origin, "{\"state\":\"down\"}").await;
    let (rest, _) = within("the end", socket.0.until_end()).await;
    assert!(rest.is_empty(), "no Close within a frame: {rest:?}");
    eventually("the target's side to be closed", async || origin.open() == 0).await;
    edge.counts(&format!("{CLOSED}{{reason=\"down\"}}"), 1).await;
}

#[tokio::test]
async fn a_target_that_said_goodbye_itself_is_not_told_again() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            switch(&mut conn).await;
            assert_eq!(next(&mut conn, true).await.unwrap().closes(), (1000, "bye".to_owned()));
            assert_eq!(conn.until_end().await.0, b"", "one Close is enough");
            gate.open();
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut socket = Socket::open(&edge).await;
    socket.0.send(frame(CLOSE, Some([1, 2, 3, 4]), b"\x03\xe8bye")).await;
    set(&edge, &origin, "{\"state\":\"down\"}").await;
    assert_eq!(socket.hear().await.unwrap().closes(), going_away());
    gate.pass().await;
}

#[tokio::test]
async fn a_drain_that_is_called_off_leaves_websockets_alone() {
    let origin = Told::default().echoing().await;
    let edge = Edge::before(&origin).start().await;
    let mut socket = Socket::open(&edge).await;
    set(&edge, &origin, "{\"state\":\"drain\",\"deadline\":\"2s\"}").await;
    socket.echo(b"in the drain").await;
    set(&edge, &origin, "{\"state\":\"up\"}").await;
    assert!(still_waiting_after(Duration::from_secs(3), socket.hear()).await);
    socket.echo(b"after it").await;
}

#[tokio::test]
async fn a_target_that_fails_its_checks_keeps_its_websockets() {
    let origin = Told::default().echoing().await;
    let edge = Edge::before(&origin)
        .pool("health.interval = \"20ms\"\nhealth.timeout = \"20ms\"\nhealth.path = \"/healthz\"")
        .start()
        .await;
    let mut socket = Socket::open(&edge).await;
    origin.set_sick(true);
    edge.counts("selvedge_target_status{status=\"unhealthy\"}", 1).await;
    assert!(still_waiting_after(Duration::from_millis(1500), socket.hear()).await);
    socket.echo(b"still here").await;
}

#[tokio::test]
async fn a_target_that_a_reload_removes_keeps_its_websockets_until_its_drain_ends() {
    let (gone, stays) = (Told::default().echoing().await, Told::default().echoing().await);
    let drain = "drain.deadline = \"3s\"";
    let edge = Edge::before(&gone).pool(drain).start().await;
    let mut socket = Socket::open(&edge).await;
    let begun = Instant::now();
    edge.becomes(&Edge::before(&stays).pool(drain).text()).await;
    socket.echo(b"after the reload").await;
    assert_eq!(socket.closed().await, going_away());
    let lasted = begun.elapsed();
    assert!(lasted > Duration::from_secs(2) && lasted < Duration::from_secs(4), "{lasted:?}");
    edge.counts(&format!("{CLOSED}{{reason=\"drain\"}}"), 1).await;
}

#[tokio::test]
async fn a_stop_tells_all_websockets_within_its_deadline() {
    let told = Told::default();
    let origin = told.echoing().await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndeadline = \"3s\"").start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(Socket::open(&edge).await);
    }
    edge.terminate();
    let begun = Instant::now();
    sockets[0].echo(b"while it stops").await;
    for socket in &mut sockets {
        assert_eq!(socket.closed().await, going_away());
    }
    assert_eq!(edge.exit().await.code(), Some(0));
    let lasted = begun.elapsed();
    assert!(lasted > Duration::from_secs(2) && lasted < Duration::from_millis(3200), "{lasted:?}");
    assert!(!edge.log().contains("were cut"), "{}", edge.log());
    assert_eq!(told.take(), vec![going_away(); 20]);
}
