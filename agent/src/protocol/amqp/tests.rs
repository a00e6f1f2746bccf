//! What the parser makes of streams, written by hand, recorded and random.

mod confirms;
mod deliveries;
mod detection;
mod golden;
mod loss;
mod properties;
mod spans;

use super::{Amqp, Answer, Death, Ended, Kind, Message, Outcome, Task, describe, wire};
use crate::{
    protocol::{Detail, Event, Mark, Parser, Side},
    signal::{Attribute, Endpoints, Value},
};

/// What happens on a connection.
#[derive(Clone, Debug)]
enum Op {
    /// Bytes of one call.
    Data(Side, Vec<u8>),
    /// Bytes that were not captured.
    Gap(Side, u64),
    /// The end.
    Close,
}

fn sent(frames: &[Vec<u8>]) -> Op {
    Op::Data(Side::Request, frames.concat())
}

fn got(frames: &[Vec<u8>]) -> Op {
    Op::Data(Side::Response, frames.concat())
}

/// The n-th call, counted from 1, has the time n.
fn mark(call: usize) -> Mark {
    Mark { time: call as u64, pid: 7, tid: 8, context: 9, stack: 0 }
}

fn play(ops: &[Op]) -> Vec<Event> {
    play_cut(ops, &mut || usize::MAX)
}

/// Plays the calls in pieces of the sizes that `next` gives.
fn play_cut(ops: &[Op], next: &mut impl FnMut() -> usize) -> Vec<Event> {
    let (mut amqp, mut out) = (Amqp::new(), Vec::new());
    for (call, op) in ops.iter().enumerate() {
        let mark = mark(call + 1);
        match op {
            Op::Data(side, bytes) => {
                let mut bytes = bytes.as_slice();
                while !bytes.is_empty() {
                    let (piece, rest) = bytes.split_at(next().clamp(1, bytes.len()));
                    amqp.data(*side, piece, mark, &mut out);
                    bytes = rest;
                }
            }
            Op::Gap(side, length) => amqp.gap(*side, *length, mark, &mut out),
            Op::Close => amqp.close(mark, &mut out),
        }
        let [bytes, exchanges, deliveries, channels, contents] = amqp.held();
        assert!(bytes <= 2 * (1 << 16) + 2 * 4104, "{bytes} bytes held");
        assert!(exchanges <= 16_384 && deliveries <= 65_536 && channels <= 8192 && contents <= 2 * channels);
    }
    out
}

/// One line per event, the marks as numbers of calls.
fn told(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            Event::Begin { exchange, first, at, incoming: None } => {
                format!("begin {exchange} @{}-{}", first.time, at.time)
            }
            Event::Reply { exchange, at } => format!("reply {exchange} @{}", at.time),
            Event::End { exchange, at, detail: Detail::Amqp(message) } => {
                format!("end {exchange} @{} {}", at.time, told_message(message))
            }
            Event::Delivery { delivery, first, at, detail: Detail::Amqp(message) } => {
                format!("delivery {delivery} @{}-{} {}", first.time, at.time, told_message(message))
            }
            Event::Settle { delivery, at, outcome } => format!("settle {delivery} @{} {outcome:?}", at.time),
            Event::Sent { exchange, at, message } => {
                assert_eq!(message.kind, Kind::Publish);
                format!("sent {exchange} @{}", at.time)
            }
            Event::Lost { reason, bytes } => format!("lost {reason:?} {bytes}"),
            other => panic!("not an event of AMQP: {other:?}"),
        })
        .collect()
}

/// The span's name and what of the message is out of the ordinary.
fn told_message(message: &Message) -> String {
    let mut line = format!("[{}]", describe(message, &Endpoints::default(), None).name);
    let mut put = |text: String| {
        line.push(' ');
        line.push_str(&text);
    };
    if message.channel != 1 {
        put(format!("channel={}", message.channel));
    }
    if message.delivery_tag > 0 {
        put(format!("#{}", message.delivery_tag));
    }
    if message.body_size > 0 {
        put(format!("{} bytes", message.body_size));
    }
    for (key, value) in [("id", &message.message_id), ("correlation", &message.correlation_id)] {
        if let Some(value) = value {
            put(format!("{key}={value}"));
        }
    }
    for (flag, name) in [
        (message.redelivered, "redelivered"),
        (message.mandatory, "mandatory"),
        (message.no_ack == Some(true), "no-ack"),
    ] {
        if flag {
            put(name.to_owned());
        }
    }
    if let Some(answer) = message.answer {
        put(format!("{answer:?}"));
    }
    if let Some((code, _)) = &message.returned {
        put(format!("returned={code}"));
    }
    if let Some((code, _)) = &message.error {
        put(format!("error={code}"));
    }
    if message.ended != Ended::Complete {
        put(format!("{:?}", message.ended));
    }
    line
}

