//! The first look, at every prefix of what is to be seen.

use super::{
    super::detect,
    Op, command, commands,
    golden::{self, RECORDINGS},
};
use crate::protocol::{Guess, Side};

/// Every prefix is open until one decides, and no longer one decides otherwise.
#[track_caller]
fn decides(bytes: &[u8], expected: Guess) {
    let mut decided = None;
    for length in 0..=bytes.len() {
        let guess = detect(&bytes[..length]);
        match decided {
            None if guess == Guess::More => {}
            None => decided = Some(guess),
            Some(before) => assert_eq!(guess, before, "{:?}", bytes[..length].escape_ascii().to_string()),
        }
    }
    assert_eq!(decided.unwrap_or(Guess::More), expected, "{:?}", bytes.escape_ascii().to_string());
}

#[test]
fn requests_are_told_by_their_first_word() {
    for line in
        ["GET k", "get k", "HELLO 3", "CLIENT SETINFO LIB-NAME x", "JSON.GET k", "ft.search i q", "XYZ.DO a"]
    {
        decides(&command(line), Guess::Yes(Side::Request));
    }
    for line in ["SUBSCRIBE a", "subscribe a b", "SUBSCRIBE a b", "UNSUBSCRIBE", "PSUBSCRIBE a b c"] {
        decides(&command(line), Guess::Yes(Side::Request));
    }
    decides(&commands(&["MULTI", "GET a", "EXEC"]), Guess::Yes(Side::Request));
    for line in ["PING\r\n", "ping\r\n", "INFO server\r\n", "PING\n"] {
        decides(line.as_bytes(), Guess::Yes(Side::Request));
    }
}

#[test]
fn replies_are_told_by_their_form() {
    let replies = [
        "+OK\r\n",
        "+PONG\r\n",
        "+QUEUED\r\n",
        "$5\r\nhello\r\n",
        "$-1\r\n",
        "$0\r\n\r\n",
        "$100000\r\n",
        ":1\r\n",
        ":-17\r\n",
        "-ERR unknown command\r\n",
        "-WRONGTYPE Operation\r\n",
        "-NOAUTH Authentication required.\r\n",
        "%1\r\n$6\r\nserver\r\n",
        "%0\r\n",
        "_\r\n",
        "#t\r\n",
        ",1.5\r\n",
        ",inf\r\n",
        "(123\r\n",
        "~1\r\n:1\r\n",
        ">3\r\n$7\r\nmessage\r\n",
        "=7\r\ntxt:abc\r\n",
        "!6\r\nERR no\r\n",
        "|1\r\n+ttl\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*1\r\n:1\r\n",
        "*2\r\n$-1\r\n",
        "*2\r\n$0\r\n",
        "*1\r\n*1\r\n",
        "*2\r\n$1\r\n0\r\n",
        "*3\r\n$7\r\nmessage\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
        "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n",
        "*?\r\n",
        "*3\r\n$5\r\nuser1\r\n$5\r\nuser2\r\n",
    ];
    for reply in replies {
        decides(reply.as_bytes(), Guess::Yes(Side::Response));
    }
}

#[test]
fn other_protocols_are_left_alone() {
    let others = [
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\x16\x03\x01\x02\x00\x01",
        "\0\0\0\x08\x04\x52\x16\x2f",
        "\0\0\0\x51\0\x03\0\0user",
        "AMQP\0\0\x09\x01",
        "INFO {\"server_id\":\"N\"}\r\n",
        "-ERR 'Unknown Protocol'\r\n",
        "+OK Dovecot ready.\r\n",
        "220 mail ESMTP\r\n",
        "QUIT\r\n",
        "get key\r\n",
        "STAT pid 1\r\n",
        ":irc.example 001 x\r\n",
        "* OK IMAP4 ready\r\n",
        "-----BEGIN CERTIFICATE-----\n",
        "$GPGGA,1\r\n",
        "_http._tcp\r\n",
        "#!/bin/sh\n",
        ",,,\r\n,",
        "(a)",
        "%PDF-1.7",
        "~$",
        ">>> ",
        "=?\r\n",
        "!x",
        "|x",
        "*x",
        "+",
        "*2\r\n$3\r\nFOO\r\n",
        "PINGU\r\n",
        "PING {}\r\n",
        "X",
    ];
    for other in others {
        let guess = detect(other.as_bytes());
        if other == "+" {
            assert_eq!(guess, Guess::More);
        } else {
            decides(other.as_bytes(), Guess::No);
        }
    }
    decides(b"", Guess::More);
}

#[test]
fn recorded_connections_are_recognised_from_both_sides() {
    for (name, recording) in RECORDINGS {
        for ops in golden::connections(recording) {
            for op in ops.iter().take(2) {
                match op {
                    Op::Request(bytes) => decides(bytes, Guess::Yes(Side::Request)),
                    Op::Response(bytes) => decides(bytes, Guess::Yes(Side::Response)),
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
    }
}
