use proptest::prelude::*;

use super::*;
use crate::signal::{Address, Description, Endpoints, Role, Status, Value};

fn mark(time: u64) -> Mark {
    Mark { time, ..Mark::default() }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A text without Huffman's code.
fn text(value: &str) -> Vec<u8> {
    [&[value.len() as u8], value.as_bytes()].concat()
}

/// `GET`, `https`, a path that enters the table, and the authority likewise.
fn get(stream: u32, path: &str) -> Vec<u8> {
    let block = [&[0x82, 0x87, 0x44][..], &text(path), &[0x41], &text("games.example:8443")].concat();
    frame(1, 0x05, stream, &block)
}

/// A call, whose fields stay out of the table.
fn call(stream: u32, path: &str) -> Vec<u8> {
    let kind = [&[0x0f, 0x10][..], &text("application/grpc")].concat();
    frame(1, 0x04, stream, &[&[0x83, 0x86, 0x04][..], &text(path), &kind].concat())
}

fn status(stream: u32, ends: bool, index: u8) -> Vec<u8> {
    frame(1, 0x04 | u8::from(ends), stream, &[index])
}

fn trailers(stream: u32, status: &str) -> Vec<u8> {
    frame(1, 0x05, stream, &[&[0x00][..], &text("grpc-status"), &text(status)].concat())
}

fn data(stream: u32, ends: bool, bytes: usize) -> Vec<u8> {
    frame(0, u8::from(ends), stream, &vec![7; bytes])
}

enum Op {
    Data(Side, Vec<u8>),
    Gap(Side, u64),
    Close,
}

fn sent(frames: &[Vec<u8>]) -> Op {
    Op::Data(Side::Request, frames.concat())
}

fn got(frames: &[Vec<u8>]) -> Op {
    Op::Data(Side::Response, frames.concat())
}

fn start() -> Op {
    sent(&[PREFACE.to_vec(), frame(4, 0, 0, &[0; 12]), frame(8, 0, 0, &[0, 1, 0, 0])])
}

fn play(from_start: bool, ops: &[Op]) -> Vec<Event> {
    let (mut parser, mut out) = (Http2::new(from_start, true), Vec::new());
    for (time, op) in ops.iter().enumerate() {
        let mark = mark(time as u64 + 1);
        match op {
            Op::Data(side, bytes) => parser.data(*side, bytes, mark, &mut out),
            Op::Gap(side, length) => parser.gap(*side, *length, mark, &mut out),
            Op::Close => parser.close(mark, &mut out),
        }
    }
    out
}

fn told(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Begin { exchange, first, at, incoming } => {
            format!(
                "begin {exchange} @{}-{}{}",
                first.time,
                at.time,
                if incoming.is_some() { " traced" } else { "" }
            )
        }
        Event::Reply { exchange, at } => format!("reply {exchange} @{}", at.time),
        Event::End { exchange, at, detail: Detail::Http(it) } => {
            let sizes = format!("{}/{}", it.request_size, it.response_size);
            let grpc = it.grpc.as_ref().map_or(String::new(), |grpc| format!(" grpc {:?}", grpc.status));
            let unknown = if it.unknown { " unknown" } else { "" };
            let reset = it.reset.map_or(String::new(), |code| format!(" reset {code}"));
            let status = it.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            format!(
                "end {exchange} @{} {} {} {status} {sizes} {:?}{grpc}{unknown}{reset}",
                at.time, it.method, it.target, it.outcome
            )
        }
        Event::Lost { reason, bytes } => format!("lost {reason:?} {bytes}"),
        other => panic!("not an event of HTTP/2: {other:?}"),
    };
    events.iter().map(line).collect()
}

#[track_caller]
fn check(from_start: bool, ops: &[Op], expected: &[&str]) {
    assert_eq!(told(&play(from_start, ops)), expected);
}