#[track_caller]
fn check(ops: &[Op], expected: &[&str]) {
    assert_eq!(told(&play(ops)), expected);
    assert_eq!(told(&play_cut(ops, &mut || 1)), expected, "byte by byte");
}

/// The messages of all exchanges and deliveries.
fn messages(events: &[Event]) -> Vec<Message> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::End { detail: Detail::Amqp(message), .. }
            | Event::Delivery { detail: Detail::Amqp(message), .. } => Some(Message::clone(message)),
            _ => None,
        })
        .collect()
}

fn value<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key).map(|attribute| &attribute.value)
}

fn preamble() -> Vec<u8> {
    wire::PREAMBLE.to_vec()
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(wire::FRAME_END);
    bytes
}

fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![text.len() as u8];
    bytes.extend(text.as_bytes());
    bytes
}

fn long(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text);
    bytes
}

fn method(channel: u16, class: u16, id: u16, arguments: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend(id.to_be_bytes());
    payload.extend(arguments.concat());
    frame(1, channel, &payload)
}

/// A content header with these properties: flags, then values.
fn header(channel: u16, size: u64, flags: u16, properties: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend(size.to_be_bytes());
    payload.extend(flags.to_be_bytes());
    payload.extend(properties.concat());
    frame(2, channel, &payload)
}

/// Content header and body in one frame.
fn content(channel: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(channel, body.len() as u64, 0, &[]);
    if !body.is_empty() {
        bytes.extend(frame(3, channel, body));
    }
    bytes
}

fn publish(channel: u16, exchange: &str, key: &str) -> Vec<u8> {
    method(channel, 60, 40, &[vec![0, 0], short(exchange), short(key), vec![0]])
}

fn publish_mandatory(channel: u16, exchange: &str, key: &str) -> Vec<u8> {
    method(channel, 60, 40, &[vec![0, 0], short(exchange), short(key), vec![1]])
}

fn select(channel: u16) -> Vec<u8> {
    method(channel, 85, 10, &[vec![0]])
}

fn select_ok(channel: u16) -> Vec<u8> {
    method(channel, 85, 11, &[])
}

fn ack(channel: u16, tag: u64, multiple: bool) -> Vec<u8> {
    method(channel, 60, 80, &[tag.to_be_bytes().to_vec(), vec![u8::from(multiple)]])
}

fn nack(channel: u16, tag: u64, bits: u8) -> Vec<u8> {
    method(channel, 60, 120, &[tag.to_be_bytes().to_vec(), vec![bits]])
}

fn reject(channel: u16, tag: u64, requeue: bool) -> Vec<u8> {
    method(channel, 60, 90, &[tag.to_be_bytes().to_vec(), vec![u8::from(requeue)]])
}

fn consume(channel: u16, queue: &str, tag: &str, bits: u8) -> Vec<u8> {
    method(channel, 60, 20, &[vec![0, 0], short(queue), short(tag), vec![bits], long(b"")])
}

fn consume_ok(channel: u16, tag: &str) -> Vec<u8> {
    method(channel, 60, 21, &[short(tag)])
}

fn deliver(channel: u16, consumer: &str, tag: u64, exchange: &str, key: &str) -> Vec<u8> {
    let tag = tag.to_be_bytes().to_vec();
    method(channel, 60, 60, &[short(consumer), tag, vec![0], short(exchange), short(key)])
}

fn close(class: u16, code: u16, text: &str) -> Vec<u8> {
    let (channel, id) = if class == 10 { (0, 50) } else { (1, 40) };
    method(channel, class, id, &[code.to_be_bytes().to_vec(), short(text), vec![0; 4]])
}

fn close_ok(class: u16) -> Vec<u8> {
    if class == 10 { method(0, 10, 51, &[]) } else { method(1, 20, 41, &[]) }
}

