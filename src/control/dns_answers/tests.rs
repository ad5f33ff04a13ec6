//! Whole answers without sockets: queries written and answers read by another implementation (hickory), so that a
//! misunderstanding of the format is not shared by both ends. How other servers answer the same is tested from outside
//! (`tests/dns_answers`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_server::proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;

use super::answerer::Answerer;
use super::counters::{Counters, Transport};
use super::view::View;
use crate::config::{Dns, DnsNode, DnsPolicy, DnsServer, Health, Probe, RateLimit, ServiceName, ZoneName};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

/// A domain of `count` nodes in two zones, with the names `lb.test`, `near.lb.test` and `LABEL….LABEL.lb.test` (200 bytes
/// and more).
pub(super) fn config(count: u8) -> Dns {
    let node = |number: u8| DnsNode {
        ipv4: Some(Ipv4Addr::new(192, 0, 2, number)),
        ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number))),
        zone: if number.is_multiple_of(2) { "az-a".into() } else { "az-b".into() },
        weight: 1,
        priority: 0,
        check: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
    };
    let name = |name: &str, policy| ServiceName {
        name: name.into(),
        policy,
        ttl: Duration::from_secs(10),
        nodes: (0..usize::from(count)).collect(),
    };
    let server = |name: &str, addresses: &[&str]| DnsServer {
        name: name.into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    Dns {
        addresses: Vec::new(),
        domain: "lb.test".into(),
        contact: "hostmaster@shop.test".into(),
        negative_ttl: Duration::from_secs(60),
        authority_ttl: Duration::from_secs(3600),
        name_servers: vec![server("ns1.lb.test", &["192.0.2.1", "2001:db8::1"]), server("ns.shop.test", &[])],
        names: vec![
            name("lb.test", DnsPolicy::Multivalue),
            name("near.lb.test", DnsPolicy::Nearest),
            name(&long_name(), DnsPolicy::Multivalue),
        ],
        nodes: (0..count).map(node).collect(),
        nearest: vec![
            ("198.51.100.0/24".parse().unwrap(), ZoneName::from("az-a")),
            ("10.0.0.0/8".parse().unwrap(), ZoneName::from("az-b")),
        ],
        health: Health { enabled: false, ..some_health() },
        rate_limit: None,
        max_connections: 1,
        idle: Duration::from_secs(1),
    }
}

fn some_health() -> Health {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npool = \"p\"\n[[pool.p.target]]\naddress = \"127.0.0.1:1\"";
    std::fs::write(&file, text).unwrap();
    let config = crate::config::Config::load(&file, &crate::config::Overrides::default()).unwrap();
    let health = config.pools[0].health.clone();
    assert!(matches!(health.probe, Probe::Http { .. }));
    health
}

fn long_name() -> String {
    format!("{0}.{0}.{0}.{0}.lb.test", "a".repeat(59))
}

fn answerer(config: &Dns, good: &[bool]) -> Answerer {
    let view = Arc::new(ArcSwap::from_pointee(View::new(Arc::new(config.clone()), good)));
    Answerer::new(view, Arc::new(Counters::default()))
}

fn query(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

fn with_edns(mut message: Message, payload: u16, options: Vec<EdnsOption>) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    options.into_iter().for_each(|option| edns.options_mut().insert(option));
    message.set_edns(edns);
    message
}

