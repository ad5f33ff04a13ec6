//! Headers of the PROXY protocol: those that are taken, those that are not, and that no bytes do harm.

use proptest::prelude::*;

use super::*;

fn ends(source: &str, destination: &str) -> Ends {
    Ends::new(source.parse().unwrap(), destination.parse().unwrap())
}

/// The header of version 2 with this command, family and rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xc0, 0x00, 0x01, 0xbb];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

fn announced(bytes: &[u8]) -> Option<Ends> {
    match decode(bytes) {
        Ok(Decoded::Complete { length, ends }) if length == bytes.len() => ends,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn version_1_names_both_ends() {
    let v4 = announced(b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\r\n");
    assert_eq!(v4, Some(ends("192.0.2.7:49152", "198.51.100.1:443")));
    let v6 = announced(b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n");
    assert_eq!(v6, Some(ends("[2001:db8::7]:0", "[::1]:65535")));
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!((longest.len(), announced(longest.as_bytes())), (107, None));
    assert_eq!(announced(b"PROXY UNKNOWN\r\n"), None);
}

#[test]
fn version_1_is_taken_strictly() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\r\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 49152 443 \r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 49152 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 49152\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 49152 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 049152 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +9152 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 \r\n",
        "PROXY TCP4 2001:db8::7 ::1 1 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 1 443\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 1 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 1 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(decode(line.as_bytes()), Err(Fault::Malformed), "{line:?}");
    }
    for line in ["GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "PROXYTCP4", "\x16\x03\x01", "\r\nPROXY"] {
        assert_eq!(decode(line.as_bytes()), Err(Fault::Missing), "{line:?}");
    }
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    assert_eq!(decode(&endless), Err(Fault::TooLong));
    assert_eq!(decode(&endless[..106]), Ok(Decoded::Incomplete));
}

#[test]
fn version_2_names_both_ends() {
    assert_eq!(announced(&v2(0x21, 0x11, &V4)), Some(ends("192.0.2.7:49152", "198.51.100.1:443")));
    let v6 = [&[0xff; 16][..], &[0; 15], &[1, 0, 80, 1, 187]].concat();
    let expected = ends("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:80", "[::1]:443");
    assert_eq!(announced(&v2(0x21, 0x21, &v6)), Some(expected));
    for (command, family, rest) in [
        (0x20, 0x11, &V4[..]),
        (0x20, 0xff, &[]),
        (0x21, 0, &[1, 2]),
        (0x21, 0x31, &[0; 216]),
        (0x21, 0x12, &V4),
    ] {
        assert_eq!(announced(&v2(command, family, rest)), None, "{command:x} {family:x}");
    }
}

#[test]
fn version_2_is_taken_strictly() {
    for (command, family, rest) in [
        (0x11, 0x11, &V4[..]),
        (0x22, 0x11, &V4),
        (0x31, 0x11, &V4),
        (0x21, 0x41, &V4),
        (0x21, 0x13, &V4),
        (0x21, 0x11, &V4[..11]),
        (0x21, 0x21, &V4),
        (0x21, 0x11, &[&V4[..], &[4, 0]].concat()),
        (0x21, 0x11, &[&V4[..], &[4, 0, 2, 0]].concat()),
        (0x21, 0x11, &[&V4[..], &tlv(UNIQUE_ID, &[7; 129])].concat()),
    ] {
        assert_eq!(
            decode(&v2(command, family, rest)),
            Err(Fault::Malformed),
            "{command:x} {family:x} {rest:?}"
        );
    }
    assert!(decode(&v2(0x21, 0x11, &[&V4[..], &tlv(4, &[0; V2_MAX - 16 - 12 - 3])].concat())).is_ok());
    assert_eq!(decode(&v2(0x20, 0, &[0; V2_MAX - 15])[..16]), Err(Fault::TooLong), "known from its length");
}

#[test]
fn tlvs_of_some_kinds_are_passed_on_in_their_order() {
    let kept =
        [tlv(ALPN, b"h2"), tlv(0xea, b"\x01vpce-1"), tlv(AUTHORITY, b"shop.test"), tlv(UNIQUE_ID, b"77")];
    let dropped =
        [tlv(4, &[0; 9]), tlv(0x20, &[1, 0, 0, 0, 0]), tlv(0x30, b"ns"), tlv(0xf0, b"x"), tlv(0xdf, b"")];
    let all: Vec<_> = kept.iter().zip(&dropped).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let header = v2(0x21, 0x11, &[&V4[..], &all.concat()].concat());
    let ends = announced(&header).unwrap();
    assert_eq!(*ends.tlvs, *kept.concat());
    assert_eq!(announced(&ends.encode()), Some(ends), "what we send is what we were told");
}

#[test]
fn a_checksum_is_verified_if_there_is_one() {
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283, "the check value of CRC-32C");
    let with = |sum: &[u8]| v2(0x21, 0x11, &[&V4[..], &tlv(CRC32C, sum), &tlv(ALPN, b"h2")].concat());
    let right = crc32c(with(&[0; 4]).into_iter()).to_be_bytes();
    assert!(announced(&with(&right)).is_some());
    assert_eq!(decode(&with(&[0; 4])), Err(Fault::Checksum));
    assert_eq!(decode(&with(&right[..3])), Err(Fault::Malformed));
    let mut altered = with(&right);
    altered[17] ^= 1;
    assert_eq!(decode(&altered), Err(Fault::Checksum));
    let twice = [&V4[..], &tlv(CRC32C, &right), &tlv(CRC32C, &right)].concat();
    assert!(decode(&v2(0x21, 0x11, &twice)).is_err());
}

#[test]
fn addresses_of_two_families_are_written_as_those_of_one() {
    let mixed = Ends { source: "192.0.2.7:1".parse().unwrap(), ..ends("[::1]:1", "[::1]:2") };
    let source = announced(&mixed.encode()).unwrap().source;
    assert_eq!(source, "[::ffff:192.0.2.7]:1".parse().unwrap());
}

proptest! {
    #[test]
    fn no_bytes_do_harm(begin in 0..3usize, rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let begins: [&[u8]; 3] = [b"", b"PROXY TCP4 ", &v2(0x21, 0x11, &[&V4[..], &[0; 200]].concat())[..28]];
        let bytes = [begins[begin], &rest].concat();
        if let Ok(Decoded::Complete { length, .. }) = decode(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_part_of_it_is_a_beginning(
        source in any::<SocketAddr>(), destination in any::<SocketAddr>(), id in prop::collection::vec(any::<u8>(), 0..128),
    ) {
        let ends = Ends { tlvs: tlv(UNIQUE_ID, &id).into(), ..Ends::new(source, destination) };
        let header = ends.encode();
        let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        match decode(&followed) {
            Ok(Decoded::Complete { length, ends: Some(read) }) => {
                prop_assert_eq!(length, header.len());
                prop_assert_eq!(read.source.ip().to_canonical(), ends.source.ip());
                prop_assert_eq!(read.destination.ip().to_canonical(), ends.destination.ip());
                prop_assert_eq!(read.tlvs, ends.tlvs);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        for length in 0..header.len() {
            prop_assert_eq!(decode(&header[..length]), Ok(Decoded::Incomplete));
        }
    }
}