#[test]
fn a_publish_without_confirms_is_over_when_its_body_is_sent() {
    check(
        &[sent(&[publish(1, "games", "new"), content(1, b"hello")])],
        &["begin 0 @1-1", "end 0 @1 [send games:new] 5 bytes"],
    );
}

#[test]
fn a_publish_without_body_is_over_with_its_header() {
    check(
        &[sent(&[publish(1, "games", "new")]), sent(&[content(1, b"")])],
        &["begin 0 @1-1", "end 0 @2 [send games:new]"],
    );
}

#[test]
fn a_publish_sent_in_many_calls_lasts_from_the_first_to_the_last() {
    let whole = [publish(1, "", "jobs"), content(1, b"hello")].concat();
    let ops: Vec<Op> = whole.iter().map(|byte| Op::Data(Side::Request, vec![*byte])).collect();
    let begun = publish(1, "", "jobs").len();
    let expected = [format!("begin 0 @1-{begun}"), format!("end 0 @{} [send jobs] 5 bytes", whole.len())];
    assert_eq!(told(&play(&ops)), expected);
}

#[test]
fn a_body_of_several_frames_is_one_message_and_other_channels_may_come_between() {
    let events = play(&[sent(&[
        publish(1, "", "a"),
        header(1, 6, 0, &[]),
        frame(3, 1, b"abc"),
        publish(2, "", "b"),
        content(2, b"x"),
        frame(3, 1, b"def"),
    ])]);
    assert_eq!(
        told(&events),
        ["begin 0 @1-1", "begin 1 @1-1", "end 1 @1 [send b] channel=2 1 bytes", "end 0 @1 [send a] 6 bytes"]
    );
    let whole = messages(&play(&[sent(&[publish(1, "", "a"), content(1, b"abcdef")])]));
    assert_eq!(messages(&events)[1].body_digest, whole[0].body_digest);
    assert!(whole[0].digest_complete);
}

#[test]
fn a_get_ends_with_its_message_or_with_none() {
    let get = method(1, 60, 70, &[vec![0, 0], short("jobs"), vec![0]]);
    let got_ok =
        method(1, 60, 71, &[9u64.to_be_bytes().to_vec(), vec![1], short("games"), short("new"), vec![0; 4]]);
    check(
        &[
            sent(std::slice::from_ref(&get)),
            got(&[got_ok]),
            got(&[content(1, b"hello")]),
            sent(&[ack(1, 9, false), get]),
            got(&[method(1, 60, 72, &[short("")])]),
        ],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @3 [receive games:new:jobs] #9 5 bytes redelivered",
            "begin 1 @4-4",
            "reply 1 @5",
            "end 1 @5 [receive jobs] Empty",
        ],
    );
}

#[test]
fn operations_end_with_their_answers_and_those_without_at_once() {
    check(
        &[
            sent(&[
                method(1, 40, 10, &[vec![0, 0], short("games"), short("topic"), vec![0], long(b"")]),
                method(1, 50, 10, &[vec![0, 0], short("jobs"), vec![0], long(b"")]),
                method(1, 50, 20, &[vec![0, 0], short(""), short("games"), short("#"), vec![1], long(b"")]),
            ]),
            got(&[method(1, 40, 11, &[])]),
            got(&[method(1, 50, 11, &[short("jobs"), vec![0; 8]])]),
        ],
        &[
            "begin 0 @1-1",
            "begin 1 @1-1",
            "begin 2 @1-1",
            "end 2 @1 [queue.bind games:#:jobs]",
            "reply 0 @2",
            "end 0 @2 [exchange.declare games]",
            "reply 1 @3",
            "end 1 @3 [queue.declare jobs]",
        ],
    );
}

#[test]
fn a_transaction_is_an_operation_and_its_publishes_end_when_sent() {
    check(
        &[
            sent(&[method(1, 90, 10, &[])]),
            got(&[method(1, 90, 11, &[])]),
            sent(&[publish(1, "", "q"), content(1, b""), method(1, 90, 20, &[])]),
            got(&[method(1, 90, 21, &[])]),
        ],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [tx.select]",
            "begin 1 @3-3",
            "end 1 @3 [send q]",
            "begin 2 @3-3",
            "reply 2 @4",
            "end 2 @4 [tx.commit]",
        ],
    );
    let events = play(&[sent(&[method(1, 90, 30, &[])]), got(&[method(1, 90, 31, &[])])]);
    assert_eq!(messages(&events)[0].kind, Kind::Tx { method: "tx.rollback" });
}

