use std::io::Write as _;

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::*;

/// A message that cannot be read yet.
const WINDOWLESS: &str = "Windowless { resumable: true }";
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

#[test]
fn a_stream_that_is_older_than_the_agent_is_read_when_its_window_is_known() {
    let names = ["READY", "TYPING_START", "MESSAGE_CREATE", "TYPING_START", "READY"];
    let pieces = stream(&names);
    let late = |piece: usize| WebSocket::late(&pieces[piece]).expect("the gateway");
    // Another connection has begun the stream; this one is met at its second message.
    let play = |unseen: &[usize]| {
        let (mut socket, mut out) = (late(1), Vec::new());
        let mut said = event(names[0]);
        for (i, name) in names.iter().enumerate().skip(1) {
            socket.data(Side::Response, &pieces[i], at(1), &mut out);
            let payload = &pieces[i][2..];
            let window = Window {
                front: &payload[..payload.len().min(16)],
                length: payload.len(),
                history: [&[], &said],
            };
            if !unseen.contains(&i) {
                socket.window(&window, &mut out);
            }
            said.extend(event(name));
        }
        socket.close(at(2), &mut out);
        words(&out)
    };
    let lost = |places: &[usize]| places.iter().map(|i| pieces[*i].len() - 2).sum::<usize>();
    let expected = [WINDOWLESS.to_owned(), format!("lost {} Resync", lost(&[1]))];
    let behind = names[2..].iter().map(|name| (*name).to_owned());
    assert_eq!(play(&[]), expected.into_iter().chain(behind).collect::<Vec<_>>());
    // Two have come by when one is seen; what was given to `inflate` before is not read.
    let expected = [WINDOWLESS, WINDOWLESS, &format!("lost {} Resync", lost(&[1, 2])), names[3], names[4]];
    assert_eq!(play(&[1]), expected);
    // None is seen at all.
    let expected = [WINDOWLESS; 4].into_iter().map(str::to_owned);
    let expected: Vec<_> = expected.chain([format!("lost {} Resync", lost(&[1, 2, 3, 4]))]).collect();
    assert_eq!(play(&[1, 2, 3, 4]), expected);
}

#[test]
fn several_messages_may_come_before_the_first_is_decompressed() {
    let names = ["READY", "TYPING_START", "MESSAGE_CREATE", "GUILD_CREATE"];
    let pieces = stream(&names);
    let (mut socket, mut out) = (WebSocket::late(&pieces[1]).expect("the gateway"), Vec::new());
    socket.data(Side::Response, &pieces[1..3].concat(), at(1), &mut out);
    let payload = &pieces[1][2..];
    let said = event(names[0]);
    // Too old, then another's, then right.
    let wrong = Window { front: b"else", length: payload.len(), history: [&said, &[]] };
    assert!(!socket.window(&wrong, &mut out));
    let wrong = Window { front: &payload[..16], length: payload.len(), history: [b"else", &[]] };
    assert!(!socket.window(&wrong, &mut out));
    let right = Window { front: &payload[..16], length: payload.len(), history: [&said, &[]] };
    assert!(socket.window(&right, &mut out));
    socket.data(Side::Response, &pieces[3], at(1), &mut out);
    assert_eq!(words(&out)[3..], ["GUILD_CREATE"], "{:?}", words(&out));
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
    assert_eq!(words(&out), [&lost, "Windowless { resumable: false }"]);
}

#[test]
fn a_stream_with_a_hole_goes_on_when_its_window_is_known() {
    let socket = || WebSocket::new(&opening("/?encoding=json&v=10&compress=zlib-stream", ""), Side::Response);
    let names = ["READY", "TYPING_START", "MESSAGE_CREATE", "GUILD_CREATE"];
    let pieces = stream(&names);
    assert_eq!(words(&play(socket(), &[&pieces.concat()])), names);
    let (mut socket, mut out) = (socket(), Vec::new());
    socket.data(Side::Response, &pieces[0], at(1), &mut out);
    socket.gap(Side::Response, pieces[1].len() as u64, at(2), &mut out);
    socket.data(Side::Response, &pieces[2], at(3), &mut out);
    let said = [event(names[0]), event(names[1])].concat();
    let payload = &pieces[2][2..];
    let window = Window { front: &payload[..16], length: payload.len(), history: [&said, &[]] };
    assert!(socket.window(&window, &mut out));
    socket.data(Side::Response, &pieces[3], at(4), &mut out);
    let lost = [format!("lost {} Gap", pieces[1].len()), format!("lost {} Resync", payload.len())];
    assert_eq!(words(&out), ["READY", &lost[0], WINDOWLESS, &lost[1], "GUILD_CREATE"]);
}

#[test]
fn a_circle_begins_where_the_next_byte_will_be() {
    let circle = b"cdefab";
    let fixed = |have, next| adder_ebpf::Window { length: 4, have, next, ..Default::default() };
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
    assert_eq!(words(&out), [&lost, "Windowless { resumable: false }"]);
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
