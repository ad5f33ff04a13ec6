//! What Redis and its clients say to each other (RESP 2): commands out, replies in. No I/O.
//!
//! Only what the shop asks is understood; whatever is not, or is too large, breaks the connection.

/// Bytes of one reply, at most.
pub(super) const MAX_REPLY: usize = 1 << 20;
/// Arrays inside arrays, at most.
const MAX_DEPTH: u32 = 4;

/// One command: its name and arguments.
pub(crate) type Command<'a> = Vec<&'a [u8]>;

/// What came back for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Number(i64),
    /// `None`: there is nothing.
    Bytes(Option<Vec<u8>>),
    List(Vec<Self>),
}

impl Reply {
    /// The bytes that were asked for, if there are any.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => bytes.as_deref(),
            _ => None,
        }
    }

    /// Bytes or a status as text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Status(text) => Some(text),
            Self::Bytes(Some(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Appends a command as it is sent.
pub(super) fn encode(command: &[&[u8]], to: &mut Vec<u8>) {
    to.extend(format!("*{}\r\n", command.len()).bytes());
    for part in command {
        to.extend(format!("${}\r\n", part.len()).bytes());
        to.extend_from_slice(part);
        to.extend_from_slice(b"\r\n");
    }
}

/// The first reply in these bytes, and how many of them it takes; `None` when it is not all there yet. An error is nothing that
/// Redis says.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, &'static str> {
    parse_at(bytes, 0, 0)
}

fn parse_at(bytes: &[u8], start: usize, depth: u32) -> Result<Option<(Reply, usize)>, &'static str> {
    let Some(&kind) = bytes.get(start) else { return Ok(None) };
    let Some(end) = bytes[start..].windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() - start > MAX_REPLY { Err("a line without end") } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[start + 1..start + end]).map_err(|_| "a line that is no text")?;
    let next = start + end + 2;
    let number = || line.parse::<i64>().map_err(|_| "a number that is none");
    let reply = match kind {
        b'+' => Reply::Status(line.to_owned()),
        b'-' => Reply::Error(line.to_owned()),
        b':' => Reply::Number(number()?),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Reply::Bytes(None),
            Ok(length) if length > MAX_REPLY => return Err("a reply that is too large"),
            Ok(length) => {
                if bytes.len() < next + length + 2 {
                    return Ok(None);
                }
                let content = bytes[next..next + length].to_vec();
                return Ok(Some((Reply::Bytes(Some(content)), next + length + 2)));
            }
        },
        b'*' if depth < MAX_DEPTH => {
            let (mut items, mut next) = (Vec::new(), next);
            for _ in 0..number()? {
                let Some((item, after)) = parse_at(bytes, next, depth + 1)? else { return Ok(None) };
                items.push(item);
                next = after;
            }
            return Ok(Some((Reply::List(items), next)));
        }
        _ => return Err("a reply of an unknown kind"),
    };
    Ok(Some((reply, next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_understood_wherever_they_are_cut() {
        let bytes = b"*5\r\n+OK\r\n-ERR no\r\n:-7\r\n$-1\r\n*2\r\n$3\r\na\r\n\r\n*0\r\n:1\r\n";
        let whole = Reply::List(vec![
            Reply::Status("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Number(-7),
            Reply::Bytes(None),
            Reply::List(vec![Reply::Bytes(Some(b"a\r\n".to_vec())), Reply::List(vec![])]),
        ]);
        let length = bytes.len() - 4;
        assert_eq!(parse(bytes), Ok(Some((whole, length))));
        for cut in 0..length {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for wrong in [
            "HTTP/1.1 400\r\n",
            ":x\r\n",
            "$99999999999\r\n",
            "*x\r\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(parse(&vec![b'+'; MAX_REPLY + 2]).is_err());
    }

    #[test]
    fn a_command_is_a_list_of_bytes() {
        let mut sent = Vec::new();
        encode(&[b"SET", b"k", b"a\r\n"], &mut sent);
        assert_eq!(sent, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\na\r\n\r\n");
    }
}
