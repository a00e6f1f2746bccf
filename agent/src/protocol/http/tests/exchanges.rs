use super::*;

#[test]
fn a_request_and_its_response_are_one_exchange() {
    let mut wire = Wire::new();
    wire.request(GET).response(OK);
    assert_eq!(wire.story(), ["begin 0 at 1-1", "reply 0 at 2", "end 0 at 2: GET /a 200"]);
}

#[test]
fn a_connection_is_kept_alive_for_many_exchanges() {
    let mut wire = Wire::new();
    wire.request(GET).response(OK).request(GET_B).response(OK).close();
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "end 0 at 2: GET /a 200",
            "begin 1 at 3-3",
            "reply 1 at 4",
            "end 1 at 4: GET /b 200",
        ]
    );
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let mut wire = Wire::new();
    wire.request([GET, GET_B].concat())
        .response(OK)
        .response("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "begin 1 at 1-1",
            "reply 0 at 2",
            "end 0 at 2: GET /a 200",
            "reply 1 at 3",
            "end 1 at 3: GET /b 404",
        ]
    );
}

#[test]
fn the_marks_are_those_of_the_first_and_last_bytes() {
    let mut wire = Wire::new();
    for byte in GET.bytes().chain(OK.bytes()).enumerate() {
        match byte {
            (index, byte) if index < GET.len() => wire.request([byte]),
            (_, byte) => wire.response([byte]),
        };
    }
    let (end, reply) = (GET.len() + OK.len(), GET.len() + 1);
    assert_eq!(
        wire.story(),
        [
            format!("begin 0 at 1-{}", GET.len()),
            format!("reply 0 at {reply}"),
            format!("end 0 at {end}: GET /a 200")
        ]
    );
}

#[test]
fn only_the_fields_that_matter_are_kept() {
    let mut wire = Wire::new();
    let secret = "Authorization: Bearer hunter2\r\nCookie: s=hunter2\r\nProxy-Authorization: hunter2\r\n";
    let head = format!(
        "POST /a?b=c HTTP/1.0\r\nhost: example.com:81\r\nUSER-AGENT:  curl/8 \t\r\n{secret}Content-Length: 3\r\n\
         X-Forwarded-Proto: HTTPS, http\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         tracestate: a=1\r\ntracestate: b=2\r\nX-Api-Key: hunter2\r\n\r\nabc"
    );
    wire.request(head).response(OK);
    let ended = wire.ended();
    assert_eq!(
        ended,
        [Exchange {
            method: "POST".into(),
            target: "/a?b=c".into(),
            version: super::super::Version::Http10,
            host: Some("example.com:81".into()),
            user_agent: Some("curl/8".into()),
            forwarded_proto: Some("HTTPS".into()),
            incoming: Some(crate::protocol::Incoming {
                traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
                tracestate: "a=1,b=2".into(),
            }),
            status: Some(200),
            request_size: 3,
            response_size: 2,
            ..Exchange::default()
        }]
    );
    assert!(!format!("{ended:?}").contains("hunter2"));
}

#[test]
fn trace_context_comes_with_the_beginning() {
    let mut wire = Wire::new();
    wire.request("GET / HTTP/1.1\r\ntraceparent: 00-a-b-01\r\n\r\n").response(OK);
    wire.request("GET / HTTP/1.1\r\ntracestate: a=1\r\n\r\n");
    let incoming = wire.events().into_iter().filter_map(|event| match event {
        Event::Begin { incoming, .. } => Some(incoming.map(|incoming| incoming.traceparent)),
        _ => None,
    });
    assert_eq!(incoming.collect::<Vec<_>>(), [Some("00-a-b-01".to_owned()), None]);
}

#[test]
fn forwarded_wins_over_its_forerunner() {
    let mut wire = Wire::new();
    wire.request(
        "GET / HTTP/1.1\r\nX-Forwarded-Proto: http\r\n\
         Forwarded: for=192.0.2.60;proto=https; host=\"example.com:8443\", for=10.0.0.1;proto=http\r\n\r\n",
    );
    let exchange = &wire.response(OK).ended()[0];
    assert_eq!(exchange.forwarded_proto.as_deref(), Some("https"));
    assert_eq!(exchange.forwarded_host.as_deref(), Some("example.com:8443"));
}

#[test]
fn long_values_are_cut_and_credentials_go_before_the_cut() {
    let mut wire = Wire::new();
    let password = "p".repeat(3000);
    wire.request(format!(
        "GET http://user:{password}@example.com/{} HTTP/1.1\r\n\r\n",
        "\u{e4}".repeat(2000)
    ));
    wire.response(OK).request(format!("GET /{} HTTP/1.1\r\nHost: {password}\r\n\r\n", "q".repeat(3000)));
    let ended = wire.response(OK).ended();
    assert!(ended[0].target.starts_with("http://example.com/\u{e4}"), "{}", ended[0].target);
    assert!(ended[0].target.len() <= 2048 && ended[1].target.len() == 2048);
    assert_eq!(ended[1].host.as_ref().map(String::len), Some(512));
}

#[test]
fn chunks_with_extensions_and_trailers_are_counted_without_the_coding() {
    let mut wire = Wire::new();
    let chunks =
        "5;name=\"va;lue\"\r\nhello\r\n00A ; x\r\n0123456789\r\n000\r\nTrailer: 1\r\nMore: 2\r\n\r\n";
    let request = format!("PUT /a HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n{chunks}");
    wire.request(request + GET_B).response(CHUNKED).response(chunks).response(OK);
    let ended = wire.ended();
    assert_eq!(
        ended.iter().map(|end| (end.request_size, end.response_size)).collect::<Vec<_>>(),
        [(15, 15), (0, 2)]
    );
}