fn ask_by(answerer: &Answerer, query: &Message, by: Transport) -> Message {
    let mut answer = Vec::new();
    assert!(answerer.answer(&query.to_vec().unwrap(), CLIENT, by, &mut answer), "an answer");
    let message = Message::from_vec(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!((message.id, message.message_type), (query.id, MessageType::Response));
    message
}

fn ask(answerer: &Answerer, query: &Message) -> Message {
    ask_by(answerer, query, Transport::Udp)
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> =
        message.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
    addresses.sort();
    addresses
}

fn v4(numbers: &[u8]) -> Vec<IpAddr> {
    numbers.iter().map(|number| IpAddr::V4(Ipv4Addr::new(192, 0, 2, *number))).collect()
}

#[test]
fn addresses_are_answered_under_the_name_as_it_was_written() {
    let answerer = answerer(&config(2), &[true, true]);
    let answer = ask(&answerer, &query("lB.TeSt.", RecordType::A));
    assert_eq!((answer.response_code, answer.authoritative), (ResponseCode::NoError, true));
    assert_eq!(addresses(&answer), v4(&[0, 1]));
    for record in &answer.answers {
        assert_eq!((record.name.to_string().as_str(), record.ttl), ("lB.TeSt.", 10));
        assert_eq!((record.record_type(), record.dns_class), (RecordType::A, DNSClass::IN));
    }
    assert!(answer.authorities.is_empty() && answer.additionals.is_empty() && answer.edns.is_none());
    let six = ask(&answerer, &query("lb.test.", RecordType::AAAA));
    assert!(addresses(&six).iter().all(IpAddr::is_ipv6) && six.answers.len() == 2);
}

#[test]
fn a_node_that_is_not_good_is_not_answered_and_all_are_when_none_is() {
    let config = config(3);
    let answered =
        |good: &[bool]| addresses(&ask(&answerer(&config, good), &query("lb.test.", RecordType::A)));
    assert_eq!(answered(&[true, false, true]), v4(&[0, 2]));
    assert_eq!(answered(&[false, false, false]), v4(&[0, 1, 2]));
}

#[test]
fn what_there_is_not_comes_with_the_soa_record() {
    let answerer = answerer(&config(1), &[true]);
    for (name, rtype, rcode) in [
        ("no.lb.test.", RecordType::A, ResponseCode::NXDomain),
        ("a.near.lb.test.", RecordType::A, ResponseCode::NXDomain),
        ("lb.test.", RecordType::TXT, ResponseCode::NoError),
        ("lb.test.", RecordType::CAA, ResponseCode::NoError),
        ("lb.test.", RecordType::Unknown(4711), ResponseCode::NoError),
        ("near.lb.test.", RecordType::NS, ResponseCode::NoError),
        ("ns1.lb.test.", RecordType::MX, ResponseCode::NoError),
        // A branch on the way to the long name.
        (&long_name()[60..], RecordType::A, ResponseCode::NoError),
    ] {
        let answer = ask(&answerer, &query(name, rtype));
        assert_eq!((answer.response_code, answer.authoritative), (rcode, true), "{name} {rtype}");
        assert!(answer.answers.is_empty(), "{name} {rtype}");
        let [record] = &answer.authorities[..] else { panic!("{name} {rtype}: {answer}") };
        let RData::SOA(soa) = &record.data else { panic!("{record}") };
        assert_eq!((record.name.to_string().as_str(), record.ttl, soa.minimum), ("lb.test.", 60, 60));
        assert_eq!(soa.mname.to_string(), "ns1.lb.test.");
        assert_eq!(soa.rname.to_string(), "hostmaster.shop.test.");
    }
}

#[test]
fn name_servers_are_answered_with_their_addresses() {
    let answerer = answerer(&config(1), &[true]);
    let answer = ask(&answerer, &query("lb.test.", RecordType::NS));
    let names: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(names, ["ns1.lb.test.", "ns.shop.test."]);
    assert!(answer.answers.iter().all(|record| record.ttl == 3600));
    let glue: Vec<_> = answer.additionals.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(glue, ["ns1.lb.test.", "ns1.lb.test."]);
    let own = ask(&answerer, &query("ns1.lb.test.", RecordType::A));
    assert_eq!(addresses(&own), v4(&[1]));
}

#[test]
fn other_domains_classes_and_transfers_are_refused() {
    let answerer = answerer(&config(1), &[true]);
    let mut chaos = query("lb.test.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    for query in [
        query("test.", RecordType::A),
        query("lb.test.org.", RecordType::A),
        query(".", RecordType::NS),
        query("lb.test.", RecordType::AXFR),
        chaos,
    ] {
        let answer = ask(&answerer, &query);
        assert_eq!((answer.response_code, answer.authoritative), (ResponseCode::Refused, false), "{query}");
        assert_eq!(answer.queries, query.queries);
        assert!(answer.authorities.is_empty());
    }
}

#[test]
fn only_queries_are_implemented() {
    let answerer = answerer(&config(1), &[true]);
    for opcode in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut message = query("lb.test.", RecordType::SOA);
        message.metadata.op_code = opcode;
        assert_eq!(ask(&answerer, &message).response_code, ResponseCode::NotImp, "{opcode}");
    }
}

