use super::*;
use crate::protocol::http::frame::HEAD_LIMIT;

#[test]
fn a_connection_is_joined_in_the_middle_of_a_body() {
    let mut wire = Wire::new();
    wire.request("half a body {\"a\":1}").request(GET).response("and the end of one").response(OK);
    wire.request(GET_B).response(OK);
    assert_eq!(
        wire.story(),
        [
            "lost 19 Resync",
            "begin 0 at 2-2",
            "lost 18 Resync",
            "reply 0 at 4",
            "end 0 at 4: GET /a 200",
            "begin 1 at 5-5",
            "reply 1 at 6",
            "end 1 at 6: GET /b 200",
        ]
    );
}

#[test]
fn a_message_found_by_search_has_the_mark_of_the_call_that_moved_its_first_byte_however_it_is_cut() {
    let calls: [(Side, &[u8]); 4] = [
        (Side::Request, b"\xffPOST "),
        (Side::Request, b"a HTTP/1.1\n\n"),
        (Side::Response, b"\xffHTTP/1."),
        (Side::Response, b"1 204 No Content\n\n"),
    ];
    // Behind more of a line than is looked at, the first byte of what is left is not the first of the line.
    let long = [vec![b'x'; 40_000], b"POST ".to_vec()].concat();
    for (junk, lost) in [(calls[0].1, 1), (&long[..], 40_000)] {
        for size in [1, 3, 1000, usize::MAX] {
            let mut wire = Wire::new();
            for (side, bytes) in [&[(Side::Request, junk)], &calls[1..]].concat() {
                let mark = wire.mark();
                for piece in bytes.chunks(size) {
                    wire.http.data(side, piece, mark, &mut wire.events);
                }
            }
            assert_eq!(
                wire.story(),
                [
                    format!("lost {lost} Resync"),
                    "begin 0 at 1-2".to_owned(),
                    "lost 1 Resync".to_owned(),
                    "reply 0 at 3".to_owned(),
                    "end 0 at 4: POST a 204".to_owned(),
                ],
                "in pieces of {size}"
            );
        }
    }
}

#[test]
fn a_response_behind_a_malformed_head_has_the_mark_of_its_first_byte_however_it_is_cut() {
    for size in [1, 3, usize::MAX] {
        let mut wire = Wire::new();
        wire.request(GET).response(OK).request(GET).events();
        for bytes in ["HTTP/1.1 200 OK\r\nbad nameHTTP/1.", "1 204 No Content\r\n\r\n"] {
            let mark = wire.mark();
            for piece in bytes.as_bytes().chunks(size) {
                wire.http.data(Side::Response, piece, mark, &mut wire.events);
            }
        }
        assert_eq!(
            wire.story(),
            ["lost 25 Malformed", "reply 1 at 4", "end 1 at 5: GET /a 204"],
            "in pieces of {size}"
        );
    }
}

#[test]
fn a_lost_response_ends_with_the_loss_if_another_follows_unasked_however_that_is_cut() {
    for size in [1, 3, usize::MAX] {
        let mut wire = Wire::new();
        wire.request(GET).response(CHUNKED).response("zz\r\n");
        let mark = wire.mark();
        for piece in OK.as_bytes().chunks(size) {
            wire.http.data(Side::Response, piece, mark, &mut wire.events);
        }
        assert_eq!(
            wire.story(),
            ["begin 0 at 1-1", "reply 0 at 2", "lost 0 Malformed", "end 0 at 3: GET /a 200 lost"],
            "in pieces of {size}"
        );
    }
}

#[test]
fn a_response_to_an_unseen_request_is_paired_with_none() {
    let mut wire = Wire::new();
    wire.response(CHUNKED).response("3\r\nabc\r\n0\r\n\r\n").request(GET).response(OK);
    assert_eq!(wire.story(), ["begin 0 at 3-3", "lost 50 Resync", "reply 0 at 4", "end 0 at 4: GET /a 200"]);
}

#[test]
fn a_response_to_an_unseen_head_request_does_not_swallow_the_next() {
    for split in 0..9 {
        let mut wire = Wire::new();
        wire.response("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n").request(GET);
        let (left, right) = OK.split_at(split);
        wire.response(left).response(right);
        assert_eq!(wire.ended()[0].status, Some(200));
    }
}

#[test]
fn the_body_of_an_unseen_request_may_begin_like_a_start_line() {
    let mut wire = Wire::new();
    wire.response("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/no..").request(GET).response(OK);
    assert_eq!(wire.story(), ["begin 0 at 2-2", "lost 47 Resync", "reply 0 at 3", "end 0 at 3: GET /a 200"]);
}

