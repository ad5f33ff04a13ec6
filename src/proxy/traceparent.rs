//! `traceparent` (W3C Trace Context): which trace a request is part of, and which of its spans the target is told of.
//!
//! A trace that comes is continued, whoever sends it; whether its spans are recorded is decided elsewhere (`telemetry::spans`).
//! One that cannot be read is none: then another begins, without the `tracestate` of the first.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use super::Random;
use super::fields::Fields;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-TRACE-SPAN-FLAGS`
const LENGTH: usize = 55;
/// The flags that mean something: spans are recorded; the trace's id is random.
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// What the field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    flags: u8,
}

impl TraceParent {
    /// That of a request; `None` if it has none that can be read.
    pub(crate) fn of(headers: &Fields) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT);
        let text = all.next()?.as_bytes();
        // Of two, neither is believed.
        if all.next().is_some() { None } else { Self::parse(text) }
    }

    /// Versions to come may add something behind a `-`.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let version = number(&known[..2])?;
        let ends = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest[0] == b'-' };
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if version == 0xff || !ends || !dashes {
            return None;
        }
        let (trace, span) = (number(&known[3..35])?, number(&known[36..52])? as u64);
        let flags = number(&known[53..])? as u8 & (SAMPLED | RANDOM);
        (trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }

    /// A trace that begins here, not recorded.
    pub(crate) fn begin(random: &Random) -> Self {
        let trace = u128::from(random.next()) << 64 | u128::from(random.next().max(1));
        Self { trace, span: span(random), flags: 0 }
    }

    /// Whether its spans are recorded, as far as its sender knows.
    pub(crate) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    fn value(self) -> HeaderValue {
        let mut text = Vec::with_capacity(LENGTH);
        text.extend_from_slice(b"00-");
        hex(&mut text, self.trace, 32);
        text.push(b'-');
        hex(&mut text, u128::from(self.span), 16);
        text.push(b'-');
        hex(&mut text, u128::from(self.flags), 2);
        HeaderValue::from_maybe_shared(Bytes::from(text))
            .unwrap_or_else(|_| unreachable!("hexadecimal is printable"))
    }
}

/// An id for a span.
pub(crate) fn span(random: &Random) -> u64 {
    random.next().max(1)
}

/// Tells the target that a span of ours is its parent, in the trace that came or in one that begins. Whether that is recorded
/// is left to others, unless it was decided here that it is not: then it is `unsampled`.
pub(crate) fn pass_on(headers: &mut Fields, unsampled: bool, random: &Random) {
    let came = TraceParent::of(headers);
    let trace = came.unwrap_or_else(|| TraceParent::begin(random));
    let flags = if unsampled { trace.flags & !SAMPLED } else { trace.flags };
    if came.is_none() {
        forget(headers);
    }
    headers.insert(TRACEPARENT, TraceParent { span: span(random), flags, ..trace }.value());
}

/// Tells the target that it is asked by this span of a trace that is recorded.
pub(crate) fn tell(headers: &mut Fields, trace: u128, span: u64) {
    let flags = SAMPLED | TraceParent::of(headers).map_or(0, |came| came.flags & RANDOM);
    headers.insert(TRACEPARENT, TraceParent { trace, span, flags }.value());
}

/// Takes out what others say of a trace that is not continued.
pub(crate) fn forget(headers: &mut Fields) {
    if headers.contains(TRACESTATE) {
        headers.retain(|name, _| *name != TRACESTATE);
    }
}

/// Lower-case hexadecimal, 32 digits at most.
fn number(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn hex(text: &mut Vec<u8>, number: u128, digits: u32) {
    text.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[(number >> (digit * 4) & 15) as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn passed_on(sent: &[(HeaderName, &str)], unsampled: bool) -> Fields {
        let mut headers = Fields::new();
        for (name, value) in sent {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        pass_on(&mut headers, unsampled, &Random::seeded(1));
        headers
    }

    #[test]
    fn a_trace_keeps_its_id_and_gets_a_new_parent() {
        let state = (TRACESTATE, "a=b");
        for (flags, unsampled, expected) in [
            ("01", false, "01"),
            ("00", false, "00"),
            ("ff", false, "03"),
            ("01", true, "00"),
            ("03", true, "02"),
        ] {
            let sent = format!("00-{TRACE}-{SPAN}-{flags}");
            let headers = passed_on(&[(TRACEPARENT, &sent), state.clone()], unsampled);
            let value = headers[TRACEPARENT].to_str().unwrap();
            assert!(
                value.starts_with(&format!("00-{TRACE}-")) && value.ends_with(&format!("-{expected}")),
                "{value}"
            );
            assert!(!value.contains(SPAN) && headers.contains(TRACESTATE), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_read_begins_another_trace() {
        for sent in [
            "nonsense".to_owned(),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("01-{TRACE}-{SPAN}-01."),
        ] {
            let headers = passed_on(&[(TRACEPARENT, &sent), (TRACESTATE, "a=b")], false);
            let value = headers[TRACEPARENT].to_str().unwrap();
            assert!(value.len() == LENGTH && value.ends_with("-00") && !value.contains(TRACE), "{value}");
            assert!(!headers.contains(TRACESTATE), "{sent}");
        }
        let twice = format!("00-{TRACE}-{SPAN}-01");
        let headers = passed_on(&[(TRACEPARENT, &twice), (TRACEPARENT, &twice)], false);
        assert!(!headers[TRACEPARENT].to_str().unwrap().contains(TRACE));
    }

    #[test]
    fn a_version_to_come_is_read_as_far_as_it_is_known() {
        let headers = passed_on(&[(TRACEPARENT, &format!("cc-{TRACE}-{SPAN}-01-what-else"))], false);
        let value = headers[TRACEPARENT].to_str().unwrap();
        assert!(value.starts_with(&format!("00-{TRACE}-")) && value.len() == LENGTH, "{value}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in 1..u128::MAX, span in 1..u64::MAX, flags in 0u8..4) {
            let written = TraceParent { trace, span, flags };
            prop_assert_eq!(TraceParent::parse(written.value().as_bytes()), Some(written));
        }

        #[test]
        fn nothing_that_is_sent_breaks_the_reader(text in "[0-9a-f-]{0,70}") {
            TraceParent::parse(text.as_bytes());
        }
    }
}
