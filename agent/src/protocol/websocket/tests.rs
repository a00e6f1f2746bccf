use std::io::Write as _;

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::*;

/// A message that cannot be read yet.
const WINDOWLESS: &str = "Unread(Window)";
const GATEWAY: &str = "/?v=10&encoding=json";

fn at(time: u64) -> Mark {
    Mark { time, ..Mark::default() }
}

fn opening(target: &str, extensions: &str) -> Opening {
    Opening { target: target.into(), extensions: extensions.into() }
}

/// A frame; `first` is its first byte.
fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mask = if key.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(mask + length as u8),
        length @ 126..=0xffff => {
            frame.push(mask + 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask + 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend(key.iter().flatten());
    let key = key.unwrap_or_default();
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn event(name: &str) -> Vec<u8> {
    format!(r#"{{"op":0,"s":1,"t":"{name}","d":{{"guild_id":"7"}}}}"#).into_bytes()
}

/// Plays pieces of the inbound half.
fn play(mut socket: WebSocket, pieces: &[&[u8]]) -> Vec<Event> {
    let (mut out, side) = (Vec::new(), socket.inbound);
    for piece in pieces {
        socket.data(side, piece, at(1), &mut out);
    }
    socket.close(at(2), &mut out);
    out
}

/// Sizes of messages, names of events, losses.
fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Push { detail: Detail::WebSocket(message), .. } => match &message.discord {
            Some(dispatch) => dispatch.event.clone(),
            None => format!("{} bytes", message.size),
        },
        Event::Lost { reason, bytes } => format!("lost {bytes} {reason:?}"),
        other => format!("{other:?}"),
    };
    events.iter().map(word).collect()
}

#[test]
fn the_examples_of_the_specification_are_read() {
    // RFC 6455, section 5.7: masked, fragmented, a ping between.
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let server = WebSocket::new(&opening("/chat", ""), Side::Request);
    assert_eq!(words(&play(server, &[&masked])), ["5 bytes"]);
    let fragments = [
        &[0x01, 0x03, 0x48, 0x65, 0x6c][..],
        &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f],
        &[0x80, 0x02, 0x6c, 0x6f],
    ];
    let client = WebSocket::new(&opening("/chat", ""), Side::Response);
    assert_eq!(words(&play(client, &fragments)), ["5 bytes"]);
}

#[test]
fn nothing_is_read_behind_a_close() {
    let socket = WebSocket::new(&opening("/", ""), Side::Response);
    let pieces = [frame(0x81, b"a", None), frame(0x88, b"\x03\xe8", None), frame(0x81, b"b", None)].concat();
    assert_eq!(words(&play(socket, &[&pieces])), ["1 bytes"]);
}

#[test]
fn permessage_deflate_is_read_with_and_without_its_window() {
    for (extensions, keeps) in
        [("permessage-deflate", true), ("permessage-deflate; server_no_context_takeover", false)]
    {
        let mut compress = Compress::new(Compression::default(), false);
        let mut pieces = Vec::new();
        for name in ["READY", "READY", "TYPING_START"] {
            if !keeps {
                compress.reset();
            }
            let mut payload = Vec::with_capacity(4096);
            compress.compress_vec(&event(name), &mut payload, FlushCompress::Sync).expect("room");
            assert!(payload.ends_with(&[0, 0, 0xff, 0xff]));
            payload.truncate(payload.len() - 4);
            pieces.extend(frame(0xc1, &payload, None));
        }
        let socket = WebSocket::new(&opening(GATEWAY, extensions), Side::Response);
        assert_eq!(words(&play(socket, &[&pieces])), ["READY", "READY", "TYPING_START"]);
    }
}

/// Messages of a gateway in one stream.
fn stream(names: &[&str]) -> Vec<Vec<u8>> {
    let mut compress = Compress::new(Compression::default(), true);
    let pack = |name: &&str| {
        let mut payload = Vec::with_capacity(4096);
        compress.compress_vec(&event(name), &mut payload, FlushCompress::Sync).expect("room");
        frame(0x82, &payload, None)
    };
    names.iter().map(pack).collect()
}