#[test]
fn streams_are_answered_in_any_order() {
    check(
        true,
        &[
            start(),
            sent(&[get(1, "/a"), get(3, "/b?q=1")]),
            got(&[frame(4, 0, 0, &[0; 6]), frame(4, 1, 0, &[]), status(3, false, 0x88)]),
            got(&[status(1, true, 0x8d), data(3, false, 10), data(3, true, 5)]),
            Op::Close,
        ],
        &[
            "begin 1 @2-2",
            "begin 3 @2-2",
            "reply 3 @3",
            "reply 1 @4",
            "end 1 @4 GET /a 404 0/0 Complete",
            "end 3 @4 GET /b?q=1 200 0/15 Complete",
        ],
    );
}

#[test]
fn an_answer_that_is_reported_before_its_request_is_kept_for_it() {
    check(
        true,
        &[
            start(),
            // Of a stream that is never begun here, and of two that are.
            got(&[status(1, true, 0x88), status(3, false, 0x88), data(3, false, 30)]),
            got(&[trailers(3, "0"), status(5, false, 0x88), data(5, false, 7)]),
            got(&[frame(3, 0, 7, &[0, 0, 0, 7])]),
            sent(&[call(3, "/games.Games/Get"), data(3, true, 20), get(5, "/b")]),
            got(&[data(5, true, 4)]),
            sent(&[get(7, "/c")]),
            Op::Close,
        ],
        &[
            "begin 3 @5-5",
            "reply 3 @2",
            "end 3 @3 POST /games.Games/Get 200 0/30 Complete grpc Some(0)",
            "begin 5 @5-5",
            "reply 5 @3",
            "end 5 @6 GET /b 200 0/11 Complete",
            "begin 7 @7-7",
            "end 7 @4 GET /c - 0/0 CutShort reset 7",
        ],
    );
}

#[test]
fn what_is_answered_to_nobody_is_not_kept_for_ever() {
    let (mut parser, mut out) = (Http2::new(false, false), Vec::new());
    for number in 0..2 * EARLY_LIMIT as u32 {
        parser.data(Side::Response, &status(2 * number + 1, false, 0x88), mark(1), &mut out);
    }
    assert_eq!(parser.early.len(), EARLY_LIMIT);
    parser.data(Side::Request, &get(5001, "/a"), mark(1), &mut out);
    assert!(parser.early.is_empty());
}

#[test]
fn calls_of_grpc_have_their_status_in_the_trailers() {
    check(
        true,
        &[
            start(),
            sent(&[call(1, "/games.Games/List"), data(1, true, 20)]),
            sent(&[call(3, "/games.Games/Get")]),
            got(&[status(1, false, 0x88), data(1, false, 30), trailers(1, "0")]),
            got(&[frame(1, 0x05, 3, &[&[0x88, 0x00][..], &text("grpc-status"), &text("5")].concat())]),
        ],
        &[
            "begin 1 @2-2",
            "begin 3 @3-3",
            "reply 1 @4",
            "end 1 @4 POST /games.Games/List 200 20/30 Complete grpc Some(0)",
            "reply 3 @5",
            "end 3 @5 POST /games.Games/Get 200 0/0 Complete grpc Some(5)",
        ],
    );
}

#[test]
fn calls_of_grpc_that_are_given_up_have_a_status_all_the_same() {
    let timed = |stream, timeout| {
        let kind = [&[0x0f, 0x10][..], &text("application/grpc")].concat();
        let timeout = [&[0x00][..], &text("grpc-timeout"), &text(timeout)].concat();
        frame(1, 0x05, stream, &[&[0x83, 0x86, 0x04][..], &text("/a.A/B"), &kind, &timeout].concat())
    };
    let cancel = |stream| frame(3, 0, stream, &[0, 0, 0, 8]);
    check(
        true,
        &[
            start(),
            sent(&[timed(1, "1n"), timed(3, "1S"), call(5, "/a.A/B")]),
            sent(&[cancel(1), cancel(3), cancel(5)]),
        ],
        &[
            "begin 1 @2-2",
            "begin 3 @2-2",
            "begin 5 @2-2",
            "end 1 @3 POST /a.A/B - 0/0 CutShort grpc Some(4) reset 8",
            "end 3 @3 POST /a.A/B - 0/0 CutShort grpc Some(1) reset 8",
            "end 5 @3 POST /a.A/B - 0/0 CutShort grpc Some(1) reset 8",
        ],
    );
}

