//! How a command asks a system that runs: over a unix socket in its folder, one line of JSON each way.
//!
//! Whoever may enter the folder may do all of it; there is nothing else that guards it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::trouble::Trouble;

/// For what a client sends.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// For the answer, the work included.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest line that is read.
const MAX_LINE: u64 = 1 << 20;

/// A wish with the way back.
pub(crate) type Asked<W, S> = (W, oneshot::Sender<Result<S, String>>);

/// Asks the system that listens at `socket`; `whose` says to people what must run for it.
pub(crate) async fn ask<W: Serialize, S: DeserializeOwned>(
    socket: &Path,
    whose: &str,
    wish: &W,
) -> Result<S, Trouble> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        let line = serde_json::to_string(wish).map_err(std::io::Error::other)?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        line_of(&mut stream).await
    };
    let shown = socket.display();
    let answer = match timeout(DEADLINE, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Trouble::new(format!("nobody answers at {shown}: {error}; {whose}"))),
        Err(_) => return Err(Trouble::new(format!("no answer from {shown} within {DEADLINE:?}"))),
    };
    let answer: Result<S, String> = serde_json::from_str(&answer).map_err(|error| {
        Trouble::new(format!(
            "the answer from {shown} is not understood ({error}): is it of another version?"
        ))
    })?;
    answer.map_err(Trouble::new)
}

/// Answers at `socket` until the receiver of the wishes is gone. An error is one line.
pub(crate) fn listen<W, S>(socket: &Path, wishes: mpsc::Sender<Asked<W, S>>) -> Result<(), String>
where
    W: DeserializeOwned + Send + 'static,
    S: Serialize + Send + 'static,
{
    // One that a killed system has left; whoever holds the folder is the only one.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .map_err(|error| format!("no commands will be taken at {}: {error}", socket.display()))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let wishes = wishes.clone();
            tokio::spawn(timeout(DEADLINE, answer(stream, wishes)));
        }
    });
    Ok(())
}

async fn answer<W: DeserializeOwned, S: Serialize>(
    mut stream: UnixStream,
    wishes: mpsc::Sender<Asked<W, S>>,
) {
    let Ok(Ok(line)) = timeout(READ_DEADLINE, line_of(&mut stream)).await else { return };
    let answer: Result<S, String> = match serde_json::from_str(&line) {
        Err(error) => Err(format!("this is no command: {error}")),
        Ok(wish) => {
            let (reply, answered) = oneshot::channel();
            let stopping = || Err("the system is stopping".to_owned());
            match wishes.send((wish, reply)).await {
                Ok(()) => answered.await.unwrap_or_else(|_| stopping()),
                Err(_) => stopping(),
            }
        }
    };
    let answer = serde_json::to_string(&answer).unwrap_or_else(|error| error.to_string());
    // Whoever asked may have gone.
    let _ = stream.write_all(format!("{answer}\n").as_bytes()).await;
}

async fn line_of(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await?;
    match line.ends_with('\n') {
        true => Ok(line),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
