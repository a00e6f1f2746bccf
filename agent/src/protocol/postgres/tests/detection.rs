//! What is claimed, and what is not.

use super::*;
use crate::protocol::Guess;

/// Asserts that every prefix of bytes of a side is claimed for that side or left open, the whole is claimed, and a
/// claim once made is not withdrawn.
fn is_claimed(side: Side, bytes: &[u8]) {
    let mut claimed = false;
    for length in 0..=bytes.len() {
        let guess = detect(&bytes[..length]);
        claimed |= guess == Guess::Yes(side);
        let expected = if claimed { Guess::Yes(side) } else { Guess::More };
        assert_eq!(guess, expected, "{}", bytes[..length].escape_ascii());
    }
    assert!(claimed, "{}", bytes.escape_ascii());
}

#[test]
fn every_prefix_of_a_connections_beginning_is_claimed_or_left_open() {
    is_claimed(Side::Request, b"\0\0\0\x08\x04\xd2\x16\x2f");
    is_claimed(Side::Request, b"\0\0\0\x08\x04\xd2\x16\x30");
    is_claimed(Side::Request, b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02");
    is_claimed(Side::Request, b"\0\0\0\x24\0\x03\0\0user\0app\0database\0shop\0\0");
    is_claimed(Side::Request, b"\0\0\0\x24\0\x03\0\x02user\0app\0database\0shop\0\0");
    is_claimed(Side::Response, b"R\0\0\0\x08\0\0\0\x03");
    is_claimed(Side::Response, b"NR\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
}

#[test]
fn a_parameter_of_which_the_name_does_not_end_is_refused_for_good() {
    for end in [0, b' '] {
        let mut bytes = b"\0\0\x01\x01\0\x03\0\0".to_vec();
        bytes.extend([b'9'; 100]);
        bytes.push(end);
        let refused = (0..=bytes.len()).map(|length| detect(&bytes[..length]));
        let refused: Vec<Guess> = refused.skip_while(|guess| *guess == Guess::More).collect();
        assert!(!refused.is_empty() && refused.iter().all(|guess| *guess == Guess::No), "{refused:?}");
    }
}

#[test]
fn every_chunk_of_the_recordings_is_claimed_for_its_side() {
    for wire in [
        include_str!("../testdata/asyncpg.wire"),
        include_str!("../testdata/psycopg2.wire"),
        include_str!("../testdata/psycopg3.wire"),
    ] {
        for (side, bytes) in recording(wire) {
            // Passwords, results of function calls and copied data alone are not enough to tell.
            if matches!(bytes[0], b'N' | b'p' | b'V') || (bytes[0] == b'd' && side == Side::Request) {
                continue;
            }
            is_claimed(side, &bytes[..bytes.len().min(2000)]);
        }
    }
}

#[test]
fn other_protocols_are_not_claimed() {
    let others: [&[u8]; 22] = [
        b"GET /index.html HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"POST / HTTP/1.1\r\n",
        b"PUT / HTTP/1.1\r\n",
        b"DELETE /a HTTP/1.1\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"HEAD / HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"SET key value\r\n",
        b"+OK\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"\x01\0\0\0\0\0\x2c\0\x0a\0\x0b",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        // MySQL: greeting, and a query packet.
        b"J\0\0\0\x0a8.0.36\0\x08\0\0\0",
        b"\x09\0\0\0\x03SELECT 1",
        // Kafka: a metadata request, version 0.
        b"\0\0\0\x17\0\x03\0\0\0\0\0\x01\0\x04kfka\0\0\0\0",
        b"Segmentation fault\n",
        b"Z\0\0\0\x05X",
        b"X",
        b"Q\0\0\0\x05\x01",
    ];
    for bytes in others {
        let guess = detect(bytes);
        assert!(!matches!(guess, Guess::Yes(_)), "{}", bytes.escape_ascii());
        if bytes.len() > 5 {
            assert_eq!(guess, Guess::No, "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_statement_is_claimed_by_its_first_word_though_its_end_is_not_there() {
    let long = query(&format!("SELECT '{}'", "x".repeat(5000)));
    is_claimed(Side::Request, &long[..100]);
    let unknown = query(&format!("zzz '{}'", "x".repeat(5000)));
    assert_eq!(detect(&unknown[..100]), Guess::More);
}

#[test]
fn closing_a_statement_and_completing_one_are_told_apart() {
    is_claimed(Side::Request, &message(b'C', b"S__asyncpg_stmt_1__\0"));
    is_claimed(Side::Response, &complete("SELECT 1"));
    is_claimed(Side::Response, &complete("PREPARE TRANSACTION"));
}

#[test]
fn a_claim_made_by_the_first_word_is_not_taken_back_whatever_follows() {
    let prepared = parse("", "SELECT 7");
    for bytes in [
        prepared.clone(),
        cat(&[prepared, b"garbage".to_vec()]),
        cat(&[sync(), b"garbage".to_vec()]),
        message(b'P', b"\0SELECT 7\0\0\x09"),
        query("SELECT \x01"),
    ] {
        is_claimed(Side::Request, &bytes);
    }
    is_claimed(Side::Response, &cat(&[ready(b'I'), b"garbage".to_vec()]));
    // A word that its text ends with proves nothing before the message does.
    assert_eq!(detect(&message(b'P', b"\0COMMIT\0\0\x09")), Guess::No);
    assert_eq!(detect(&message(b'P', b"\0COMMIT\0\0\x09")[..13]), Guess::More);
}
