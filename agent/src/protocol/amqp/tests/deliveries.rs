//! Deliveries and how they are settled.

use super::*;

/// A consumer `c` of the queue `jobs`, and deliveries with the tags 1 to n.
fn consumed(bits: u8, count: u64) -> Vec<Op> {
    let mut ops = vec![sent(&[consume(1, "jobs", "c", bits)]), got(&[consume_ok(1, "c")])];
    ops.extend((1..=count).map(|tag| got(&[deliver(1, "c", tag, "", "jobs"), content(1, b"x")])));
    ops
}

fn settled(ops: &[Op]) -> Vec<String> {
    let lines = told(&play(ops));
    assert_eq!(told(&play_cut(ops, &mut || 1)), lines, "byte by byte");
    lines.into_iter().filter(|line| line.starts_with("settle")).collect()
}

#[test]
fn a_delivery_begins_with_its_method_and_ends_with_its_body() {
    check(
        &[got(&[deliver(1, "c", 1, "games", "new")]), got(&[content(1, b"hello")]), Op::Close],
        &["delivery 0 @1-2 [process games:new] #1 5 bytes", "settle 0 @3 Cut { code: None }"],
    );
}

#[test]
fn a_client_that_leaves_cuts_nothing_short() {
    let mut ops = consumed(0, 1);
    ops.extend([sent(&[close(10, 200, "bye")]), Op::Close]);
    assert_eq!(settled(&ops), ["settle 0 @5 Lost"]);
}

#[test]
fn the_queue_is_the_consumers() {
    let events = play(&consumed(0, 1));
    let delivery = messages(&events).pop().unwrap();
    assert_eq!(delivery.queue.as_deref(), Some("jobs"));
    assert_eq!((delivery.no_ack, delivery.kind), (Some(false), Kind::Delivery));
}

#[test]
fn every_way_to_settle_is_told_apart() {
    let mut ops = consumed(0, 5);
    ops.push(sent(&[ack(1, 2, false), nack(1, 1, 2), reject(1, 3, true)]));
    ops.push(sent(&[reject(1, 4, false), nack(1, 5, 0)]));
    assert_eq!(
        settled(&ops),
        [
            "settle 1 @8 Ack",
            "settle 0 @8 Nack { requeue: true }",
            "settle 2 @8 Reject { requeue: true }",
            "settle 3 @9 Reject { requeue: false }",
            "settle 4 @9 Nack { requeue: false }",
        ]
    );
}

#[test]
fn one_answer_may_settle_many() {
    let mut ops = consumed(0, 4);
    ops.push(sent(&[ack(1, 2, true)]));
    ops.push(sent(&[nack(1, 0, 1)]));
    assert_eq!(
        settled(&ops),
        [
            "settle 0 @7 Ack",
            "settle 1 @7 Ack",
            "settle 2 @8 Nack { requeue: false }",
            "settle 3 @8 Nack { requeue: false }",
        ]
    );
}

#[test]
fn recovery_requeues_all_that_is_unsettled() {
    let mut ops = consumed(0, 2);
    ops.push(sent(&[ack(1, 1, false), method(1, 60, 110, &[vec![1]])]));
    assert_eq!(settled(&ops), ["settle 0 @5 Ack", "settle 1 @5 Nack { requeue: true }"]);
}

#[test]
fn a_consumer_without_acknowledgements_settles_at_once() {
    assert_eq!(settled(&consumed(2, 2)), ["settle 0 @3 Auto", "settle 1 @4 Auto"]);
}

#[test]
fn the_end_of_a_channel_loses_what_is_unsettled() {
    let mut ops = consumed(0, 2);
    ops.push(sent(&[close(20, 200, "")]));
    ops.push(sent(&[ack(1, 1, false)]));
    ops.push(got(&[close_ok(20)]));
    assert_eq!(settled(&ops), ["settle 0 @6 Ack", "settle 1 @7 Lost"]);
}

#[test]
fn a_channel_that_counts_from_the_beginning_again_was_opened_anew() {
    let mut ops = consumed(0, 2);
    ops.push(got(&[deliver(1, "c", 1, "", "jobs"), content(1, b"")]));
    ops.push(sent(&[ack(1, 1, false)]));
    assert_eq!(settled(&ops), ["settle 0 @5 Lost", "settle 1 @5 Lost", "settle 2 @6 Ack"]);
}

#[test]
fn answers_to_deliveries_that_were_not_seen_are_passed_over() {
    check(&[sent(&[ack(1, 17, true), nack(1, 18, 0), reject(2, 3, true)])], &[]);
}

#[test]
fn names_given_by_the_broker_are_remembered() {
    let declare = method(1, 50, 10, &[vec![0, 0], short(""), vec![0b100], long(b"")]);
    let declared = method(1, 50, 11, &[short("amq.gen-x"), vec![0; 8]]);
    let events = play(&[
        sent(&[declare]),
        got(&[declared]),
        sent(&[consume(1, "", "", 0)]),
        got(&[consume_ok(1, "amq.ctag-1")]),
        got(&[deliver(1, "amq.ctag-1", 1, "games", "new"), content(1, b"")]),
    ]);
    let delivery = messages(&events).pop().unwrap();
    assert_eq!(delivery.queue.as_deref(), Some("amq.gen-x"));
    assert!(delivery.temporary);
}