#[test]
fn zstd_streams_are_read() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
    let mut pieces = Vec::new();
    for name in ["READY", "TYPING_START"] {
        encoder.write_all(&event(name)).expect("memory");
        encoder.flush().expect("memory");
        pieces.extend(frame(0x82, &std::mem::take(encoder.get_mut()), None));
    }
    let socket = WebSocket::new(&opening("/?encoding=json&v=10&compress=zstd-stream", ""), Side::Response);
    assert_eq!(words(&play(socket, &[&pieces])), ["READY", "TYPING_START"]);
}

/// Erlang's terms begin with 131 (External Term Format, "Introduction").
#[test]
fn of_messages_in_erlangs_terms_it_is_said_that_they_are_not_read() {
    let socket = WebSocket::new(&opening("/?encoding=etf&v=10", ""), Side::Response);
    let message = frame(0x82, &[131, 116, 0, 0, 0, 0], None);
    assert_eq!(words(&play(socket, &[&message])), ["Unread(Encoding)"]);
    // Nor is it their compression, if there are holes in it.
    let (mut socket, mut out) = (
        WebSocket::new(&opening("/?encoding=etf&v=10&compress=zlib-stream", ""), Side::Response),
        Vec::new(),
    );
    socket.data(Side::Response, &message, at(1), &mut out);
    socket.gap(Side::Response, message.len() as u64, at(2), &mut out);
    socket.data(Side::Response, &message, at(3), &mut out);
    let unread: Vec<_> = words(&out).into_iter().filter(|word| word.starts_with("Unread")).collect();
    assert_eq!(unread, ["Unread(Encoding)"; 2]);
}

