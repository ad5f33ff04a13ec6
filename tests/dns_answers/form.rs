//! Answers have the form of those of Knot and BIND for the same domain.
//!
//! Where the two differ from each other, a case says whose form is taken. What is compared: header, question, records
//! with their times to live, EDNS with its options; silence too.

use std::time::Duration;

use super::Answering;
use super::ask::{A, AAAA, Ask, Connection, NS, SOA, TXT, form, opt, read, subnet, tcp, try_udp, udp, wire};
use super::peers::{DOMAIN, Peer, SELVEDGE};
use crate::support::Findings;

/// Whose form an answer has.
#[derive(Clone, Copy, PartialEq)]
enum Like {
    /// Both servers answer like this.
    Both,
    /// Knot does; BIND does something else.
    Knot,
    /// BIND does; Knot does something else.
    Bind,
}

use Like::{Bind, Both, Knot};

/// How long silence must last to count as one.
const SILENCE: Duration = Duration::from_millis(400);

fn ask(rtype: u16) -> Ask {
    Ask::new(DOMAIN, rtype)
}

fn below(label: &str, rtype: u16) -> Ask {
    Ask::new(&format!("{label}.{DOMAIN}"), rtype)
}

fn everyday() -> Vec<(&'static str, Like, Ask)> {
    vec![
        ("addresses", Both, ask(A)),
        ("addresses with EDNS", Both, ask(A).edns()),
        ("IPv6 addresses", Both, ask(AAAA)),
        ("a longer name", Both, below("www.eu", A)),
        ("without recursion desired", Both, ask(A).flags(0)),
        ("NXDOMAIN", Both, below("no", A)),
        ("NXDOMAIN with EDNS", Both, below("no", A).edns()),
        ("NXDOMAIN below a name", Both, below("x.www.eu", A)),
        ("no data", Both, ask(TXT)),
        ("no data with EDNS", Both, ask(TXT).edns()),
        ("no data: CAA", Both, ask(257)),
        ("no data: HTTPS", Both, ask(65)),
        ("no data: DS", Both, ask(43)),
        ("no data: DNSKEY", Both, ask(48)),
        ("no data: an unknown type", Both, ask(4711)),
        ("no data: an empty branch", Both, below("eu", A)),
        ("no data: NS of a name", Both, below("www.eu", NS)),
        ("no data: SOA of a name", Both, below("www.eu", SOA)),
        ("SOA", Both, ask(SOA)),
        ("SOA with EDNS", Both, ask(SOA).edns()),
        ("NS", Both, ask(NS)),
        ("NS with EDNS", Both, ask(NS).edns()),
        ("a name server's address", Both, below("ns1", A)),
        ("a name server's IPv6 address", Both, below("ns1", AAAA)),
        ("any, of an empty branch", Both, below("eu", 255)),
        ("any, of no name", Both, below("no", 255)),
        ("another domain", Both, Ask::new("example.org", A)),
        ("the parent domain", Both, Ask::new("shop.test", A)),
        ("the root", Both, Ask::new("", NS)),
        ("another class", Both, Ask::of_class(DOMAIN, A, 4)),
        // BIND writes names as the zone file does.
        ("a name in mixed case", Knot, Ask::new("lB.sHoP.tEsT", A)),
        // Knot adds why (an extended error), BIND does not.
        ("another domain with EDNS", Bind, Ask::new("example.org", A).edns()),
        // BIND repeats that checking is disabled.
        ("checking disabled", Knot, ask(A).flags(0x0110)),
    ]
}

