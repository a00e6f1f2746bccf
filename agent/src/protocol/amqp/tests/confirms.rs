//! Publishes and their confirms.

use super::*;

/// A channel with confirms, and publishes with these routing keys.
fn confirmed(keys: &[&str]) -> Vec<Op> {
    let mut ops = vec![sent(&[select(1)]), got(&[select_ok(1)])];
    ops.extend(keys.iter().map(|key| sent(&[publish_mandatory(1, "x", key), content(1, b"b")])));
    ops
}

/// What is told after the channel's own operation.
fn after_select(ops: &[Op]) -> Vec<String> {
    let lines = told(&play(ops));
    assert_eq!(told(&play_cut(ops, &mut || 1)), lines, "byte by byte");
    assert!(lines[2].contains("confirm.select"));
    let is_way = |line: &&String| line.starts_with("begin") || line.starts_with("sent");
    lines[3..].iter().filter(|line| !is_way(line)).cloned().collect()
}

#[test]
fn confirms_end_publishes_by_their_number() {
    let mut ops = confirmed(&["a", "b", "c"]);
    ops.push(got(&[ack(1, 2, false)]));
    ops.push(got(&[nack(1, 1, 0)]));
    ops.push(Op::Close);
    assert_eq!(
        after_select(&ops),
        [
            "reply 2 @6",
            "end 2 @6 [send x:b] #2 1 bytes mandatory Ack",
            "reply 1 @7",
            "end 1 @7 [send x:a] #1 1 bytes mandatory Nack",
            "end 3 @8 [send x:c] #3 1 bytes mandatory Cut",
        ]
    );
}

#[test]
fn one_confirm_may_mean_many() {
    for (tag, ended) in [(2, 2), (3, 3), (0, 3), (99, 3)] {
        let mut ops = confirmed(&["a", "b", "c"]);
        ops.push(got(&[ack(1, tag, true)]));
        let lines = after_select(&ops);
        assert_eq!(lines.len(), 2 * ended, "{lines:?}");
        assert!(lines.iter().filter(|line| line.starts_with("end")).all(|line| line.ends_with("Ack")));
    }
}

#[test]
fn channels_count_for_themselves() {
    let ops = [
        sent(&[select(1), select(2)]),
        sent(&[publish(1, "", "a"), content(1, b""), publish(2, "", "b"), content(2, b"")]),
        got(&[ack(2, 1, false)]),
        got(&[ack(1, 1, false)]),
    ];
    let ended: Vec<_> = told(&play(&ops)).into_iter().filter(|line| line.starts_with("end")).collect();
    assert_eq!(ended, ["end 3 @3 [send b] channel=2 #1 Ack", "end 2 @4 [send a] #1 Ack"]);
}

#[test]
fn what_comes_back_is_told_of_the_publish_it_was() {
    let returned =
        method(1, 60, 50, &[312u16.to_be_bytes().to_vec(), short("NO_ROUTE"), short("x"), short("b")]);
    let mut ops = confirmed(&["a", "b", "b"]);
    ops.push(got(&[returned, content(1, b"b"), ack(1, 3, true)]));
    let lines = after_select(&ops);
    assert_eq!(lines[1], "end 1 @6 [send x:a] #1 1 bytes mandatory Ack");
    assert_eq!(lines[3], "end 2 @6 [send x:b] #2 1 bytes mandatory Ack returned=312");
    assert_eq!(lines[5], "end 3 @6 [send x:b] #3 1 bytes mandatory Ack");
}

#[test]
fn confirms_on_a_channel_seen_late_fix_the_numbering() {
    let one = |key: &str| [publish(1, "", key), content(1, b"")].concat();
    check(
        &[
            sent(&[one("a")]),
            got(&[ack(1, 41, false)]),
            sent(&[one("b")]),
            sent(&[one("c")]),
            got(&[ack(1, 43, true)]),
            Op::Close,
        ],
        &[
            "begin 0 @1-1",
            "end 0 @1 [send a]",
            "begin 1 @3-3",
            "sent 1 @3",
            "begin 2 @4-4",
            "sent 2 @4",
            "reply 1 @5",
            "end 1 @5 [send b] #42 Ack",
            "reply 2 @5",
            "end 2 @5 [send c] #43 Ack",
        ],
    );
}

#[test]
fn publishes_hidden_by_a_hole_are_counted_when_a_confirm_proves_them() {
    let mut ops = confirmed(&["a"]);
    ops.push(Op::Gap(Side::Request, 100));
    ops.push(sent(&[publish(1, "x", "d"), content(1, b"")]));
    ops.push(got(&[ack(1, 1, false)]));
    ops.push(got(&[ack(1, 4, false)]));
    assert_eq!(
        after_select(&ops),
        [
            "lost Gap 100",
            "reply 1 @6",
            "end 1 @6 [send x:a] #1 1 bytes mandatory Ack",
            "reply 2 @7",
            "end 2 @7 [send x:d] #4 Ack",
        ]
    );
}

#[test]
fn publishes_of_uncertain_number_end_unconfirmed() {
    let mut ops = confirmed(&["a"]);
    ops.push(Op::Gap(Side::Request, 100));
    ops.push(sent(&[publish(1, "x", "d"), content(1, b"")]));
    ops.push(sent(&[close(20, 200, "")]));
    ops.push(got(&[close_ok(20)]));
    let lines = after_select(&ops);
    assert_eq!(lines[1..3], ["reply 3 @7", "end 3 @7 [channel.close]"]);
    assert_eq!(lines[3], "end 1 @7 [send x:a] #1 1 bytes mandatory Cut");
    assert_eq!(lines[4], "end 2 @7 [send x:d] Unconfirmed");
}

#[test]
fn an_unconfirmed_publish_is_given_up_after_many_newer_ones() {
    let mut ops = confirmed(&["a"]);
    ops.push(Op::Gap(Side::Response, 100));
    ops.extend((0..5000).map(|_| sent(&[publish(1, "", "q"), content(1, b"")])));
    let ended: Vec<_> = told(&play(&ops)).into_iter().filter(|line| line.starts_with("end")).collect();
    assert_eq!(ended[1], "end 1 @4100 [send x:a] #1 1 bytes mandatory Unconfirmed");
    assert_eq!(ended.len(), 2, "no confirm of the others can have been missed");
}

#[test]
fn a_publish_that_waits_for_its_confirm_is_told_when_it_has_left() {
    let ops =
        [sent(&[select(1), publish(1, "x", "k")]), sent(&[content(1, b"body")]), got(&[ack(1, 1, false)])];
    let events = play(&ops);
    let Some(Event::Sent { exchange: 1, at, message }) =
        events.iter().find(|event| matches!(event, Event::Sent { .. }))
    else {
        panic!("{events:?}")
    };
    assert_eq!((at.time, message.body_size, message.answer), (2, 4, None));
    assert_eq!(messages(&events)[0].body_digest, message.body_digest, "the same at the end");
}
