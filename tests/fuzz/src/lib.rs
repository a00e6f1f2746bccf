//! Random connections: what all protocol targets share.
//!
//! `cargo xtask fuzz redis --seconds 600`; with sanitizers, from this folder: `cargo +nightly fuzz run redis`.

use std::collections::HashSet;

use adder::protocol::{Event, Mark, Parser, Side};

/// Something that happens on a connection.
enum Op<'a> {
    /// Bytes of one side. `same_call` says that they belong to the system call of the operation before.
    Data { side: Side, bytes: &'a [u8], same_call: bool },
    /// Bytes that were not captured.
    Gap { side: Side, length: u64, same_call: bool },
}

/// Reads a connection off random bytes: a control byte and a length for each operation, then its bytes.
///
/// Control: bit 0 the side, bit 1 and 2 both set a gap (bit 3: a long one), bit 7 the same call as before.
fn operations(mut input: &[u8]) -> Vec<Op<'_>> {
    let mut operations = Vec::new();
    while let [control, length, rest @ ..] = input {
        let side = if control & 1 == 0 { Side::Request } else { Side::Response };
        let same_call = control & 0x80 != 0;
        input = rest;
        if control & 6 == 6 {
            let length = (u64::from(*length) + 1) << if control & 8 == 0 { 0 } else { 8 };
            operations.push(Op::Gap { side, length, same_call });
        } else {
            let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*length)));
            input = rest;
            operations.push(Op::Data { side, bytes, same_call });
        }
    }
    operations
}

/// Plays the operations, the bytes in pieces of at most `size`, up to a change of protocol. Neighbouring losses for the
/// same reason are added up: they go into a counter, so it does not matter in how many parts they are told.
fn play(operations: &[Op<'_>], parser: impl Parser, size: usize) -> Vec<Event> {
    let mut events = Vec::new();
    feed(operations, parser, size, &mut events);
    events.dedup_by(|next, before| match (next, before) {
        (Event::Lost { reason, bytes }, Event::Lost { reason: same, bytes: sum }) if reason == same => {
            *sum += *bytes;
            true
        }
        _ => false,
    });
    events
}

fn feed(operations: &[Op<'_>], mut parser: impl Parser, size: usize, events: &mut Vec<Event>) {
    let mut mark = Mark { time: 1, pid: 1, tid: 1, context: 1, stack: 0 };
    for operation in operations {
        match operation {
            Op::Data { side, bytes, same_call } => {
                mark.time += u64::from(!same_call);
                for piece in bytes.chunks(size) {
                    parser.data(*side, piece, mark, events);
                    if upgraded(events) {
                        return;
                    }
                }
            }
            Op::Gap { side, length, same_call } => {
                mark.time += u64::from(!same_call);
                parser.gap(*side, *length, mark, events);
                if upgraded(events) {
                    return;
                }
            }
        }
    }
    mark.time += 1;
    parser.close(mark, events);
}

/// Whether the connection has left the protocol. How many bytes the last piece had beyond that is not compared.
fn upgraded(events: &mut [Event]) -> bool {
    match events.last_mut() {
        Some(Event::Upgrade { request, response, .. }) => {
            request.clear();
            response.clear();
            true
        }
        _ => false,
    }
}

/// Plays a random connection: nothing panics, events make sense, and pieces of any size give the same ones.
pub fn drive<P: Parser>(input: &[u8], new: impl Fn() -> P) {
    let operations = operations(input);
    let events = play(&operations, new(), usize::MAX);
    check(&events);
    for size in [1, 3] {
        assert_eq!(play(&operations, new(), size), events, "in pieces of {size}");
    }
}

/// The same for a protocol in which a message is taken to begin with a piece once something was lost: from there on the pieces
/// matter.
pub fn drive_until_lost<P: Parser>(input: &[u8], new: impl Fn() -> P) {
    let operations = operations(input);
    let events = play(&operations, new(), usize::MAX);
    check(&events);
    let is_lost = |event: &Event| matches!(event, Event::Lost { .. });
    let before = |events: &[Event]| events.iter().position(is_lost).unwrap_or(events.len());
    for size in [1, 3] {
        let pieces = play(&operations, new(), size);
        check(&pieces);
        assert_eq!(pieces[..before(&pieces)], events[..before(&events)], "in pieces of {size}");
    }
}

fn check(events: &[Event]) {
    let (mut begun, mut replied, mut ended) = (0, HashSet::new(), HashSet::new());
    let (mut delivered, mut settled) = (0, HashSet::new());
    for event in events {
        match event {
            Event::Begin { exchange, .. } => {
                assert_eq!(*exchange, begun, "exchanges are numbered in order");
                begun += 1;
            }
            Event::Reply { exchange, .. } => {
                assert!(
                    *exchange < begun && !ended.contains(exchange) && replied.insert(*exchange),
                    "{events:?}"
                );
            }
            Event::End { exchange, .. } => {
                assert!(*exchange < begun && ended.insert(*exchange), "{events:?}");
            }
            Event::Delivery { delivery, .. } => {
                assert_eq!(*delivery, delivered, "deliveries are numbered in order");
                delivered += 1;
            }
            Event::Settle { delivery, .. } => {
                assert!(*delivery < delivered && settled.insert(*delivery), "{events:?}");
            }
            Event::Sent { exchange, .. } => {
                assert!(*exchange < begun && !ended.contains(exchange), "{events:?}");
            }
            Event::Push { .. } | Event::Lost { .. } | Event::Upgrade { .. } => {}
        }
    }
    assert!(
        ended.len() as u64 == begun || matches!(events.last(), Some(Event::Upgrade { .. })),
        "{events:?}"
    );
}