#[test]
fn a_call_that_the_server_gives_up_is_answered_by_nobody() {
    let only = |stream, status: &str| {
        frame(1, 0x05, stream, &[&[0x88, 0x00][..], &text("grpc-status"), &text(status)].concat())
    };
    check(
        true,
        &[start(), sent(&[call(1, "/a.A/B"), call(3, "/a.A/C")]), got(&[only(1, "4"), only(3, "5")])],
        &[
            "begin 1 @2-2",
            "begin 3 @2-2",
            "end 1 @3 POST /a.A/B 200 0/0 Complete grpc Some(4)",
            "reply 3 @3",
            "end 3 @3 POST /a.A/C 200 0/0 Complete grpc Some(5)",
        ],
    );
}

#[test]
fn timeouts_are_a_number_and_a_unit() {
    assert_eq!(rpc::timeout(b"200m"), Some(200_000_000));
    assert_eq!(rpc::timeout(b"99999999H"), Some(u64::MAX), "centuries");
    for bad in [&b""[..], b"m", b"20", b"-1S", b"123456789S", b"1x"] {
        assert_eq!(rpc::timeout(bad), None, "{bad:?}");
    }
}

#[test]
fn streams_end_by_reset_and_by_going_away() {
    check(
        true,
        &[
            start(),
            sent(&[get(1, "/a"), get(3, "/b"), get(5, "/c")]),
            sent(&[frame(3, 0, 1, &[0, 0, 0, 8])]),
            got(&[status(1, true, 0x88), frame(7, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0])]),
            Op::Close,
        ],
        &[
            "begin 1 @2-2",
            "begin 3 @2-2",
            "begin 5 @2-2",
            "end 1 @3 GET /a - 0/0 CutShort reset 8",
            "end 5 @4 GET /c - 0/0 CutShort",
            "end 3 @5 GET /b - 0/0 CutShort",
        ],
    );
}

#[test]
fn blocks_are_padded_prioritised_and_continued() {
    let block = [&[0x82, 0x87, 0x44][..], &text("/long")].concat();
    let (one, two) = block.split_at(4);
    let first = frame(1, 0x29, 1, &[&[2, 0, 0, 0, 0, 15][..], one, &[0, 0]].concat());
    let informational = frame(1, 0x04, 1, &[&[0x08][..], &text("103")].concat());
    let padded = frame(0, 0x09, 1, &[3, 1, 1, 1, 1, 0, 0, 0]);
    check(
        true,
        &[
            start(),
            sent(&[first]),
            sent(&[frame(9, 4, 1, two)]),
            got(&[informational, status(1, false, 0x88), padded]),
        ],
        &["begin 1 @2-3", "reply 1 @4", "end 1 @4 GET /long 200 0/4 Complete"],
    );
}

#[test]
fn who_comes_late_tells_what_is_not_known() {
    let old = frame(1, 0x05, 7, &[0x82, 0x87, 0xbe, 0xc0]);
    check(
        false,
        &[
            sent(&[old, get(9, "/new")]),
            got(&[status(5, true, 0x88), status(7, true, 0x88), status(9, true, 0xbe)]),
        ],
        &[
            "begin 7 @1-1",
            "begin 9 @1-1",
            "reply 7 @2",
            "end 7 @2 GET  200 0/0 Complete unknown",
            "reply 9 @2",
            "end 9 @2 GET /new - 0/0 Complete unknown",
        ],
    );
}

