//! Connections seen from the middle, holes, and bytes that make no sense.

use super::*;

fn big(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// A message on channel 1 with its body in frames of this payload.
fn message(begin: Vec<u8>, body: &[u8], payload: usize) -> Vec<u8> {
    let mut bytes = begin;
    bytes.extend(header(1, body.len() as u64, 0, &[]));
    bytes.extend(body.chunks(payload).flat_map(|part| frame(3, 1, part)));
    bytes
}

/// One call of which only the beginning and the end were captured.
fn holed(side: Side, bytes: &[u8], head: usize, tail: usize) -> Vec<Op> {
    let missing = bytes.len() - head - tail;
    vec![
        Op::Data(side, bytes[..head].to_vec()),
        Op::Gap(side, missing as u64),
        Op::Data(side, bytes[bytes.len() - tail..].to_vec()),
    ]
}

#[test]
fn a_large_body_is_digested_frame_by_frame() {
    let body = big(300_000);
    let bytes = message(publish(1, "", "big"), &body, 131_064);
    let events = play(&[Op::Data(Side::Request, bytes.clone())]);
    assert_eq!(told(&events), ["begin 0 @1-1", "end 0 @1 [send big] 300000 bytes"]);
    let pieces = play_cut(&[Op::Data(Side::Request, bytes)], &mut || 4099);
    assert_eq!(pieces, events);
    let mut digest = wire::Digest::default();
    digest.update(&body);
    assert_eq!(messages(&events)[0].body_digest, digest.value());
    assert!(messages(&events)[0].digest_complete);
    let mut head = wire::Digest::default();
    head.update(&body[..256]);
    assert_eq!(messages(&events)[0].head_digest, Some(head.value()));
}

#[test]
fn the_beginning_of_a_body_is_known_though_its_middle_is_not() {
    let bytes = message(publish(1, "", "big"), &big(1000), 600);
    let head = publish(1, "", "big").len() + header(1, 0, 0, &[]).len() + 7;
    let known = messages(&play(&[Op::Data(Side::Request, bytes.clone())]))[0].head_digest;
    assert!(known.is_some());
    for (before, expected) in [(head + 255, None), (head + 256, known), (head + 257, known)] {
        let message = messages(&play(&holed(Side::Request, &bytes, before, 10))).remove(0);
        assert_eq!((message.head_digest, message.digest_complete), (expected, false), "{before}");
    }
    let short = messages(&play(&[sent(&[publish(1, "", "q"), content(1, b"x")])])).remove(0);
    assert_eq!(short.head_digest, Some(short.body_digest));
}

#[test]
fn a_hole_in_a_body_is_walked_over_whatever_frames_it_swallows() {
    let body = big(300_000);
    let bytes = message(publish(1, "", "big"), &body, 131_064);
    let next = [publish(1, "", "next"), content(1, b"x")].concat();
    let head = publish(1, "", "big").len() + header(1, 0, 0, &[]).len();
    for (before, tail) in [
        (head, 0),
        (head + 3, 0),
        (head + 7, 1),
        (head + 100, 2),
        (head + 100, 200),
        (head + 131_071, 500),
        (head + 131_072, 500),
        (head + 131_075, 30_000),
        (head + 262_144, 8),
        (head + 262_150, 37_862),
    ] {
        let mut ops = holed(Side::Request, &bytes, before, tail);
        ops.push(Op::Data(Side::Request, next.clone()));
        let events = play(&ops);
        let lines = told(&events);
        let at = if tail == 0 { 2 } else { 3 };
        let expected = [
            "begin 0 @1-1".to_owned(),
            format!("end 0 @{at} [send big] 300000 bytes"),
            "begin 1 @4-4".to_owned(),
            "end 1 @4 [send next] 1 bytes".to_owned(),
        ];
        assert_eq!(lines, expected, "{before} before, {tail} behind");
        assert!(!messages(&events)[0].digest_complete);
    }
}

#[test]
fn a_hole_that_begins_in_a_body_and_hides_more_ends_the_message_there() {
    let bytes = message(publish(1, "", "big"), &big(5000), 131_064);
    let more = [publish(1, "", "hidden"), content(1, b"x")].concat();
    let next = [publish(1, "", "next"), content(1, b"x")].concat();
    let ops = [
        Op::Data(Side::Request, bytes[..1000].to_vec()),
        Op::Gap(Side::Request, (bytes.len() - 1000 + more.len()) as u64),
        Op::Data(Side::Request, next),
    ];
    let lost = format!("lost Gap {}", more.len());
    check(
        &ops,
        &[
            "begin 0 @1-1",
            "end 0 @2 [send big] 5000 bytes",
            &lost,
            "begin 1 @3-3",
            "end 1 @3 [send next] 1 bytes",
        ],
    );
}

#[test]
fn a_hole_in_the_arguments_of_a_method_costs_that_method() {
    let bytes =
        [publish(1, "games", "new"), content(1, b"x"), publish(1, "", "b"), content(1, b"y")].concat();
    let ops = [
        Op::Data(Side::Request, publish(1, "", "a")),
        Op::Data(Side::Request, content(1, b"")),
        Op::Data(Side::Request, bytes[..15].to_vec()),
        Op::Gap(Side::Request, 3),
        Op::Data(Side::Request, bytes[18..].to_vec()),
    ];
    let (method, header, body) =
        (publish(1, "games", "new").len(), header(1, 0, 0, &[]).len(), frame(3, 1, b"x").len());
    check(
        &ops,
        &[
            "begin 0 @1-1",
            "end 0 @2 [send a]",
            &format!("lost Gap {method}"),
            &format!("lost Resync {header}"),
            &format!("lost Resync {body}"),
            "begin 1 @5-5",
            "end 1 @5 [send b] 1 bytes",
        ],
    );
}

#[test]
fn a_hole_in_a_content_header_costs_properties_only() {
    let table = long(&[short("k"), vec![b'S'], long(&[b'v'; 500])].concat());
    let bytes = [publish(1, "", "q"), header(1, 1, 1 << 13, &[table]), frame(3, 1, b"x")].concat();
    let ops = holed(Side::Request, &bytes, 60, 100);
    check(&ops, &["begin 0 @1-1", "end 0 @3 [send q] 1 bytes"]);
}

#[test]
fn a_connection_seen_from_the_middle_of_a_frame_begins_with_the_next_method() {
    let bytes = [content(1, &[b'x'; 100]), publish(1, "", "q"), content(1, b"y")].concat();
    for cut in 1..bytes.len() - publish(1, "", "q").len() - content(1, b"y").len() {
        let lines = told(&play(&[Op::Data(Side::Request, bytes[cut..].to_vec())]));
        assert!(lines[0].starts_with("lost Resync"), "{cut}: {lines:?}");
        let last = &lines[lines.len() - 2..];
        assert_eq!(last, ["begin 0 @1-1", "end 0 @1 [send q] 1 bytes"], "{cut}");
    }
}

#[test]
fn the_thread_is_found_behind_a_hole_between_frames() {
    check(
        &[
            sent(&[publish(1, "", "a"), content(1, b"")]),
            Op::Gap(Side::Request, 50),
            sent(&[ack(1, 7, false), publish(1, "", "b"), content(1, b"")]),
        ],
        &["begin 0 @1-1", "end 0 @1 [send a]", "lost Gap 50", "begin 1 @3-3", "end 1 @3 [send b]"],
    );
}

#[test]
fn the_marks_of_a_frame_found_again_are_those_of_its_own_calls() {
    let bytes = publish(1, "", "b");
    let (head, tail) = bytes.split_at(9);
    let ops = [
        Op::Data(Side::Request, [b"junk\xce".to_vec(), head.to_vec()].concat()),
        Op::Data(Side::Request, [tail.to_vec(), content(1, b"")].concat()),
    ];
    check(&ops, &["lost Resync 5", "begin 0 @1-2", "end 0 @2 [send b]"]);
}

#[test]
fn nonsense_costs_what_is_open_and_no_more() {
    check(
        &[
            sent(&[select(1), publish(1, "", "a"), content(1, b"x")]),
            sent(&[vec![9; 20], publish(1, "", "b"), content(1, b"")]),
            sent(&[vec![0xce], publish(1, "", "c"), content(1, b"")]),
            got(&[ack(1, 1, false)]),
            got(&[ack(1, 5, false)]),
        ],
        &[
            "begin 0 @1-1",
            "begin 1 @1-1",
            "sent 1 @1",
            "lost Malformed 1",
            // The one behind the nonsense is passed over with it: no frame ends before it.
            &format!("lost Resync {}", 19 + publish(1, "", "b").len()),
            &format!("lost Resync {}", content(1, b"").len()),
            &format!("lost Malformed {}", 1),
            "begin 2 @3-3",
            "sent 2 @3",
            "reply 1 @4",
            "end 1 @4 [send a] #1 1 bytes Ack",
            "reply 2 @5",
            "end 2 @5 [send c] #5 Ack",
        ],
    );
}

#[test]
fn a_frame_without_its_end_is_no_frame() {
    let mut bad = frame(3, 1, b"abc");
    *bad.last_mut().unwrap() = 0;
    check(
        &[
            sent(&[publish(1, "", "a"), header(1, 3, 0, &[]), bad]),
            sent(&[frame(8, 0, b""), publish(1, "", "b")]),
        ],
        &[
            "begin 0 @1-1",
            "lost Malformed 10",
            "end 0 @1 [send a] 3 bytes Gap",
            "lost Resync 9",
            "begin 1 @2-2",
        ],
    );
}

#[test]
fn a_hole_in_the_answers_leaves_their_operations_unknown() {
    check(
        &[
            sent(&[method(1, 90, 20, &[])]),
            Op::Gap(Side::Response, 12),
            sent(&[method(1, 90, 20, &[])]),
            got(&[method(1, 90, 21, &[])]),
        ],
        &[
            "begin 0 @1-1",
            "lost Gap 12",
            "end 0 @2 [tx.commit] Gap",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [tx.commit]",
        ],
    );
}

#[test]
fn methods_of_the_other_side_and_unknown_ones_are_lost_alone() {
    let deliver = deliver(1, "c", 1, "", "q");
    let unknown = method(1, 77, 1, &[]);
    let (a, b) = (format!("lost Malformed {}", deliver.len()), format!("lost Malformed {}", unknown.len()));
    check(
        &[sent(&[select(1), deliver, unknown, publish(1, "", "a")])],
        &["begin 0 @1-1", &a, &b, "begin 1 @1-1"],
    );
}

#[test]
fn unsettled_deliveries_are_bounded() {
    let ops: Vec<Op> =
        (1..=65_540).map(|tag| got(&[deliver(1, "c", tag, "", "q"), content(1, b"")])).collect();
    let (mut amqp, mut out) = (Amqp::new(), Vec::new());
    for op in &ops {
        if let Op::Data(side, bytes) = op {
            amqp.data(*side, bytes, Mark::default(), &mut out);
        }
    }
    assert_eq!(amqp.held()[2], 65_536);
    let lost =
        out.iter().filter(|event| matches!(event, Event::Settle { outcome: Outcome::Lost, .. })).count();
    assert_eq!(lost, 4);
}

#[test]
fn a_hole_of_any_length_within_a_frame_is_counted() {
    let bytes = publish(1, "games", "new");
    let ops = [Op::Data(Side::Request, bytes[..9].to_vec()), Op::Gap(Side::Request, u64::MAX), Op::Close];
    let lost = play(&ops).into_iter().any(|event| matches!(event, Event::Lost { bytes: u64::MAX, .. }));
    assert!(lost, "as much as can be counted");
}