#[test]
fn what_the_broker_closes_ends_with_its_error() {
    check(
        &[
            sent(&[select(1)]),
            got(&[select_ok(1)]),
            sent(&[publish(1, "missing", "k"), content(1, b"x")]),
            got(&[close(20, 404, "NOT_FOUND - no exchange 'missing' in vhost '/'")]),
            sent(&[publish(1, "missing", "l"), content(1, b"y"), close_ok(20)]),
            sent(&[publish(1, "games", "k"), content(1, b"z")]),
        ],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [confirm.select]",
            "begin 1 @3-3",
            "sent 1 @3",
            "end 1 @4 [send missing:k] #1 1 bytes error=404 Cut",
            "begin 2 @5-5",
            "end 2 @5 [send missing:l] 1 bytes error=404 Cut",
            "begin 3 @6-6",
            "end 3 @6 [send games:k] 1 bytes",
        ],
    );
}

#[test]
fn a_connection_that_the_broker_closes_ends_everything_on_it() {
    check(
        &[
            sent(&[select(1), publish(1, "", "a"), content(1, b"x")]),
            sent(&[consume(2, "jobs", "c", 0)]),
            got(&[consume_ok(2, "c"), deliver(2, "c", 1, "", "jobs"), content(2, b"x")]),
            got(&[close(10, 320, "CONNECTION_FORCED - shutdown")]),
            sent(&[close_ok(10)]),
            Op::Close,
        ],
        &[
            "begin 0 @1-1",
            "begin 1 @1-1",
            "sent 1 @1",
            "begin 2 @2-2",
            "reply 2 @3",
            "end 2 @3 [basic.consume jobs] channel=2",
            "delivery 0 @3-3 [process jobs] channel=2 #1 1 bytes",
            "end 0 @4 [confirm.select] error=320 Cut",
            "end 1 @4 [send a] #1 1 bytes error=320 Cut",
            "settle 0 @4 Cut { code: Some(320) }",
        ],
    );
}

#[test]
fn heartbeats_and_the_refusal_of_a_version_are_passed_over() {
    check(
        &[
            sent(&[preamble()]),
            got(&[method(0, 10, 30, &[vec![0; 8]])]),
            got(&[b"AMQP\x00\x01\x00\x00".to_vec(), frame(8, 0, b"")]),
            sent(&[frame(8, 0, b"")]),
            Op::Close,
        ],
        &[],
    );
}

#[test]
fn credentials_are_never_held() {
    let start_ok = method(0, 10, 11, &[long(b""), short("PLAIN"), long(b"\0me\0SECRET"), short("en_US")]);
    for begin in [preamble(), vec![]] {
        let (mut amqp, mut out) = (Amqp::new(), Vec::new());
        for byte in [begin, start_ok.clone(), method(0, 10, 21, &[long(b"SECRET")])].concat() {
            amqp.data(Side::Request, &[byte], Mark::default(), &mut out);
            assert!(amqp.held()[0] <= 48, "the answer is not gathered");
        }
        assert!(!format!("{amqp:?}{out:?}").contains("83, 69, 67, 82"));
    }
}

#[test]
fn the_agreed_frame_size_is_the_limit_from_then_on() {
    let tune_ok = method(0, 10, 31, &[vec![0, 2], 4096u32.to_be_bytes().to_vec(), vec![0, 0]]);
    let fits = frame(3, 1, &[0; 4088]);
    let message = [publish(1, "", "q"), header(1, 4088, 0, &[]), fits].concat();
    let too_large = [publish(1, "", "q"), header(1, 4089, 0, &[]), frame(3, 1, &[0; 4089])].concat();
    check(
        &[sent(&[preamble(), tune_ok, message, too_large])],
        &[
            "begin 0 @1-1",
            "end 0 @1 [send q] 4088 bytes",
            "begin 1 @1-1",
            "lost Malformed 1",
            "end 1 @1 [send q] 4089 bytes Gap",
        ],
    );
}