#[test]
fn the_way_back_is_found_after_a_loss() {
    let hidden = data(1, false, 100);
    check(
        true,
        &[
            start(),
            sent(&[get(1, "/a"), get(3, "/b")]),
            got(&[status(1, false, 0x88), hidden[..20].to_vec()]),
            // Within a frame that is known, and beyond one.
            Op::Gap(Side::Response, 40),
            got(&[hidden[60..].to_vec(), data(1, false, 100)[..20].to_vec()]),
            Op::Gap(Side::Response, 500),
            got(&[vec![7; 30], data(1, true, 10), status(3, true, 0x88)]),
        ],
        &[
            "begin 1 @2-2",
            "begin 3 @2-2",
            "reply 1 @3",
            "lost Gap 520",
            "end 1 @7 GET /a 200 0/110 Lost",
            "reply 3 @7",
            "end 3 @7 GET /b 200 0/0 Complete",
            "lost Resync 30",
        ],
    );
}

#[test]
fn a_block_that_is_lost_makes_the_table_unknown() {
    let torn = get(3, "/torn");
    check(
        true,
        &[
            start(),
            sent(&[get(1, "/a"), torn[..12].to_vec()]),
            Op::Gap(Side::Request, torn.len() as u64 - 12),
            sent(&[frame(1, 0x05, 5, &[0x82, 0x87, 0xbe])]),
        ],
        &["begin 1 @2-2", "lost Gap 0", "begin 5 @4-4"],
    );
}

#[test]
fn it_is_detected_by_preface_and_by_blocks() {
    assert_eq!(detect(&PREFACE[..9]), Guess::More);
    assert_eq!(detect(PREFACE), Guess::Yes(Side::Request));
    assert_eq!(detect(&get(3, "/a")), Guess::Yes(Side::Request));
    assert_eq!(detect(&status(3, true, 0x88)), Guess::Yes(Side::Response));
    assert_eq!(detect(&data(3, true, 10)), Guess::No);
    assert_eq!(detect(b"GET / HTTP/1.1\r\n"), Guess::No);
    assert_eq!(detect(&frame(4, 0, 0, &[])), Guess::No);
}

#[test]
fn what_is_detected_does_not_depend_on_how_much_of_it_is_there() {
    for bytes in [PREFACE.to_vec(), get(3, "/a"), status(3, true, 0x88), data(3, true, 10)] {
        let whole = detect(&bytes);
        for end in 0..bytes.len() {
            let guess = detect(&bytes[..end]);
            assert!(guess == whole || guess == Guess::More, "{guess:?} after {end} bytes of {bytes:?}");
        }
    }
}

fn conversation() -> Vec<(Side, Vec<u8>)> {
    let Op::Data(_, hello) = start() else { unreachable!() };
    vec![
        (Side::Request, hello),
        (Side::Request, [get(1, "/a"), call(3, "/games.Games/List"), data(3, true, 300)].concat()),
        (Side::Response, [frame(4, 0, 0, &[0; 6]), status(3, false, 0x88), data(3, false, 70)].concat()),
        (Side::Request, [get(5, "/b"), frame(6, 0, 0, &[0; 8])].concat()),
        (
            Side::Response,
            [trailers(3, "0"), status(5, true, 0x8d), status(1, false, 0x88), data(1, true, 3)].concat(),
        ),
    ]
}

fn unmarked(events: Vec<Event>) -> Vec<Event> {
    let clear = |event| match event {
        Event::Begin { exchange, incoming, .. } => {
            Event::Begin { exchange, first: mark(0), at: mark(0), incoming }
        }
        Event::Reply { exchange, .. } => Event::Reply { exchange, at: mark(0) },
        Event::End { exchange, detail, .. } => Event::End { exchange, at: mark(0), detail },
        other => other,
    };
    events.into_iter().map(clear).collect()
}