#[test]
fn gaps_in_bodies_of_known_length_are_counted_exactly() {
    let mut wire = Wire::new();
    wire.request("POST /a HTTP/1.1\r\nContent-Length: 100\r\n\r\nab").gap(Side::Request, 95).request("xyz");
    wire.response("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n").gap(Side::Response, 50);
    wire.request(GET_B).response("HTTP/1.0 200 OK\r\n\r\n").gap(Side::Response, 7).response("abc").close();
    let events = wire.events();
    assert_eq!(losses(&events), []);
    wire.events = events;
    let sizes = wire.ended().iter().map(|end| (end.request_size, end.response_size)).collect::<Vec<_>>();
    assert_eq!(sizes, [(100, 50), (0, 10)]);
}

#[test]
fn a_gap_inside_a_chunk_is_exact() {
    let mut wire = Wire::new();
    wire.request(GET).response(CHUNKED).response("ff\r\nab").gap(Side::Response, 251).response("yz\r\n");
    wire.response("10\r\n").gap(Side::Response, 16).response("\r\n0\r\n\r\n");
    let events = wire.events();
    assert_eq!(losses(&events), []);
    wire.events = events;
    let ended = wire.ended();
    assert_eq!((ended[0].response_size, ended[0].outcome), (271, Outcome::Complete));
}

#[test]
fn behind_a_gap_in_the_chunked_coding_the_last_chunk_is_recognised() {
    let mut wire = Wire::new();
    wire.request(GET)
        .response(CHUNKED)
        .response("5\r\nab")
        .gap(Side::Response, 20)
        .response("tail\r\n0\r\n\r\n");
    wire.request(GET_B).response(OK);
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "lost 17 Gap",
            "end 0 at 5: GET /a 200 lost",
            "begin 1 at 6-6",
            "lost 11 Resync",
            "reply 1 at 7",
            "end 1 at 7: GET /b 200",
        ]
    );
}

#[test]
fn a_lost_response_ends_when_its_client_asks_again() {
    let mut wire = Wire::new();
    wire.request(GET)
        .response(CHUNKED)
        .gap(Side::Response, 20)
        .response("the rest")
        .request(GET_B)
        .response(OK);
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "lost 20 Gap",
            "end 0 at 4: GET /a 200 lost",
            "begin 1 at 5-5",
            "lost 8 Resync",
            "reply 1 at 6",
            "end 1 at 6: GET /b 200",
        ]
    );
}

#[test]
fn a_gap_in_a_response_head_leaves_its_exchange_without_a_status() {
    let mut wire = Wire::new();
    wire.request(GET).response("HTTP/1.1 2").gap(Side::Response, 30).response("\r\n\r\nbody").request(GET_B);
    assert_eq!(
        wire.story(),
        ["begin 0 at 1-1", "lost 30 Gap", "end 0 at 4: GET /a - lost", "begin 1 at 5-5",]
    );
    wire.response(OK);
    assert_eq!(wire.story(), ["lost 18 Resync", "reply 1 at 6", "end 1 at 6: GET /b 200"]);
}

#[test]
fn a_gap_in_a_request_head_loses_the_request_and_its_response() {
    let mut wire = Wire::new();
    wire.request(GET)
        .response(OK)
        .request("GET /x HTTP/1.1\r\nHo")
        .gap(Side::Request, 40)
        .request("y: z\r\n\r\n");
    wire.response("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno").request(GET_B).response(OK);
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "end 0 at 2: GET /a 200",
            "lost 59 Gap",
            "lost 8 Resync",
            "begin 1 at 7-7",
            "lost 40 Resync",
            "reply 1 at 8",
            "end 1 at 8: GET /b 200",
        ]
    );
}

#[test]
fn text_in_a_lost_body_that_looks_like_a_request_is_none() {
    let mut wire = Wire::new();
    wire.request("PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n").gap(Side::Request, 60);
    wire.request("log:\nGET /fake HTTP/1.1\r\nHost: y\r\n\r\nend\r\n0\r\n\r\n").response(OK);
    wire.request(GET_B).response(OK);
    let targets = wire.ended().into_iter().map(|end| (end.target, end.status)).collect::<Vec<_>>();
    assert_eq!(targets, [("/a".to_owned(), Some(200)), ("/b".to_owned(), Some(200))]);
}

#[test]
fn a_pipelining_client_gets_no_pairs_after_a_lost_response_head() {
    let mut wire = Wire::new();
    wire.request([GET, GET_B, GET].concat()).response(OK).gap(Side::Response, 45).response(OK);
    wire.request(GET_B).response(OK).close();
    let ended = wire.ended();
    let statuses = ended.iter().map(|end| (end.status, end.outcome)).collect::<Vec<_>>();
    assert_eq!(
        statuses,
        [(Some(200), Outcome::Complete), (None, Outcome::Lost), (None, Outcome::Lost), (None, Outcome::Lost),]
    );
}

#[test]
fn a_pipelining_client_gets_no_pairs_behind_a_lost_request() {
    let mut wire = Wire::new();
    wire.request([GET, GET].concat())
        .gap(Side::Request, 30)
        .request(GET_B)
        .response([OK, OK, OK, OK].concat());
    let statuses = wire.ended().into_iter().map(|end| end.status).collect::<Vec<_>>();
    assert_eq!(statuses, [Some(200), Some(200), None]);
}

