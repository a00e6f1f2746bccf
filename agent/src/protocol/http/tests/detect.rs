use crate::protocol::{
    Guess, Side,
    http::detect::{METHODS, detect},
};

fn every_prefix(text: &[u8], certain_from: usize, side: Side) {
    for length in 0..=text.len() {
        let expected = if length < certain_from { Guess::More } else { Guess::Yes(side) };
        assert_eq!(
            detect(&text[..length]),
            expected,
            "{length} bytes of {:?}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn requests_are_known_by_their_whole_request_line_and_not_before() {
    for method in METHODS.into_iter().filter(|method| *method != "CONNECT") {
        for line_end in ["\r\n", "\n"] {
            let line = format!("{method} /games/1?x=%20&y=\u{e4} HTTP/1.1");
            let text = format!("{line}{line_end}Host: example.com\r\n\r\n");
            every_prefix(text.as_bytes(), line.len() + 1, Side::Request);
        }
    }
    every_prefix(b"GET http://example.com/ HTTP/1.0\r\n", 33, Side::Request);
    every_prefix(b"OPTIONS * HTTP/1.1\r\n", 19, Side::Request);
    every_prefix(b"CONNECT example.com:443 HTTP/1.1\r\n", 33, Side::Request);
    every_prefix(b"CONNECT [::1]:443 HTTP/1.1\r\n", 27, Side::Request);
}

#[test]
fn responses_are_known_by_their_status_code_and_not_before() {
    every_prefix(b"HTTP/1.1 200 OK\r\n", 13, Side::Response);
    every_prefix(b"HTTP/1.0 404\r\n", 13, Side::Response);
    every_prefix(b"HTTP/1.1 503\n", 13, Side::Response);
}

#[test]
fn the_preface_of_http_2_is_refused_as_soon_as_it_differs() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for length in 3..=preface.len() {
        assert_eq!(detect(&preface[..length]), Guess::No, "{length} bytes");
    }
    assert_eq!(detect(b"PR"), Guess::More, "this could become PROPFIND");
}

#[test]
fn other_protocols_are_never_taken_for_http_at_any_length() {
    let strangers: [&[u8]; 20] = [
        b"GET key\r\n",
        b"GET /key\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"AMQP\x00\x00\x09\x01",
        b"OPTIONS rtsp://example.com/media RTSP/1.0\r\nCSeq: 1\r\n",
        b"OPTIONS sip:bob@example.com SIP/2.0\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / HTTP/1.12\r\n",
        b"GET / HTTP/3\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET /a b HTTP/1.1\r\n",
        b"get / HTTP/1.1\r\n",
        b"GETS / HTTP/1.1\r\n",
        b"HTTP/2 200\r\n",
        b"HTTP/1.1 20x OK\r\n",
        b"HTTP/1.1 600 Whatever\r\n",
        b"ICY 200 OK\r\n",
        b"HEADLINE\r\n",
    ];
    for stranger in strangers {
        let mut refused = false;
        for length in 0..=stranger.len() {
            let guess = detect(&stranger[..length]);
            assert!(!matches!(guess, Guess::Yes(_)), "{:?}", String::from_utf8_lossy(&stranger[..length]));
            assert!(!refused || guess == Guess::No, "a refusal is for good");
            refused = guess == Guess::No;
        }
        assert!(refused, "{:?}", String::from_utf8_lossy(stranger));
    }
}

#[test]
fn a_very_long_target_is_decided_before_its_end() {
    let target = "x".repeat(20_000);
    assert_eq!(detect(format!("GET /{target}").as_bytes()), Guess::Yes(Side::Request));
    assert_eq!(detect(format!("CONNECT {target}").as_bytes()), Guess::No);
}
