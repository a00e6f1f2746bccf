//! What holds for any bytes.

use proptest::{collection::vec, prelude::*};

use super::{
    golden::{RECORDINGS, calls},
    *,
};

/// Frames of both directions, sound and broken.
fn pieces() -> Vec<Vec<u8>> {
    let body = frame(3, 1, b"abc");
    vec![
        preamble(),
        select(1),
        select_ok(1),
        publish(1, "", "q"),
        publish_mandatory(1, "x", "k"),
        publish(2, "x", "k"),
        content(1, b""),
        content(1, b"abc"),
        content(2, b"abc"),
        header(1, 9, 0, &[]),
        header(1, 3, 1 << 7, &[short("m")]),
        header(1, 3, 1 << 13, &[long(b"\x01kS\0\0\0\x01v")]),
        body.clone(),
        body[..9].to_vec(),
        vec![wire::FRAME_END],
        ack(1, 1, false),
        ack(1, 3, true),
        ack(1, 0, true),
        ack(2, 7, false),
        nack(1, 2, 2),
        reject(1, 1, true),
        method(1, 60, 110, &[vec![1]]),
        consume(1, "q", "c", 0),
        consume(1, "q", "d", 2),
        consume(1, "", "", 8),
        consume_ok(1, "c"),
        consume_ok(1, "d"),
        deliver(1, "c", 1, "", "q"),
        deliver(1, "c", 2, "x", "k"),
        deliver(1, "d", 3, "x", "k"),
        deliver(2, "c", 1, "", "q"),
        method(1, 60, 70, &[vec![0, 0], short("q"), vec![0]]),
        method(1, 60, 71, &[vec![0, 0, 0, 0, 0, 0, 0, 4], vec![0], short(""), short("q"), vec![0; 4]]),
        method(1, 60, 72, &[short("")]),
        method(1, 60, 50, &[vec![1, 56], short("NO_ROUTE"), short("x"), short("k")]),
        method(1, 50, 10, &[vec![0, 0], short(""), vec![4], long(b"")]),
        method(1, 50, 11, &[short("amq.gen-1"), vec![0; 8]]),
        method(1, 20, 10, &[short("")]),
        method(1, 20, 11, &[long(b"")]),
        method(1, 90, 20, &[]),
        method(1, 90, 21, &[]),
        method(0, 10, 31, &[vec![7, 255], vec![0, 0, 16, 0], vec![0, 60]]),
        close(20, 404, "NOT_FOUND"),
        close_ok(20),
        close(10, 320, "CONNECTION_FORCED"),
        frame(8, 0, b""),
        vec![1, 0, 1, 0, 0, 0, 13, 0, 60],
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        12 => proptest::sample::select(pieces()),
        1 => vec(any::<u8>(), 1..8),
    ];
    vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

fn op() -> impl Strategy<Value = Op> {
    let side = || prop_oneof![Just(Side::Request), Just(Side::Response)];
    prop_oneof![
        12 => (side(), bytes()).prop_map(|(side, bytes)| Op::Data(side, bytes)),
        1 => (side(), prop_oneof![1u64..40, Just(u64::MAX)]).prop_map(|(side, length)| Op::Gap(side, length)),
    ]
}

/// A script of sizes, repeated for ever.
fn sizes(script: Vec<usize>) -> impl FnMut() -> usize {
    let mut script = script.into_iter().cycle();
    move || script.next().unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_a_recording_gives_the_same_events(
        recording in 0..RECORDINGS.len(),
        script in vec(1usize..40, 1..20),
    ) {
        let ops = calls(RECORDINGS[recording].1);
        prop_assert_eq!(play_cut(&ops, &mut sizes(script)), play(&ops));
    }

    #[test]
    fn any_cut_of_any_calls_gives_the_same_events(
        mut ops in vec(op(), 0..24),
        script in vec(1usize..12, 1..20),
    ) {
        ops.push(Op::Close);
        prop_assert_eq!(play_cut(&ops, &mut sizes(script)), play(&ops));
    }

    #[test]
    fn everything_begins_once_and_ends_once(mut ops in vec(op(), 0..40)) {
        ops.push(Op::Close);
        let (mut open, mut unsettled) = (std::collections::BTreeMap::new(), std::collections::BTreeSet::new());
        let (mut begun, mut delivered) = (0, 0);
        for event in play(&ops) {
            match event {
                Event::Begin { exchange, first, at, incoming } => {
                    prop_assert_eq!(exchange, begun);
                    prop_assert!(first.time <= at.time && incoming.is_none());
                    begun += 1;
                    open.insert(exchange, false);
                }
                Event::Reply { exchange, .. } => {
                    prop_assert_eq!(open.insert(exchange, true), Some(false));
                }
                Event::Sent { exchange, .. } => prop_assert!(open.contains_key(&exchange)),
                Event::End { exchange, .. } => prop_assert!(open.remove(&exchange).is_some()),
                Event::Delivery { delivery, first, at, .. } => {
                    prop_assert_eq!(delivery, delivered);
                    prop_assert!(first.time <= at.time);
                    delivered += 1;
                    unsettled.insert(delivery);
                }
                Event::Settle { delivery, .. } => prop_assert!(unsettled.remove(&delivery)),
                Event::Lost { bytes, .. } => prop_assert!(bytes > 0),
                Event::Push { .. } | Event::Upgrade { .. } | Event::Unread(_) => {
                    prop_assert!(false, "no such thing in AMQP");
                }
            }
        }
        prop_assert!(open.is_empty() && unsettled.is_empty());
    }

    #[test]
    fn holes_and_truncations_of_recordings_are_survived(
        recording in 0..RECORDINGS.len(),
        at in 0usize..120,
        head in 0usize..80,
        missing in 1usize..80,
    ) {
        let mut ops = calls(RECORDINGS[recording].1);
        let at = at % ops.len();
        if let Op::Data(side, bytes) = ops[at].clone() {
            let head = head.min(bytes.len());
            let tail = (head + missing).min(bytes.len());
            let holed = [
                Op::Data(side, bytes[..head].to_vec()),
                Op::Gap(side, (tail - head) as u64),
                Op::Data(side, bytes[tail..].to_vec()),
            ];
            ops.splice(at..=at, holed);
        }
        let events = play(&ops);
        let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
        prop_assert_eq!(
            count(|event| matches!(event, Event::Begin { .. })),
            count(|event| matches!(event, Event::End { .. }))
        );
        prop_assert_eq!(
            count(|event| matches!(event, Event::Delivery { .. })),
            count(|event| matches!(event, Event::Settle { .. }))
        );
        prop_assert_eq!(play_cut(&ops, &mut || 1), events);
    }

    #[test]
    fn the_first_look_never_panics_and_keeps_its_word(bytes in bytes()) {
        let mut decided = None;
        for length in 0..=bytes.len() {
            let guess = super::super::detect(&bytes[..length]);
            if let Some(before) = decided {
                prop_assert_eq!(guess, before);
            } else if guess != crate::protocol::Guess::More {
                decided = Some(guess);
            }
        }
    }
}