proptest! {
    #[test]
    fn any_split_gives_the_same(sizes in prop::collection::vec(1usize..40, 1..60), from_start: bool) {
        let whole = |split: bool| {
            let (mut parser, mut out) = (Http2::new(from_start, false), Vec::new());
            let mut sizes = sizes.iter().cycle();
            for (side, bytes) in conversation() {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let size = if split { *sizes.next().unwrap() } else { rest.len() };
                    let (now, later) = rest.split_at(size.min(rest.len()));
                    parser.data(side, now, mark(1), &mut out);
                    rest = later;
                }
            }
            parser.close(mark(1), &mut out);
            unmarked(out)
        };
        prop_assert_eq!(whole(true), whole(false));
    }

    #[test]
    fn whatever_comes_is_bounded(ops in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..200), 0u64..400), 0..40)) {
        for from_start in [true, false] {
            let (mut parser, mut out) = (Http2::new(from_start, false), Vec::new());
            for (request, bytes, gap) in &ops {
                let side = if *request { Side::Request } else { Side::Response };
                parser.data(side, bytes, mark(1), &mut out);
                parser.gap(side, *gap, mark(1), &mut out);
            }
            parser.close(mark(2), &mut out);
            let begun = out.iter().filter(|event| matches!(event, Event::Begin { .. })).count();
            let ended = out.iter().filter(|event| matches!(event, Event::End { .. })).count();
            prop_assert_eq!(begun, ended);
        }
    }
}

/// What is told of a call: its name, error and attributes as text.
fn described(exchange: &Exchange, role: Role) -> (String, Option<String>, Vec<String>) {
    let address = |port| Address::Inet(std::net::SocketAddr::from(([10, 0, 0, 1], port)));
    let endpoints = Endpoints { local: address(50_051), remote: address(40_000), ..Endpoints::default() };
    let Description { name, attributes, status } = describe(exchange, role, &endpoints);
    let text = |value: &Value| match value {
        Value::Str(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let texts = attributes.iter().map(|it| format!("{}={}", it.key, text(&it.value))).collect::<Vec<_>>();
    let error = attributes.iter().find(|it| it.key == "error.type").map(|it| text(&it.value));
    assert_eq!(error.is_some(), matches!(status, Status::Error(_)));
    (name, error, texts)
}

#[test]
fn calls_are_named_by_service_and_method() {
    let grpc = |status| Some(Grpc { status, timeout: None });
    let call = Exchange { target: "/games.Games/List".into(), grpc: grpc(Some(0)), ..Exchange::default() };
    let (name, error, attributes) = described(&call, Role::Server);
    assert_eq!((name.as_str(), error), ("games.Games/List", None));
    for expected in [
        "rpc.system=grpc",
        "rpc.service=games.Games",
        "rpc.method=List",
        "rpc.grpc.status_code=0",
        "server.address=10.0.0.1",
        "server.port=50051",
        "client.address=10.0.0.1",
    ] {
        assert!(attributes.iter().any(|it| it == expected), "{expected}: {attributes:?}");
    }
    let missing = Exchange { grpc: grpc(Some(5)), host: Some("games:443".into()), ..call.clone() };
    assert_eq!(described(&missing, Role::Server).1, None, "the client's own fault");
    let (_, error, attributes) = described(&missing, Role::Client);
    assert_eq!(error.as_deref(), Some("NOT_FOUND"));
    assert!(attributes.contains(&"server.address=games".to_owned()), "{attributes:?}");
    let given_up =
        Exchange { grpc: grpc(Some(1)), reset: Some(8), outcome: Outcome::CutShort, ..call.clone() };
    assert_eq!(described(&given_up, Role::Client).1.as_deref(), Some("CANCELLED"));
    let cut = Exchange { grpc: grpc(None), outcome: Outcome::CutShort, ..call };
    assert_eq!(described(&cut, Role::Server).1.as_deref(), Some("connection_closed"));
}