#[test]
fn a_consumer_that_was_cancelled_is_forgotten() {
    let by_client =
        [sent(&[method(1, 60, 30, &[short("c"), vec![0]])]), got(&[method(1, 60, 31, &[short("c")])])];
    let by_broker = [got(&[method(1, 60, 30, &[short("c"), vec![1]])])];
    for cancel in [by_client.to_vec(), by_broker.to_vec()] {
        let mut ops = consumed(0, 0);
        ops.extend(cancel);
        ops.push(got(&[deliver(1, "c", 1, "", "jobs"), content(1, b"")]));
        assert_eq!(messages(&play(&ops)).pop().unwrap().queue, None);
    }
}

#[test]
fn the_headers_tell_where_a_message_comes_from() {
    let text = |key: &str, value: &str| [short(key), vec![b'S'], long(value.as_bytes())].concat();
    let number = |key: &str, value: u64| [short(key), vec![b'l'], value.to_be_bytes().to_vec()].concat();
    let death = |count, queue: &str| {
        let table = [
            number("count", count),
            text("reason", "rejected"),
            text("queue", queue),
            [short("time"), vec![b'T'], vec![0; 8]].concat(),
            text("exchange", "games"),
            [short("routing-keys"), vec![b'A'], long(&[&b"S"[..], &long(b"k")].concat())].concat(),
        ];
        [vec![b'F'], long(&table.concat())].concat()
    };
    let others: Vec<u8> = [
        (&b"t"[..], 1),
        (b"b", 1),
        (b"B", 1),
        (b"s", 2),
        (b"u", 2),
        (b"U", 2),
        (b"I", 4),
        (b"i", 4),
        (b"L", 8),
        (b"f", 4),
        (b"d", 8),
        (b"D", 5),
        (b"T", 8),
        (b"V", 0),
    ]
    .iter()
    .flat_map(|(kind, size)| [short("k"), kind.to_vec(), vec![7; *size]].concat())
    .collect();
    let headers = [
        others,
        text("traceparent", "00-1-2-01"),
        text("tracestate", "a=b"),
        text("task", "shop.add"),
        text("id", "t-1"),
        text("root_id", "t-0"),
        [short("parent_id"), vec![b'V']].concat(),
        [short("x-death"), vec![b'A'], long(&[death(3, "jobs"), death(1, "other")].concat())].concat(),
        text("x-first-death-queue", "first"),
        text("secret", "never kept"),
    ];
    let properties = [long(&headers.concat()), short("m-1")];
    let flags = (1 << 13) | (1 << 7);
    let events = play(&[got(&[deliver(1, "c", 1, "", "q"), header(1, 0, flags, &properties)])]);
    let message = messages(&events).pop().unwrap();
    assert_eq!(message.message_id.as_deref(), Some("m-1"), "behind the headers");
    let incoming = message.incoming.as_deref().unwrap();
    assert_eq!((incoming.traceparent.as_str(), incoming.tracestate.as_str()), ("00-1-2-01", "a=b"));
    let task = Task {
        name: "shop.add".to_owned(),
        id: "t-1".to_owned(),
        root_id: Some("t-0".to_owned()),
        parent_id: None,
    };
    assert_eq!(message.task.as_deref(), Some(&task));
    let death = Death {
        entries: 2,
        count: 4,
        queue: "jobs".to_owned(),
        exchange: "games".to_owned(),
        reason: "rejected".to_owned(),
        first_queue: Some("first".to_owned()),
        ..Death::default()
    };
    assert_eq!(message.death.as_deref(), Some(&death));
    assert!(!format!("{message:?}").contains("never kept"));
}

#[test]
fn both_ends_of_a_message_have_the_same_digests_though_the_broker_adds_to_it() {
    let reply = |name: &str| short(name);
    let flags = (1 << 9) | (1 << 7);
    let death = [short("x-death"), vec![b'A'], long(b"")].concat();
    let out = [header(1, 0, flags, &[reply("amq.rabbitmq.reply-to"), short("m")])];
    let back = [long(&death), reply("amq.rabbitmq.reply-to.g1h2AA"), short("m")];
    let published = play(&[sent(&[publish(1, "", "q")]), sent(&out)]);
    let delivered = play(&[got(&[deliver(1, "c", 1, "", "q"), header(1, 0, flags | (1 << 13), &back)])]);
    let (published, delivered) = (&messages(&published)[0], &messages(&delivered)[0]);
    assert_eq!(published.properties_digest, delivered.properties_digest);
    assert_eq!(published.body_digest, delivered.body_digest);
    let other = play(&[sent(&[publish(1, "", "q"), header(1, 0, flags, &[reply("m"), short("m")])])]);
    assert_ne!(messages(&other)[0].properties_digest, published.properties_digest);
}