fn unusual() -> Vec<(&'static str, Like, Ask)> {
    let far = Ask::new("example.org", A);
    vec![
        ("DNSSEC wanted", Both, ask(A).opt(1232, [0, 0, 0x80, 0], &[])),
        ("unknown flags of EDNS", Both, ask(A).opt(1232, [0, 0, 0x7f, 0xff], &[])),
        ("EDNS of no size", Both, ask(A).opt(0, [0; 4], &[])),
        ("EDNS of all size", Both, ask(A).opt(65_535, [0; 4], &[])),
        ("an unknown option", Both, ask(A).opt(1232, [0; 4], &[0xff, 0xf0, 0, 1, 7])),
        ("EDNS version 1", Both, ask(A).opt(1232, [0, 1, 0, 0], &[])),
        ("EDNS version 1, no such name", Both, below("no", A).opt(1232, [0, 1, 0, 0], &[])),
        ("EDNS version 1, another domain", Both, far.opt(1232, [0, 1, 0, 0], &[])),
        ("authentic data wanted", Both, ask(A).flags(0x0120)),
        ("a reserved bit", Both, ask(A).flags(0x0140)),
        ("bits of an answer", Both, ask(A).flags(0x0785)),
        ("a client's network", Bind, ask(A).subnet(1, 24, &[192, 0, 2])),
        ("a client's network of IPv6", Bind, ask(A).subnet(2, 48, &[0x20, 1, 0xd, 0xb8, 0, 7])),
        ("a client that tells nothing", Bind, ask(A).subnet(1, 0, &[])),
        ("a record among the answers", Both, {
            let record = [&wire(DOMAIN)[..], &[0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4]].concat();
            ask(A).counts([1, 1, 0, 0]).tail(&record)
        }),
        ("mail of old", Bind, ask(253)),
        ("mail agents of old", Bind, ask(254)),
        ("a type no record has", Bind, ask(250)),
        ("OPT as a type", Bind, ask(41)),
        ("status", Knot, ask(A).opcode(2)),
        ("status with EDNS", Knot, ask(A).opcode(2).edns()),
        ("an opcode to come", Knot, ask(A).opcode(15)),
    ]
}

fn broken() -> Vec<(&'static str, Like, Ask)> {
    vec![
        ("an answer", Both, ask(A).flags(0x8100)),
        ("no question", Both, ask(A).counts([0; 4]).body(&[])),
        ("no question, with EDNS", Both, ask(A).counts([0; 4]).body(&[]).edns()),
        ("a record that is not there", Both, ask(A).counts([1, 0, 0, 1])),
        ("EDNS twice", Both, ask(A).edns().edns()),
        ("EDNS among the answers", Both, ask(A).counts([1, 1, 0, 0]).tail(&opt(1232, [0; 4], &[]))),
        ("an option that is cut", Both, ask(A).opt(1232, [0; 4], &[0, 10, 0, 9, 1])),
        // Knot does not look at the option; BIND leaves EDNS out of the answer here alone.
        ("a network with bits beyond its prefix", Bind, ask(A).subnet(1, 22, &[192, 0, 3])),
        ("a network of 33 bits", Bind, ask(A).subnet(1, 33, &[192, 0, 2, 1, 0])),
        ("a network of no known family", Bind, ask(A).subnet(3, 8, &[1])),
        ("a network that is cut", Bind, ask(A).opt(1232, [0; 4], &[0, 8, 0, 2, 0, 1])),
        // Knot is silent where not even the question can be read.
        ("a header and no more", Bind, ask(A).body(&[])),
        ("a name that is cut", Bind, ask(A).body(b"\x02lb\x04sh")),
        ("a question that is cut", Bind, ask(A).body(&[&wire(DOMAIN)[..], &[0, 1, 0]].concat())),
        ("a compressed question", Bind, ask(A).body(b"\xc0\x0c\0\x01\0\x01")),
        ("a label of an unknown kind", Bind, ask(A).body(b"\x41a\0\0\x01\0\x01")),
        ("a name that is too long", Bind, {
            let label = [&[63][..], &[b'a'; 63]].concat();
            ask(A).body(&[label.repeat(4), vec![0, 0, 1, 0, 1]].concat())
        }),
        ("two questions", Bind, ask(A).counts([2, 0, 0, 0]).tail(&ask(A).body)),
        ("a record of EDNS with a name", Bind, {
            ask(A).counts([1, 0, 0, 1]).tail(&[b"\x01a", &opt(1232, [0; 4], &[])[..]].concat())
        }),
        // BIND overlooks it.
        ("bytes behind the end", Knot, ask(A).tail(b"xx")),
    ]
}

