//! The greetings are those of OpenSSL 3.0, made by Python's `ssl`.

use proptest::prelude::*;

use super::*;

const CLIENT: &[u8] = include_bytes!("tests/client-1.3.bin");
const SERVER: &[u8] = include_bytes!("tests/server-1.3.bin");
const SERVER_12: &[u8] = include_bytes!("tests/server-1.2.bin");

/// A record of application data with a body of this length.
fn data(length: usize) -> Vec<u8> {
    let mut record = vec![23, 3, 3];
    record.extend_from_slice(&(length as u16).to_be_bytes());
    record.resize(5 + length, 0xaa);
    record
}

/// What comes of pieces: lengths of records, greetings.
fn play<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u16>, Vec<Greeting>) {
    let (mut records, mut begun, mut greetings) = (Records::default(), Vec::new(), Vec::new());
    for piece in pieces {
        records.data(piece, &mut begun);
        greetings.extend(records.greeting());
    }
    (begun, greetings)
}

#[test]
fn greetings_name_the_server_and_the_version() {
    assert_eq!(play([CLIENT]).1, [Greeting::Client(Some("discord.com".into()))]);
    assert_eq!(play([SERVER]).1, [Greeting::Server(Some("1.3"))]);
    assert_eq!(play([SERVER_12]).1, [Greeting::Server(Some("1.2"))]);
}

#[test]
fn every_prefix_is_known_or_undecided() {
    for stream in [CLIENT, SERVER, &data(100)] {
        assert_eq!(begins(stream), Some(true));
        for length in 0..5 {
            assert_eq!(begins(&stream[..length]), None, "{length}");
        }
    }
    for other in [
        &b"GET / HTTP/1.1"[..],
        b"\x16\x02",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"AMQP",
        b"\x17\x03\x03\xff\xff",
    ] {
        assert_eq!(begins(other), Some(false), "{other:?}");
    }
}

#[test]
fn a_gap_inside_a_record_costs_nothing() {
    let (mut records, mut begun) = (Records::default(), Vec::new());
    records.data(&data(1000)[..128], &mut begun);
    records.gap(5 + 1000 - 128);
    records.data(&data(50), &mut begun);
    assert_eq!(begun, [1000, 50]);
    // Beyond its end the place is lost until a piece begins with a record.
    records.gap(7);
    records.data(b"rest of a record", &mut begun);
    records.data(&data(60), &mut begun);
    assert_eq!(begun, [1000, 50, 60]);
}

#[test]
fn a_record_fits_what_is_in_it() {
    // AES-GCM in 1.3, ChaCha20-Poly1305 and AES-GCM in 1.2, AES-CBC with SHA-384.
    for overhead in [17, 16, 24, 80] {
        assert!(fits(100 + overhead, 100));
    }
    assert!(!fits(100, 100) && !fits(200, 100) && !fits(50, 100));
    // More than a record holds is cut at its bound.
    assert!(fits(16_384 + 17, 100_000) && !fits(16_384, 100_000));
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(lengths in prop::collection::vec(1usize..300, 0..6), size in 1usize..50) {
        let mut stream = SERVER.to_vec();
        for length in &lengths {
            stream.extend(data(*length));
        }
        let whole = play([&stream[..]]);
        prop_assert_eq!(play(stream.chunks(size)), whole);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..50, gap in 0u64..40) {
        let mut records = Records::default();
        let mut begun = Vec::new();
        let greeting = [&[22, 3, 3, 0, 200][..], &bytes].concat();
        for piece in greeting.chunks(size) {
            records.data(piece, &mut begun);
            records.greeting();
            records.gap(gap);
        }
        prop_assert!(records.greeting.len() <= GREETING_MAX + RECORD_MAX as usize);
    }
}