#[test]
fn a_response_to_head_has_no_body_whatever_its_fields_say() {
    let mut wire = Wire::new();
    wire.request("HEAD /a HTTP/1.1\r\n\r\n").response("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
    wire.request("HEAD /b HTTP/1.1\r\n\r\n").response(CHUNKED).request(GET).response(OK);
    let ended = wire.ended();
    assert_eq!(ended.iter().map(|end| end.response_size).collect::<Vec<_>>(), [0, 0, 2]);
}

#[test]
fn statuses_without_a_body_end_with_their_heads() {
    let mut wire = Wire::new();
    for status in ["204 No Content", "304 Not Modified"] {
        wire.request(GET).response(format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\n\r\n"));
    }
    assert_eq!(wire.ended().len(), 2);
}

#[test]
fn interim_responses_are_not_the_final_one() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    wire.response("HTTP/1.1 100 Continue\r\n\r\n").request("abc");
    wire.response("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").response(OK);
    assert_eq!(wire.story(), ["begin 0 at 1-1", "reply 0 at 5", "end 0 at 5: POST /a 200"]);
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    for head in
        ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\n"]
    {
        let mut wire = Wire::new();
        wire.request(GET).response(head).response("some").response("HTTP/1.1 500 No\r\n\r\n").close();
        let events = wire.events();
        assert_eq!(
            events.iter().map(word).collect::<Vec<_>>(),
            ["begin 0 at 1-1", "reply 0 at 2", "end 0 at 4: GET /a 200"]
        );
        wire.events = events;
        assert_eq!(wire.ended()[0].response_size, 23);
    }
}

#[test]
fn a_client_that_goes_away_cuts_its_exchange_short() {
    let mut wire = Wire::new();
    wire.request(GET).close();
    assert_eq!(wire.story(), ["begin 0 at 1-1", "end 0 at 2: GET /a - cut short"]);
    let mut wire = Wire::new();
    wire.request(GET).response("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nabc").close();
    assert_eq!(wire.story(), ["begin 0 at 1-1", "reply 0 at 2", "end 0 at 3: GET /a 200 cut short"]);
    let mut wire = Wire::new();
    wire.request("GET /a HT").close().request(GET).close();
    assert_eq!(wire.story(), ["lost 9 Resync"]);
}

#[test]
fn a_response_may_start_and_end_before_the_request_is_complete() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
    wire.response("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").request("defghij").request(GET_B);
    let events = wire.response(OK).events();
    assert_eq!(
        events.iter().map(word).collect::<Vec<_>>(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "end 0 at 2: POST /a 413",
            "begin 1 at 4-4",
            "reply 1 at 5",
            "end 1 at 5: GET /b 200",
        ]
    );
    wire.events = events;
    assert_eq!(wire.ended()[0].request_size, 3, "what was seen before the end");
}

#[test]
fn bare_line_feeds_and_empty_lines_before_a_request_are_tolerated() {
    let mut wire = Wire::new();
    wire.request("GET /a HTTP/1.1\nHost: x\n\n").response("HTTP/1.1 200\nContent-Length: 2\n\nok");
    wire.request("\r\n\n")
        .request(GET_B)
        .response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\nx\n0\n\n");
    let events = wire.events();
    assert_eq!(losses(&events), []);
    wire.events = events;
    assert_eq!(wire.ended().iter().map(|end| end.response_size).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn an_upgrade_ends_the_exchange_and_hands_over_what_follows() {
    let mut wire = Wire::new();
    wire.request("GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").request("early");
    wire.response("HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\r\nframe")
        .request(GET)
        .response(OK)
        .close();
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 3",
            "end 0 at 3: GET /ws 101",
            "upgrade websocket \"early\" \"frame\"",
        ]
    );
}

#[test]
fn a_tunnel_is_handed_over_once_it_is_granted() {
    let mut wire = Wire::new();
    wire.request("CONNECT example.com:443 HTTP/1.1\r\n\r\n")
        .response("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    wire.request("CONNECT example.com:443 HTTP/1.1\r\n\r\n\x16\x03");
    wire.response("HTTP/1.0 200 Connection established\r\n\r\n");
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "end 0 at 2: CONNECT example.com:443 407",
            "begin 1 at 3-3",
            "reply 1 at 4",
            "end 1 at 4: CONNECT example.com:443 200",
            "upgrade connect \"\\u{16}\\u{3}\" \"\"",
        ]
    );
}

#[test]
fn requests_behind_a_refused_upgrade_are_requests() {
    let mut wire = Wire::new();
    wire.request(format!("POST /up HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi{GET_B}"));
    wire.response(OK).response(OK);
    let ended = wire.ended();
    assert_eq!(ended.iter().map(|end| end.target.as_str()).collect::<Vec<_>>(), ["/up", "/b"]);
    assert_eq!(ended[0].request_size, 2);
}

#[test]
fn bodies_of_any_size_are_only_counted() {
    let mut wire = Wire::new();
    wire.request(GET).response(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40));
    let block = vec![b'\n'; 1 << 20];
    for _ in 0..20 {
        wire.response(&block);
    }
    wire.gap(Side::Response, (1 << 40) - (20 << 20)).request(GET_B).response(OK);
    let ended = wire.ended();
    assert_eq!((ended[0].response_size, ended[0].outcome), (1 << 40, Outcome::Complete));
    assert_eq!(ended.len(), 2);
    assert_eq!(wire.http.response.held() + wire.http.request.held(), 0);
}

#[test]
fn an_unknown_method_is_a_method() {
    let mut wire = Wire::new();
    wire.request(GET).response(OK).request("BREW /pot HTTP/1.1\r\n\r\n").response(OK);
    assert_eq!(wire.ended()[1].method, "BREW");
}