#[test]
fn anything_is_answered_with_one_kind_of_record() {
    let answerer = answerer(&config(2), &[true, true]);
    let answer = ask(&answerer, &query("lb.test.", RecordType::ANY));
    assert_eq!(addresses(&answer), v4(&[0, 1]));
}

#[test]
fn edns_is_answered_as_it_was_asked() {
    let answerer = answerer(&config(1), &[true]);
    for name in ["lb.test.", "no.lb.test.", "example.org."] {
        let answer = ask(&answerer, &with_edns(query(name, RecordType::A), 4096, Vec::new()));
        let edns = answer.edns.unwrap_or_else(|| panic!("EDNS for {name}"));
        assert_eq!((edns.version(), edns.max_payload(), edns.options().as_ref().len()), (0, 1232, 0));
    }
    let mut future = with_edns(query("lb.test.", RecordType::A), 512, Vec::new());
    if let Some(edns) = future.edns.as_mut() {
        edns.set_version(1);
    }
    let answer = ask(&answerer, &future);
    // hickory calls it by the other name of the same number.
    assert_eq!(u16::from(answer.response_code), 16);
    assert_eq!(answer.edns.map(|edns| edns.version()), Some(0));
}

#[test]
fn the_nearest_zone_is_that_of_the_resolver_or_of_the_network_it_names() {
    let answerer = answerer(&config(4), &[true; 4]);
    let near = || query("near.lb.test.", RecordType::A);
    assert_eq!(addresses(&ask(&answerer, &near())), v4(&[0, 2]), "the resolver stands in az-a");
    let told = |address: &str, prefix| {
        let subnet = EdnsOption::Subnet(ClientSubnet::new(address.parse().unwrap(), prefix, 0));
        let answer = ask(&answerer, &with_edns(near(), 1232, vec![subnet]));
        let edns = answer.edns.as_ref().unwrap();
        let Some(EdnsOption::Subnet(echo)) = edns.option(EdnsCode::Subnet) else {
            panic!("no echo: {answer}")
        };
        assert_eq!((echo.addr().to_string().as_str(), echo.source_prefix()), (address, prefix));
        (addresses(&answer), echo.scope_prefix())
    };
    assert_eq!(told("10.1.2.0", 24), (v4(&[1, 3]), 8));
    assert_eq!(told("198.51.100.0", 24), (v4(&[0, 2]), 24));
    assert_eq!(told("203.0.113.0", 24), (v4(&[0, 1, 2, 3]), 5), "nobody's: all; 200.0.0.0/5 holds no range");
    assert_eq!(told("0.0.0.0", 0), (v4(&[0, 2]), 0), "it does not tell: where the resolver stands");
}

#[test]
fn a_network_is_repeated_where_it_decides_nothing_and_the_answer_is_for_all() {
    let answerer = answerer(&config(2), &[true; 2]);
    let subnet = EdnsOption::Subnet(ClientSubnet::new("10.1.2.0".parse().unwrap(), 24, 0));
    for name in ["lb.test.", "no.lb.test."] {
        let answer = ask(&answerer, &with_edns(query(name, RecordType::A), 1232, vec![subnet.clone()]));
        let edns = answer.edns.unwrap();
        let Some(EdnsOption::Subnet(echo)) = edns.option(EdnsCode::Subnet) else { panic!("no echo") };
        assert_eq!(echo.scope_prefix(), 0, "{name}");
    }
}

#[test]
fn what_does_not_fit_is_left_to_tcp() {
    let answerer = answerer(&config(8), &[true; 8]);
    // Eight addresses fit behind every name; together with a long option they do not.
    let option = || vec![EdnsOption::Subnet(ClientSubnet::new("2001:db8::1".parse().unwrap(), 128, 0))];
    let long = |payload| with_edns(query(&long_name(), RecordType::AAAA), payload, option());
    let answer = ask(&answerer, &long(512));
    assert!(answer.truncation && answer.answers.is_empty() && answer.authoritative, "{answer}");
    assert!(answer.edns.is_some());
    let whole = ask_by(&answerer, &long(512), Transport::Tcp);
    assert_eq!((whole.truncation, whole.answers.len()), (false, 8));
    let roomy = ask(&answerer, &long(1232));
    assert_eq!((roomy.truncation, roomy.answers.len()), (false, 8));
    assert_eq!(answerer.counters.truncated.get(), 1);
}