#[test]
fn a_gap_beyond_a_body_ends_it_and_loses_the_rest() {
    let mut wire = Wire::new();
    wire.request(GET)
        .response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        .gap(Side::Response, 9)
        .request(GET_B);
    wire.response(OK);
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "end 0 at 3: GET /a 200",
            "lost 4 Gap",
            "begin 1 at 4-4",
            "reply 1 at 5",
            "end 1 at 5: GET /b 200",
        ]
    );
}

#[test]
fn a_head_beyond_the_bound_is_too_large() {
    let long = format!("GET /a HTTP/1.1\r\nX: {}", "x".repeat(HEAD_LIMIT));
    let lines = format!("GET /a HTTP/1.1\r\n{}", "X: yyyyyyyyyyyyyyyyyyy\r\n".repeat(HEAD_LIMIT / 20));
    for head in [long, lines] {
        for piece in [1, 1000, usize::MAX] {
            let mut wire = Wire::new();
            wire.request(GET).response(OK).events();
            for bytes in head.as_bytes().chunks(piece) {
                wire.request(bytes);
                assert!(wire.http.request.held() <= 2 * HEAD_LIMIT);
            }
            wire.request("\r\n\r\n").request(GET_B).response(OK);
            let events = wire.events();
            assert_eq!(losses(&events)[0], (LossReason::TooLarge, HEAD_LIMIT as u64));
            wire.events = events;
            assert_eq!(wire.ended()[0].target, "/b");
        }
    }
}

#[test]
fn malformed_messages_are_counted_and_skipped() {
    for bad in
        ["GET /x\r\n", "GET /x HTTP/2.0\r\n", "GET /x y HTTP/1.1\r\n", "G(T / HTTP/1.1\r\n", "\x00\x01\r\n"]
    {
        let mut wire = Wire::new();
        wire.request(GET).response(OK).request(bad).request(GET_B).response(OK);
        let events = wire.events();
        assert_eq!(losses(&events), [(LossReason::Malformed, bad.len() as u64)], "{bad:?}");
        wire.events = events;
        assert_eq!(wire.ended()[1].target, "/b");
    }
}

#[test]
fn heads_that_contradict_themselves_are_malformed() {
    for bad in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 2",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: gzip",
        "no colon",
        "bad name: x",
    ] {
        let mut wire = Wire::new();
        wire.request(GET).response(OK).request(format!("POST /x HTTP/1.1\r\n{bad}\r\n\r\n")).events();
        wire.request(GET_B).response(OK);
        assert_eq!(wire.ended().len(), 1, "{bad}");
    }
    let mut wire = Wire::new();
    wire.request("POST /x HTTP/1.1\r\nContent-Length: 1, 1\r\nContent-Length: 1\r\n\r\na")
        .response(OK)
        .request(GET);
    assert_eq!(losses(&wire.events()), []);
}

#[test]
fn a_malformed_chunk_keeps_the_status_and_finds_the_next_response() {
    for bad in ["zz\r\n", "\r\n", "ffffffffffffffffff\r\n", "2\r\nabc\r\n"] {
        let mut wire = Wire::new();
        wire.request(GET).response(CHUNKED).response(bad).request(GET_B).response(OK);
        let events = wire.events();
        assert_eq!(losses(&events)[0].0, LossReason::Malformed, "{bad:?}");
        wire.events = events;
        let ended = wire.ended();
        assert_eq!((ended[0].status, ended[0].outcome), (Some(200), Outcome::Lost));
        assert_eq!((ended[1].target.as_str(), ended[1].status), ("/b", Some(200)));
    }
}

#[test]
fn requests_without_answers_are_bounded() {
    let mut wire = Wire::new();
    for _ in 0..1000 {
        wire.request(GET);
        assert!(wire.http.open.len() <= super::super::OPEN_LIMIT);
    }
    wire.close();
    assert_eq!(wire.ended().len(), 1000);
}

#[test]
fn what_is_held_back_for_an_upgrade_is_bounded() {
    let mut totals = Vec::new();
    for piece in [7, 70_000, usize::MAX] {
        let mut wire = Wire::new();
        wire.request("CONNECT x:1 HTTP/1.1\r\n\r\n");
        for bytes in vec![b'x'; 100_000].chunks(piece) {
            wire.request(bytes);
        }
        wire.response("HTTP/1.1 200 OK\r\n\r\n");
        let events = wire.events();
        totals.push(losses(&events));
        assert_eq!(events.last().map(word), Some("upgrade connect \"\" \"\"".to_owned()));
    }
    assert!(totals.iter().all(|losses| *losses == [(LossReason::TooLarge, 100_000)]), "{totals:?}");
}
