//! Gaps, late attachment and nonsense.

use super::*;

#[test]
fn a_gap_within_an_argument_is_counted_through() {
    let before = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\naaaa".to_vec();
    check(
        &[Op::Holed(Side::Request, before, 99_990, b"aaaaaa\r\n".to_vec()), got("+OK\r\n")],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @2 [SET] SET ? ?"],
    );
}

#[test]
fn a_gap_that_takes_the_end_of_an_argument_along_completes_it() {
    let before = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n".to_vec();
    check(
        &[
            Op::Holed(Side::Request, before, 12, command("GET k")),
            Op::Holed(Side::Response, b"+OK\r\n$8\r\nab".to_vec(), 8, Vec::new()),
        ],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @2 [PIPELINE] x2 SET ? ?; GET ?"],
    );
}

#[test]
fn a_payload_with_a_gap_has_no_digest() {
    let before = b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$10\r\na".to_vec();
    let events = play(&[Op::Holed(Side::Request, before, 4, b"bbbbb\r\n".to_vec()), got(":0\r\n")]);
    let payload = batches(&events)[0].commands[0].payloads[0];
    assert_eq!((payload.length, payload.digest), (10, None));
}

#[test]
fn a_gap_elsewhere_in_the_replies_ends_what_is_open_and_the_next_command_is_paired_again() {
    check(
        &[
            sent(command("LRANGE l 0 -1")),
            Op::Holed(Side::Response, b"*9\r\n$1\r\na\r\n".to_vec(), 50, b"\r\n$1\r\nz\r\n".to_vec()),
            got("$2\r\nzz\r\n"),
            sent(command("GET a")),
            got("$1\r\nv\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [LRANGE] LRANGE ? ? ? | Gap",
            "lost Gap 61",
            "lost Resync 17",
            "begin 1 @4-4",
            "reply 1 @5",
            "end 1 @5 [GET] GET ?",
        ],
    );
}

#[test]
fn a_gap_elsewhere_in_the_requests_ends_what_is_open_and_the_next_command_is_found() {
    check(
        &[
            Op::Holed(Side::Request, command("GET a"), 50, b"zz\r\n".to_vec()),
            got("$1\r\nv\r\n:1\r\n"),
            sent(command("GET b")),
            got("$1\r\nw\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "end 0 @1 [GET] GET ? | Gap",
            "lost Gap 50",
            "lost Resync 4",
            "lost Resync 11",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [GET] GET ?",
        ],
    );
}

#[test]
fn what_comes_before_the_first_command_is_ignored() {
    check(
        &[
            got("lf a reply\r\n$3\r\nabc\r\n"),
            sent("of a value\r\n"),
            sent(command("GET a")),
            got("$1\r\nv\r\n"),
            Op::Close,
        ],
        &["lost Resync 12", "lost Resync 21", "begin 0 @3-3", "reply 0 @4", "end 0 @4 [GET] GET ?"],
    );
}

#[test]
fn a_subscriber_is_understood_without_its_subscription() {
    for message in
        [">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n", "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n"]
    {
        check(
            &[got("of something\r\n"), got(message), got(message)],
            &["lost Resync 14", "push @2 message \"c\" Some(1)", "push @3 message \"c\" Some(1)"],
        );
    }
}

#[test]
fn an_unasked_reply_is_passed_over() {
    check(
        &[
            sent(command("GET a")),
            got("$1\r\nv\r\n+OK\r\n+OK\r\n"),
            sent(command("GET b")),
            got("$1\r\nw\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [GET] GET ?",
            "lost Resync 10",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [GET] GET ?",
        ],
    );
}

#[test]
fn nonsense_is_counted_and_left_behind() {
    check(
        &[
            sent(command("GET a")),
            got("HTTP/1.1 200 OK\r\n"),
            sent(command("GET b")),
            got("$1\r\nw\r\n"),
            sent("*1\r\n?what\r\n"),
            sent(command("GET c")),
            got("$1\r\nw\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "end 0 @2 [GET] GET ? | Gap",
            "lost Malformed 1",
            "lost Resync 16",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [GET] GET ?",
            "lost Malformed 5",
            "lost Resync 6",
            "begin 2 @6-6",
            "reply 2 @7",
            "end 2 @7 [GET] GET ?",
        ],
    );
}

#[test]
fn what_is_answered_ends_before_a_loss_however_the_bytes_are_cut() {
    // The answered command shares its call with the beginning of a next one, so it is held until that is known.
    check(
        &[sent("PING\r\n*-1\r"), got("+PONG\r\n"), sent("\n-1\r\n")],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @2 [PING] PING", "lost Malformed 1"],
    );
    check(
        &[sent("PING\r\n*-1\r"), got("+PONG\r\n"), sent("\nPING\r\n")],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @2 [PING] PING", "begin 1 @3-3"],
    );
}

#[test]
fn a_reply_that_is_too_deep_is_given_up() {
    let deep = "*1\r\n".repeat(33);
    check(
        &[sent(command("EVAL x 0")), got(format!("{deep}:1\r\n")), sent(command("PING")), got("+PONG\r\n")],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [EVAL] EVAL ? ? | Gap",
            "lost TooLarge 132",
            "lost Resync 4",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [PING] PING",
        ],
    );
    let bearable = format!("{}:1\r\n", "*1\r\n".repeat(32));
    assert_eq!(play(&[sent(command("EVAL x 0")), got(bearable)]).len(), 3);
}

#[test]
fn lengths_that_nobody_can_mean_are_nonsense() {
    for request in
        ["*99999999999\r\n", "*2147483648\r\n", "*1\r\n$99999999999\r\n", "*1\r\n$-1\r\n", "*1\r\n$0\r\n"]
    {
        let events = play(&[sent(command("PING")), got("+PONG\r\n"), sent(request)]);
        assert!(told(&events).iter().any(|line| line.starts_with("lost Malformed")), "{request:?}");
    }
    for reply in [
        "*99999999999\r\n",
        "$-2\r\n",
        "$\r\n",
        ":\r\n",
        ":1a\r\n",
        "#x\r\n",
        "%-1\r\n",
        "+a\nb\r\n",
        ";1\r\n",
    ] {
        let events = play(&[sent(command("PING")), got(reply)]);
        assert!(told(&events).iter().any(|line| line.starts_with("lost Malformed")), "{reply:?}");
    }
}

#[test]
fn a_server_that_never_answers_does_not_fill_the_memory() {
    let mut ops: Vec<Op> = (0..3000).map(|_| sent(command("GET a"))).collect();
    ops.push(Op::Close);
    let events = play(&ops);
    assert_eq!(batches(&events).len() as u64, 2998);
    assert_eq!(told(&events).iter().filter(|line| line.starts_with("lost TooLarge")).count(), 2);
}

#[test]
fn large_batches_keep_a_bounded_part() {
    let line = format!("MSET {}", vec!["x".repeat(500); 100].join(" "));
    let lines: Vec<&str> = vec![line.as_str(); 200];
    let events = play(&[sent(commands(&lines)), got("+OK\r\n".repeat(200))]);
    let batch = &batches(&events)[0];
    assert_eq!((batch.count, batch.commands.len()), (200, 64));
    let kept: usize = batch
        .commands
        .iter()
        .flat_map(super::super::Command::arguments)
        .map(|argument| match argument {
            crate::protocol::redis::Argument::Bytes { head, .. } => head.len(),
            crate::protocol::redis::Argument::Hidden => 0,
        })
        .sum();
    assert!(kept <= 16 << 10, "{kept}");
    assert_eq!(batch.commands[0].argument_count, 100);
}