/// Messages that say little in common, in one stream; each as it is before it, and as it is on the wire.
fn long_stream(count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let token = |i: u64| {
        let letter =
            |place: u64| char::from(b'a' + (((place + 3) * (i + 7) * 2_654_435_761) >> 20) as u8 % 26);
        (0..60).map(letter).collect::<String>()
    };
    let message =
        |i| format!(r#"{{"op":0,"s":{i},"t":"E{i}","d":{{"guild_id":"7","token":"{}"}}}}"#, token(i));
    packed((0..count as u64).map(|i| message(i).into_bytes()))
}

/// Messages in one stream.
fn packed(contents: impl IntoIterator<Item = Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut compress = Compress::new(Compression::default(), true);
    let pack = |content: Vec<u8>| {
        let mut payload = Vec::with_capacity(4096);
        compress.compress_vec(&content, &mut payload, FlushCompress::Sync).expect("room");
        assert!((32..=125).contains(&payload.len()));
        (content, frame(0x82, &payload, None))
    };
    contents.into_iter().map(pack).collect()
}

/// What was said before a message.
fn said(stream: &[(Vec<u8>, Vec<u8>)], message: usize) -> Vec<u8> {
    stream[..message].iter().flat_map(|(content, _)| content.iter().copied()).collect()
}

/// The window of a call that is given this message.
fn window<'a>(message: &'a [u8], history: [&'a [u8]; 2]) -> Window<'a> {
    Window { time: 2, front: &message[2..18], length: message.len() - 2, history }
}

/// As a connection does that asks whether it is its own first.
fn resume(socket: &mut WebSocket, window: &Window<'_>, out: &mut Vec<Event>) -> bool {
    socket.awaits(window) && socket.resume(window, out)
}

#[test]
fn a_stream_that_is_older_than_the_agent_is_read_when_its_window_is_known() {
    let stream = long_stream(6);
    // It is met at its second message; `inflate` is seen from `seen` on.
    let play = |seen: usize| {
        let mut socket = WebSocket::late(&stream[1].1).expect("the gateway");
        let mut out = Vec::new();
        for (i, (_, message)) in stream.iter().enumerate().skip(1) {
            socket.data(Side::Response, message, at(1), &mut out);
            let said = said(&stream, i);
            let (older, newer) = said.split_at(said.len() / 2);
            if i >= seen {
                resume(&mut socket, &window(message, [older, newer]), &mut out);
            }
        }
        socket.close(at(2), &mut out);
        words(&out)
    };
    for seen in 1..=stream.len() {
        let unread = 1..(seen + 1).min(stream.len());
        let bytes: usize = stream[unread.clone()].iter().map(|(_, message)| message.len() - 2).sum();
        let mut expected = vec![WINDOWLESS.to_owned(); unread.len()];
        expected.push(format!("lost {bytes} Resync"));
        expected.extend((unread.end..stream.len()).map(|i| format!("E{i}")));
        assert_eq!(play(seen), expected, "from {seen} on");
    }
}

#[test]
fn several_messages_may_come_before_the_first_is_decompressed() {
    let stream = long_stream(4);
    let (mut socket, mut out) = (WebSocket::late(&stream[1].1).expect("the gateway"), Vec::new());
    socket.data(Side::Response, &[&stream[1].1[..], &stream[2].1].concat(), at(1), &mut out);
    let right = said(&stream, 1);
    let front = Window { front: b"another's", ..window(&stream[1].1, [&right, &[]]) };
    assert!(!resume(&mut socket, &front, &mut out));
    let length = Window { length: 33, ..window(&stream[1].1, [&right, &[]]) };
    assert!(!resume(&mut socket, &length, &mut out));
    let late = Window { time: 2_000_000_000, ..window(&stream[1].1, [&right, &[]]) };
    assert!(!resume(&mut socket, &late, &mut out), "it is not given what was received long ago");
    assert!(!resume(&mut socket, &window(&stream[1].1, [b"else", &[]]), &mut out), "it does not fit");
    assert!(resume(&mut socket, &window(&stream[1].1, [&right, &[]]), &mut out));
    socket.data(Side::Response, &stream[3].1, at(1), &mut out);
    assert_eq!(words(&out)[3..], ["E3"], "{:?}", words(&out));
}

#[test]
fn of_messages_that_are_alike_none_is_taken() {
    let stream = long_stream(2);
    let (mut socket, mut out) = (WebSocket::late(&stream[1].1).expect("the gateway"), Vec::new());
    let said = said(&stream, 1);
    for _ in 0..2 {
        socket.data(Side::Response, &stream[1].1, at(1), &mut out);
    }
    assert!(!resume(&mut socket, &window(&stream[1].1, [&said, &[]]), &mut out));
    // Answers to heartbeats are short.
    let short = frame(0x82, &[1, 2, 3, 0, 0, 0xff, 0xff], None);
    socket.data(Side::Response, &short, at(1), &mut out);
    let window = Window { time: 1, front: &short[2..], length: 7, history: [&said, &[]] };
    assert!(!resume(&mut socket, &window, &mut out));
}

#[test]
fn a_stream_that_turns_out_to_say_nothing_is_taken_up_anew() {
    let mut contents: Vec<_> = long_stream(5).into_iter().map(|(content, _)| content).collect();
    // As where what it refers back to was not right.
    contents[2].reverse();
    let stream = packed(contents);
    let (mut socket, mut out) = (WebSocket::late(&stream[1].1).expect("the gateway"), Vec::new());
    socket.data(Side::Response, &stream[1].1, at(1), &mut out);
    assert!(resume(&mut socket, &window(&stream[1].1, [&said(&stream, 1), &[]]), &mut out));
    for (_, message) in &stream[2..4] {
        socket.data(Side::Response, message, at(1), &mut out);
    }
    assert!(resume(&mut socket, &window(&stream[3].1, [&said(&stream, 3), &[]]), &mut out));
    socket.data(Side::Response, &stream[4].1, at(1), &mut out);
    let size = |i: usize| stream[i].1.len() - 2;
    let lost = [
        format!("lost {} Resync", size(1)),
        format!("lost {} Malformed", size(2)),
        format!("lost {} Resync", size(3)),
    ];
    assert_eq!(words(&out), [WINDOWLESS, &lost[0], &lost[1], WINDOWLESS, &lost[2], "E4"]);
}

#[test]
fn what_is_kept_is_bounded() {
    let stream = long_stream(1);
    let mut socket = WebSocket::late(&stream[0].1).expect("the gateway");
    let mut out = Vec::new();
    for _ in 0..5000 {
        socket.data(Side::Response, &frame(0x82, &[], None), at(1), &mut out);
    }
    for _ in 0..300 {
        socket.data(Side::Response, &stream[0].1, at(1), &mut out);
    }
    let words = words(&out);
    let given_up = words.iter().position(|word| word == "Unread(Reconnect)").expect("given up");
    let lost: usize = out
        .iter()
        .map(|event| match event {
            Event::Lost { bytes, .. } => *bytes as usize,
            _ => 0,
        })
        .sum();
    assert_eq!(lost, 300 * (stream[0].1.len() - 2), "each is counted");
    assert!(words[given_up..].iter().all(|word| !word.contains("resumable: true")));
}

#[test]
fn a_gateway_without_compression_that_is_older_than_the_agent_is_known() {
    let message = frame(0x81, &event("TYPING_START"), None);
    let mut socket = WebSocket::late(&message).expect("the gateway");
    let mut out = Vec::new();
    socket.data(Side::Response, &message, at(1), &mut out);
    assert_eq!(words(&out), ["TYPING_START"]);
    let no_gateway: [&[u8]; 6] = [
        b"{\"op\":0}",
        &frame(0x81, b"{\"operation\":0}", None),
        &frame(0x81, b"{\"op\":0}", Some([1, 2, 3, 4])),
        &frame(0x82, b"binary", None),
        &message[..20],
        &[0x81, 127, 0xff],
    ];
    for bytes in no_gateway {
        assert!(WebSocket::late(bytes).is_none(), "{bytes:?}");
    }
}

#[test]
fn of_zstd_it_is_known_that_it_cannot_be_read() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
    let messages: Vec<_> = ["READY", "GUILD_CREATE", "RESUMED"]
        .iter()
        .map(|name| {
            encoder.write_all(&event(name)).expect("memory");
            encoder.flush().expect("memory");
            frame(0x82, &std::mem::take(encoder.get_mut()), None)
        })
        .collect();
    // The first has the header of the whole before it.
    assert!(WebSocket::late(&messages[0]).is_none());
    let (mut socket, mut out) = (WebSocket::late(&messages[1]).expect("the gateway"), Vec::new());
    socket.data(Side::Response, &messages[2], at(1), &mut out);
    let lost = format!("lost {} Malformed", messages[2].len() - 2);
    assert_eq!(words(&out), [&lost, "Unread(Reconnect)"]);
}

#[test]
fn a_stream_with_a_hole_goes_on_when_its_window_is_known() {
    let socket = || WebSocket::new(&opening("/?encoding=json&v=10&compress=zlib-stream", ""), Side::Response);
    let stream = long_stream(5);
    let all: Vec<u8> = stream.iter().flat_map(|(_, message)| message.iter().copied()).collect();
    assert_eq!(words(&play(socket(), &[&all])), ["E0", "E1", "E2", "E3", "E4"]);
    let (mut socket, mut out) = (socket(), Vec::new());
    let size = |i: usize| stream[i].1.len();
    socket.data(Side::Response, &stream[0].1, at(1), &mut out);
    socket.gap(Side::Response, size(1) as u64, at(2), &mut out);
    socket.data(Side::Response, &stream[2].1, at(3), &mut out);
    // Another hole.
    socket.gap(Side::Response, size(2) as u64, at(2), &mut out);
    socket.data(Side::Response, &stream[3].1, at(3), &mut out);
    assert!(resume(&mut socket, &window(&stream[3].1, [&said(&stream, 3), &[]]), &mut out));
    socket.data(Side::Response, &stream[4].1, at(4), &mut out);
    let lost = |reason: &str, bytes: usize| format!("lost {bytes} {reason}");
    let expected = [
        "E0",
        &lost("Gap", size(1)),
        WINDOWLESS,
        &lost("Gap", size(2)),
        &lost("Resync", size(2) - 2),
        WINDOWLESS,
        &lost("Resync", size(3) - 2),
        "E4",
    ];
    assert_eq!(words(&out), expected);
}

#[test]
fn a_circle_begins_where_the_next_byte_will_be() {
    let circle = b"cdefab";
    let fixed = |have, next| adder_ebpf::Window { length: 40, have, next, ..Default::default() };
    let history = |have, next| {
        let fixed = fixed(have, next);
        Window::of(&fixed, circle).map(|window| window.history.concat())
    };
    assert_eq!(history(6, 4).as_deref(), Some(&b"abcdef"[..]));
    assert_eq!(history(3, 3).as_deref(), Some(&b"cde"[..]));
    assert_eq!(history(0, 0), None);
    assert_eq!(history(6, 7), None);
}

#[test]
fn a_hole_inside_a_message_costs_nothing_but_its_content() {
    let (mut socket, mut out) = (WebSocket::new(&opening("/", ""), Side::Response), Vec::new());
    let whole = frame(0x82, &[7; 1000], None);
    socket.data(Side::Response, &whole[..100], at(1), &mut out);
    socket.gap(Side::Response, 800, at(1), &mut out);
    socket.data(Side::Response, &whole[900..], at(1), &mut out);
    socket.data(Side::Response, &frame(0x81, b"ab", None), at(1), &mut out);
    assert_eq!(words(&out), ["1000 bytes", "2 bytes"]);
}

#[test]
fn what_is_no_frame_is_counted_and_the_next_piece_tried() {
    let (mut socket, mut out) = (WebSocket::new(&opening("/", ""), Side::Response), Vec::new());
    socket.data(Side::Response, b"\x7f\x01abc", at(1), &mut out);
    socket.data(Side::Response, &frame(0x81, b"ab", None), at(1), &mut out);
    assert_eq!(words(&out), ["lost 5 Resync", "2 bytes"]);
}

#[test]
fn a_bomb_is_given_up() {
    let mut compress = Compress::new(Compression::best(), true);
    let zeros = vec![b' '; 1 << 20];
    let mut payload = Vec::with_capacity(1 << 20);
    for _ in 0..80 {
        compress.compress_vec(&zeros, &mut payload, FlushCompress::None).expect("room");
    }
    compress.compress_vec(&[], &mut payload, FlushCompress::Sync).expect("room");
    let mut socket =
        WebSocket::new(&opening("/?encoding=json&v=10&compress=zlib-stream", ""), Side::Response);
    let mut out = Vec::new();
    socket.data(Side::Response, &frame(0x82, &payload, None), at(1), &mut out);
    let lost = format!("lost {} Malformed", payload.len());
    assert_eq!(words(&out), [&lost, "Unread(Reconnect)"]);
    assert!(socket.content.capacity() <= 2 * CONTENT_MAX);
}

#[test]
fn of_a_message_that_is_too_large_the_next_is_still_read() {
    let mut compress = Compress::new(Compression::default(), true);
    let mut pack = |content: &[u8]| {
        let mut payload = Vec::with_capacity(1 << 16);
        compress.compress_vec(content, &mut payload, FlushCompress::Sync).expect("room");
        frame(0x82, &payload, None)
    };
    let large = vec![b' '; CONTENT_MAX + 1];
    let pieces = [pack(&large), pack(&event("READY"))].concat();
    let socket = WebSocket::new(&opening("/?encoding=json&v=10&compress=zlib-stream", ""), Side::Response);
    let words = words(&play(socket, &[&pieces]));
    assert!(words[0].ends_with("TooLarge") && words[1..] == ["READY"], "{words:?}");
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(
        names in prop::collection::vec("[A-Z_]{1,30}", 1..6),
        pings in prop::collection::vec(any::<bool>(), 6),
        size in 1usize..40,
    ) {
        let mut bytes = Vec::new();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for (message, ping) in stream(&names).into_iter().zip(pings) {
            bytes.extend(message);
            if ping {
                bytes.extend(frame(0x89, b"still there?", None));
            }
        }
        let socket = || WebSocket::new(&opening("/?encoding=json&v=10&compress=zlib-stream", ""), Side::Response);
        let whole = play(socket(), &[&bytes]);
        prop_assert_eq!(whole.len(), names.len());
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        prop_assert_eq!(play(socket(), &pieces), whole);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1usize..40) {
        for side in [Side::Request, Side::Response] {
            let socket = WebSocket::new(&opening(GATEWAY, "permessage-deflate"), side);
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            play(socket, &pieces);
        }
    }
}
