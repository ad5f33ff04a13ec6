//! One request over HTTP/2 on a connection of its own, as a check sends it: how it is answered, or why it is not.
//!
//! Has no deadline: the check has one. Reads no more of an answer than a check is interested in.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture};
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::{BODY_MAX, HEAD_MAX};

/// An answer, complete but for what is beyond [`BODY_MAX`].
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

/// Sends `request` with this body; the answer, or what is wrong with it.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<Answer, String> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(HEAD_MAX as u32);
    let (requests, connection) =
        builder.handshake::<_, Bytes>(stream).await.map_err(|error| words(&error))?;
    let mut exchange = pin!(async {
        let mut requests = requests.ready().await.map_err(|error| words(&error))?;
        let (answer, mut sending) =
            requests.send_request(request, body.is_none()).map_err(|error| words(&error))?;
        if let Some(body) = body {
            sending.send_data(body, true).map_err(|error| words(&error))?;
        }
        read(answer).await.map_err(|error| words(&error))
    });
    let mut connection = pin!(connection);
    let mut connected = true;
    // The connection may be over before the exchange has taken its last bytes from it.
    loop {
        tokio::select! {
            biased;
            result = &mut exchange => return result,
            _ = &mut connection, if connected => connected = false,
        }
    }
}

async fn read(answer: ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut arriving) = answer.await?.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = arriving.data().await {
        let data = data?;
        arriving.flow_control().release_capacity(data.len())?;
        if body.len() + data.len() > BODY_MAX {
            break;
        }
        body.extend_from_slice(&data);
    }
    let whole = arriving.is_end_stream();
    let trailers = if whole { None } else { arriving.trailers().await? };
    let trailers = trailers.unwrap_or_default();
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.freeze(), trailers })
}

/// An error in the words of the other checks.
fn words(error: &h2::Error) -> String {
    match error.get_io() {
        Some(_) => "the connection closed before the answer was complete".into(),
        None => format!("the answer is not HTTP/2: {error}"),
    }
}