/// Asks our server and the peers the same, and gathers where the answers differ.
async fn compare(cases: Vec<(&'static str, Like, Ask)>) {
    let (ours, knot, bind) = (Answering::start(SELVEDGE).await, Peer::knot().await, Peer::bind().await);
    let mut findings = Findings::default();
    for (what, like, ask) in cases {
        let query = ask.bytes();
        let patience = if what == "an answer" { SILENCE } else { Duration::from_secs(5) };
        let own = form(try_udp(ours.dns, &query, patience).await.as_deref());
        for (peer, name, other) in [(&knot, "Knot", Bind), (&bind, "BIND", Knot)] {
            if like != other {
                let theirs = form(try_udp(peer.address, &query, patience).await.as_deref());
                findings.expect(own == theirs, || format!("{what}:\nours: {own}\n{name}: {theirs}"));
            }
        }
        if own != "silence" {
            let mut connection = Connection::open(ours.dns).await;
            connection.send(&query).await;
            let by_tcp = form(connection.receive().await.as_deref());
            findings.expect(own == by_tcp, || format!("{what}:\nover UDP: {own}\nover TCP: {by_tcp}"));
        }
    }
    findings.report();
}

#[tokio::test]
async fn everyday_answers_have_the_form_of_knot_and_bind() {
    compare(everyday()).await;
}

#[tokio::test]
async fn answers_to_unusual_questions_have_the_form_of_knot_and_bind() {
    compare(unusual()).await;
}

#[tokio::test]
async fn answers_to_broken_questions_have_the_form_of_knot_and_bind() {
    compare(broken()).await;
}

#[tokio::test]
async fn transfers_and_updates_are_not_for_anybody() {
    let ours = Answering::start(SELVEDGE).await;
    for (rtype, rcode) in [(252, 5), (251, 5)] {
        let answer = tcp(ours.dns, &ask(rtype)).await;
        assert_eq!((u16::from(answer.response_code), answer.answers.len()), (rcode, 0), "{rtype}");
    }
    for opcode in [4, 5, 6] {
        let answer = udp(ours.dns, &ask(SOA).opcode(opcode)).await;
        assert_eq!(u16::from(answer.response_code), 4, "opcode {opcode}");
    }
}

#[tokio::test]
async fn a_scope_in_a_query_breaks_the_rules() {
    let ours = Answering::start(SELVEDGE).await;
    let query = ask(A).opt(1232, [0; 4], &subnet(1, 24, 24, &[192, 0, 2]));
    assert_eq!(u16::from(udp(ours.dns, &query).await.response_code), 1);
}

/// Sixteen name servers with long names do not fit into a datagram.
#[tokio::test]
async fn an_answer_that_is_too_long_is_empty_and_whole_over_tcp() {
    let servers: String = (0..16)
        .map(|number| format!("[[dns.name_server]]\nname = \"{}{number}.other.test\"\n", "n".repeat(60)))
        .collect();
    let lines = format!(
        "domain = \"{DOMAIN}\"\nhealth.enabled = false\n{servers}[[dns.node]]\nipv4 = \"192.0.2.10\"\n"
    );
    let ours = Answering::start(&lines).await;
    for (query, limit) in [(ask(NS), 512), (ask(NS).edns(), 1232)] {
        let bytes = try_udp(ours.dns, &query.bytes(), Duration::from_secs(5)).await.unwrap();
        let answer = read(&bytes);
        assert!(bytes.len() <= limit);
        assert!(answer.truncation && answer.authoritative && answer.answers.is_empty(), "{answer}");
        assert_eq!(answer.edns.is_some(), query.counts[3] == 1);
        let whole = tcp(ours.dns, &query).await;
        assert_eq!((whole.truncation, whole.answers.len()), (false, 16));
    }
    assert_eq!(ours.edge.metric("selvedge_dns_truncated_total").await, 2);
}
