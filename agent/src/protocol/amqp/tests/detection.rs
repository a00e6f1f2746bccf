//! The first look, at every prefix of what is to be seen.

use super::{super::detect, golden::RECORDINGS, *};
use crate::protocol::{Guess, recording::recording};

/// Every prefix is open until one decides, and no longer one decides otherwise.
#[track_caller]
fn decides(bytes: &[u8], expected: Guess) {
    let mut decided = None;
    for length in 0..=bytes.len() {
        let guess = detect(&bytes[..length]);
        match decided {
            None if guess == Guess::More => {}
            None => decided = Some(guess),
            Some(before) => assert_eq!(guess, before, "{}", bytes[..length].escape_ascii()),
        }
    }
    assert_eq!(decided.unwrap_or(Guess::More), expected, "{}", bytes.escape_ascii());
}

#[test]
fn the_protocol_header_is_the_clients() {
    decides(&preamble(), Guess::Yes(Side::Request));
    decides(b"AMQP\x00\x01\x00\x00", Guess::No);
    decides(b"AMQP\x03\x01\x00\x00", Guess::No);
    decides(b"AMQP\x01\x01\x00\x09", Guess::No);
}

#[test]
fn methods_of_one_side_decide() {
    decides(&publish(1, "", "q"), Guess::Yes(Side::Request));
    decides(&reject(1, 1, false), Guess::Yes(Side::Request));
    decides(&deliver(1, "c", 1, "", "q"), Guess::Yes(Side::Response));
    decides(&select_ok(7), Guess::Yes(Side::Response));
    decides(
        &method(0, 10, 10, &[vec![0, 9], long(&[0; 40]), long(b"PLAIN"), long(b"en_US")]),
        Guess::Yes(Side::Response),
    );
    // Longer than is waited for.
    decides(&method(0, 10, 10, &[vec![0, 9], long(&[0; 1000])]), Guess::Yes(Side::Response));
}

#[test]
fn what_either_side_may_send_waits_for_more() {
    decides(&frame(8, 0, b""), Guess::More);
    decides(&ack(1, 1, false), Guess::More);
    decides(&[ack(1, 1, false), ack(1, 2, true)].concat(), Guess::More);
    decides(&[frame(8, 0, b""), ack(1, 1, false), publish(1, "", "q")].concat(), Guess::Yes(Side::Request));
    decides(&[content(1, b"x"), deliver(1, "c", 1, "", "q")].concat(), Guess::Yes(Side::Response));
    decides(&[frame(3, 1, b"x"), publish(1, "", "q")].concat(), Guess::Yes(Side::Request));
}

#[test]
fn every_call_of_the_recordings_is_claimed_for_its_side_or_left_open() {
    for (name, wire, _) in RECORDINGS {
        for (side, bytes) in recording(wire) {
            let guess = detect(&bytes[..bytes.len().min(1024)]);
            assert!(
                matches!(guess, Guess::More) || guess == Guess::Yes(side),
                "{name}: {guess:?} {}",
                bytes.escape_ascii()
            );
            decides(&bytes[..bytes.len().min(1024)], guess);
        }
    }
}

#[test]
fn other_protocols_are_not_claimed() {
    let postgres = [
        include_str!("../../postgres/testdata/asyncpg.wire"),
        include_str!("../../postgres/testdata/psycopg2.wire"),
        include_str!("../../postgres/testdata/psycopg3.wire"),
        include_str!("../../postgres/testdata/cancel.wire"),
    ];
    for (_, bytes) in postgres.iter().flat_map(|wire| recording(wire)) {
        assert_eq!(detect(&bytes), Guess::No, "{}", bytes.escape_ascii());
    }
    let others: [&[u8]; 16] = [
        b"GET /index.html HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"+OK\r\n",
        b"$5\r\nhello\r\n",
        b"AUTH x y\r\n",
        b"ACL WHOAMI\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        // MySQL: a column count, the end of columns, a greeting.
        b"\x01\0\0\x01\x01\x27\0\0\x02\x03def",
        b"\x03\0\0\0\x1b\0\0",
        b"J\0\0\0\x0a8.0.36\0",
        // SQL Server: a batch; RDP; Kafka: a metadata request.
        b"\x01\x01\0\x5c\0\0\x01\0\x16\0\0\0",
        b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
        b"\0\0\0\x17\0\x03\0\0\0\0\0\x01",
        b"\x82\x84\x01\x02\x03\x04",
    ];
    for bytes in others {
        decides(bytes, Guess::No);
    }
}