#[test]
fn beyond_the_rate_limit_some_are_sent_to_tcp_and_the_rest_gets_nothing() {
    let mut config = config(1);
    config.rate_limit = Some(RateLimit { responses: 10, slip: 2, exempt: Vec::new() });
    let answerer = answerer(&config, &[true]);
    let message = query("lb.test.", RecordType::A).to_vec().unwrap();
    let (mut whole, mut truncated) = (0, 0);
    for _ in 0..110 {
        let mut answer = Vec::new();
        if answerer.answer(&message, CLIENT, Transport::Udp, &mut answer) {
            assert!(
                answer.len() <= message.len() + 16,
                "an answer to a forged sender is no larger than its query"
            );
            let answer = Message::from_vec(&answer).unwrap();
            (whole, truncated) =
                if answer.truncation { (whole, truncated + 1) } else { (whole + 1, truncated) };
        }
    }
    // What little time it takes may earn another answer.
    assert!((10..15).contains(&whole), "{whole}");
    assert!((45..=50).contains(&truncated), "{truncated}");
    let mut answer = Vec::new();
    assert!(answerer.answer(&message, CLIENT, Transport::Tcp, &mut answer), "TCP is not limited");
    let counters = &answerer.counters;
    assert_eq!(counters.limited[0].get(), truncated);
    assert_eq!(counters.limited[1].get(), 110 - whole - truncated);
    assert_eq!((counters.received[0].get(), counters.received[1].get()), (110, 1));
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("lb.test.".to_owned()),
        Just("near.lb.test.".to_owned()),
        Just(long_name() + "."),
        Just("no.lb.test.".to_owned()),
        Just("ns1.lb.test.".to_owned()),
        "[a-zA-Z]{1,63}(\\.[a-z]{1,20}){0,4}\\.",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_answer_over_udp_can_be_read_and_fits(
        name in any_name(),
        rtype in prop_oneof![0u16..300, any::<u16>()],
        payload in prop::option::of(any::<u16>()),
        good in prop::array::uniform8(any::<bool>()),
    ) {
        let answerer = answerer(&config(8), &good);
        let mut message = query(&name, RecordType::from(rtype));
        if let Some(payload) = payload {
            message = with_edns(message, payload, Vec::new());
        }
        let limit = usize::from(payload.unwrap_or(512).clamp(512, 1232));
        let mut answer = Vec::new();
        prop_assert!(answerer.answer(&message.to_vec().unwrap(), CLIENT, Transport::Udp, &mut answer));
        prop_assert!(answer.len() <= limit, "{} > {limit}", answer.len());
        let answer = Message::from_vec(&answer).unwrap();
        prop_assert_eq!(answer.id, message.id);
        prop_assert_eq!(&answer.queries, &message.queries);
        prop_assert_eq!(answer.edns.is_some(), payload.is_some());
        prop_assert_eq!(answer.answers.is_empty() && answer.authorities.is_empty(), !matches!(
            (answer.response_code, answer.truncation),
            (ResponseCode::NoError | ResponseCode::NXDomain, false)
        ));
    }

    #[test]
    fn no_bytes_are_too_odd_to_be_answered(
        start in prop::option::of(Just(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x02lb\x04test\x00".to_vec())),
        bytes in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let message = [start.unwrap_or_default(), bytes].concat();
        let mut answer = Vec::new();
        if answerer(&config(2), &[true; 2]).answer(&message, CLIENT, Transport::Udp, &mut answer) {
            prop_assert_eq!(&answer[..2], &message[..2]);
            prop_assert!(answer[2] & 0x80 != 0 && answer.len() <= 1232);
        } else {
            prop_assert!(answer.is_empty());
        }
    }
}
