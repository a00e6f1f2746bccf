//! What the parser makes of streams, written by hand, recorded and random.

mod detection;
mod golden;
mod hostile;
mod properties;
mod spans;

use std::fmt::Write as _;

use super::{Batch, Kind, Popped, Redis, describe};
use crate::{
    protocol::{Detail, Event, Mark, Parser, Side},
    signal::{Attribute, Endpoints, Role, TextMode, Value},
};

/// What happens on a connection.
#[derive(Clone, Debug)]
enum Op {
    /// A call of the client's that sends.
    Request(Vec<u8>),
    /// A call of the client's that receives.
    Response(Vec<u8>),
    /// A call of which the capture lacks bytes in the middle: side, before, missing, after.
    Holed(Side, Vec<u8>, u64, Vec<u8>),
    /// The end.
    Close,
}

fn sent(bytes: impl AsRef<[u8]>) -> Op {
    Op::Request(bytes.as_ref().to_vec())
}

fn got(bytes: impl AsRef<[u8]>) -> Op {
    Op::Response(bytes.as_ref().to_vec())
}

/// A command as clients send it.
fn command(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

fn commands(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| command(line)).collect()
}

/// The n-th call, counted from 1, has the time n.
fn mark(call: usize) -> Mark {
    Mark { time: call as u64, pid: 7, tid: 8, context: 9, stack: 0 }
}

fn play(ops: &[Op]) -> Vec<Event> {
    play_cut(ops, &mut || usize::MAX)
}

/// Plays the calls on a connection of which this much is known.
fn play_on(redis: Redis, ops: &[Op]) -> Vec<Event> {
    play_cut_on(redis, ops, &mut || usize::MAX)
}

/// Plays the calls in pieces of the sizes that `next` gives.
fn play_cut(ops: &[Op], next: &mut impl FnMut() -> usize) -> Vec<Event> {
    play_cut_on(Redis::new(false), ops, next)
}

fn play_cut_on(mut redis: Redis, ops: &[Op], next: &mut impl FnMut() -> usize) -> Vec<Event> {
    let mut out = Vec::new();
    for (call, op) in ops.iter().enumerate() {
        let mark = mark(call + 1);
        let mut feed = |redis: &mut Redis, side, mut bytes: &[u8], out: &mut Vec<Event>| {
            while !bytes.is_empty() {
                let (piece, rest) = bytes.split_at(next().clamp(1, bytes.len()));
                redis.data(side, piece, mark, out);
                bytes = rest;
            }
        };
        match op {
            Op::Request(bytes) => feed(&mut redis, Side::Request, bytes, &mut out),
            Op::Response(bytes) => feed(&mut redis, Side::Response, bytes, &mut out),
            Op::Holed(side, before, missing, after) => {
                feed(&mut redis, *side, before, &mut out);
                redis.gap(*side, *missing, mark, &mut out);
                feed(&mut redis, *side, after, &mut out);
            }
            Op::Close => redis.close(mark, &mut out),
        }
        let (open, runs) = redis.held();
        assert!(open <= 1024 && runs <= 4096, "held {open} batches, {runs} runs");
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
            Event::End { exchange, at, detail: Detail::Redis(batch) } => {
                format!("end {exchange} @{} {}", at.time, told_batch(batch))
            }
            Event::Push { at, detail: Detail::Redis(batch) } => match &batch.kind {
                Kind::Push { kind, channel, payload } => {
                    format!(
                        "push @{} {kind} {channel:?} {:?}",
                        at.time,
                        payload.map(|payload| payload.length)
                    )
                }
                kind => panic!("a push of kind {kind:?}"),
            },
            Event::Lost { reason, bytes } => format!("lost {reason:?} {bytes}"),
            other => panic!("not an event of Redis: {other:?}"),
        })
        .collect()
}

fn told_batch(batch: &Batch) -> String {
    let description = describe(batch, Role::Client, &Endpoints::default(), TextMode::Sanitized);
    let mut line = format!("[{}]", description.name);
    if batch.count > 1 {
        let _ = write!(line, " x{}", batch.count);
    }
    if let Some(Value::Str(text)) = value(&description.attributes, "db.query.text") {
        let _ = write!(line, " {text}");
    }
    if let Some(database) = batch.database {
        let _ = write!(line, " | db {database}");
    }
    if let Some(error) = &batch.error {
        let _ = write!(line, " | {}", error.prefix);
    }
    if batch.ended != super::Ended::Complete {
        let _ = write!(line, " | {:?}", batch.ended);
    }
    line
}

fn value<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key).map(|attribute| &attribute.value)
}

/// The batches that ended.
fn batches(events: &[Event]) -> Vec<Batch> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::End { detail: Detail::Redis(batch), .. } => Some((**batch).clone()),
            _ => None,
        })
        .collect()
}

#[track_caller]
fn check(ops: &[Op], expected: &[&str]) {
    assert_eq!(told(&play(ops)), expected);
    assert_eq!(told(&play_cut(ops, &mut || 1)), expected, "byte by byte");
}

#[test]
fn a_command_and_its_reply_are_an_exchange() {
    check(
        &[sent(command("GET k")), got("$1\r\nv\r\n")],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @2 [GET] GET ?"],
    );
}

#[test]
fn null_zero_and_what_is_empty_is_nothing() {
    let nothing = |reply: &str| {
        let events = play(&[sent(command("GET a")), got(reply)]);
        batches(&events).iter().map(|batch| batch.nothing).collect::<Vec<_>>()
    };
    for reply in ["$-1\r\n", "*-1\r\n", "_\r\n", "*0\r\n", "%0\r\n", ":0\r\n"] {
        assert_eq!(nothing(reply), [true], "{reply:?}");
    }
    for reply in
        ["$1\r\na\r\n", "$0\r\n\r\n", "*1\r\n$-1\r\n", ":1\r\n", ":-10\r\n", "+OK\r\n", "*1\r\n*0\r\n"]
    {
        assert_eq!(nothing(reply), [false], "{reply:?}");
    }
    let both = [sent(commands(&["GET a", "GET b"])), got("$-1\r\n$1\r\nb\r\n")];
    assert!(!batches(&play(&both))[0].nothing, "one of them was there");
}

#[test]
fn a_command_sent_in_several_calls_begins_with_the_first_of_them() {
    check(
        &[sent("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\n"), sent("hello"), sent("\r\n"), got("+OK"), got("\r\n")],
        &["begin 0 @1-3", "reply 0 @4", "end 0 @5 [SET] SET ? ?"],
    );
}

#[test]
fn commands_of_one_call_are_a_pipeline() {
    check(
        &[sent(commands(&["SET a 1", "GET a"])), got("+OK\r\n"), got("$1\r\n1\r\n")],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @3 [PIPELINE] x2 SET ? ?; GET ?"],
    );
}

#[test]
fn commands_of_two_calls_are_two_exchanges() {
    check(
        &[sent(command("GET a")), sent(command("GET b")), got("$1\r\n1\r\n$-1\r\n")],
        &[
            "begin 0 @1-1",
            "begin 1 @2-2",
            "reply 0 @3",
            "end 0 @3 [GET] GET ?",
            "reply 1 @3",
            "end 1 @3 [GET] GET ?",
        ],
    );
}

#[test]
fn a_pipeline_goes_on_where_a_call_ended_within_a_command() {
    let bytes = commands(&["GET a", "GET b", "GET c"]);
    let (one, two) = bytes.split_at(25);
    check(
        &[sent(one), got("$1\r\n1\r\n"), sent(two), got("_\r\n_\r\n")],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @4 [PIPELINE GET] x3 GET ?"],
    );
}

#[test]
fn the_end_waits_for_a_command_that_has_begun_in_the_same_call() {
    let bytes = commands(&["GET a", "GET b"]);
    let (one, two) = bytes.split_at(30);
    check(
        &[sent(one), got("$1\r\n1\r\n"), sent(two), got("_\r\n"), sent(command("PING"))],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @4 [PIPELINE GET] x2 GET ?", "begin 1 @5-5"],
    );
}

#[test]
fn a_transaction_in_one_call_is_one_batch_and_its_inner_errors_count() {
    let ops = [
        sent(commands(&["MULTI", "SET a 1", "INCR l", "EXEC"])),
        got("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n-WRONGTYPE Operation against a secret\r\n"),
    ];
    check(&ops, &["begin 0 @1-1", "reply 0 @2", "end 0 @2 [MULTI] x4 SET ? ?; INCR ? | WRONGTYPE"]);
    let batch = &batches(&play(&ops))[0];
    assert!(batch.transaction);
    assert_eq!((batch.count, batch.brackets, batch.operations()), (4, 2, 2));
    assert!(!format!("{batch:?}").contains("secret"));
}

#[test]
fn a_transaction_sent_one_by_one_is_single_commands() {
    check(
        &[
            sent(command("MULTI")),
            got("+OK\r\n"),
            sent(command("GET a")),
            got("+QUEUED\r\n"),
            sent(command("EXEC")),
            got("*1\r\n-ERR x\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [MULTI] MULTI",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [GET] GET ?",
            "begin 2 @5-5",
            "reply 2 @6",
            "end 2 @6 [EXEC] EXEC | ERR",
        ],
    );
}

#[test]
fn select_changes_the_database_when_it_is_answered_ok() {
    let select = |reply: &str| {
        let events = play(&[sent(command("SELECT 5")), got(reply), sent(command("PING")), got("+PONG\r\n")]);
        batches(&events).iter().map(|batch| batch.database).collect::<Vec<_>>()
    };
    assert_eq!(select("+OK\r\n"), [Some(5), Some(5)]);
    assert_eq!(select("-ERR DB index is out of range\r\n"), [None, None]);
}

#[test]
fn a_queued_select_counts_when_the_transaction_is_executed() {
    let run = |exec: &str| {
        let lines = commands(&["MULTI", "SELECT 5", "EXEC"]);
        let events = play(&[sent(lines), got(format!("+OK\r\n+QUEUED\r\n{exec}"))]);
        batches(&events)[0].database
    };
    assert_eq!(run("*1\r\n+OK\r\n"), Some(5));
    assert_eq!(run("*-1\r\n"), None);
    assert_eq!(run("-EXECABORT Transaction discarded\r\n"), None);
}

#[test]
fn all_types_of_values_are_walked_over() {
    let values = [
        "+OK\r\n",
        "-ERR no\r\n",
        ":-42\r\n",
        "$0\r\n\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "_\r\n",
        "#t\r\n",
        "#f\r\n",
        ",3.14\r\n",
        ",-inf\r\n",
        ",nan\r\n",
        "(-349285928374592834752983475\r\n",
        "!5\r\nERR a\r\n",
        "=7\r\ntxt:abc\r\n",
        "%0\r\n",
        "~0\r\n",
        "%1\r\n+a\r\n:1\r\n",
        "~2\r\n:1\r\n#t\r\n",
        "*2\r\n*1\r\n*0\r\n%1\r\n$1\r\na\r\n*2\r\n_\r\n:1\r\n",
        "$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n",
        "$?\r\n;0\r\n",
        "*?\r\n:1\r\n*?\r\n.\r\n.\r\n",
        "%?\r\n+a\r\n:1\r\n.\r\n",
        "|1\r\n+ttl\r\n:36\r\n$1\r\na\r\n",
        "*2\r\n|1\r\n+ttl\r\n*2\r\n:1\r\n:2\r\n:1\r\n:2\r\n",
        "|0\r\n:1\r\n",
        "|1\r\n+a\r\n|1\r\n+b\r\n:1\r\n:2\r\n:3\r\n",
    ];
    for value in values {
        let ops = [sent(commands(&["GET a", "GET b"])), got(format!("{value}:1\r\n")), Op::Close];
        let events = play(&ops);
        assert_eq!(events.len(), 3, "{value:?}: {:?}", told(&events));
        assert_eq!(events, play_cut(&ops, &mut || 1), "{value:?}");
        let failed = value.starts_with(['-', '!']);
        assert_eq!(batches(&events)[0].error.is_some(), failed, "{value:?}");
    }
}

#[test]
fn pushes_of_resp3_answer_nothing() {
    check(
        &[
            sent(command("GET a")),
            got(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n$1\r\n"),
            got("v\r\n"),
            got(">2\r\n+x\r\n_\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "push @2 invalidate \"\" None",
            "reply 0 @2",
            "end 0 @3 [GET] GET ?",
            "push @4 x \"\" None",
        ],
    );
}

#[test]
fn an_unsubscribe_of_everything_waits_for_the_last_confirmation() {
    check(
        &[
            sent(command("SUBSCRIBE a b")),
            got("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"),
            sent(command("UNSUBSCRIBE")),
            got("*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n"),
            got("*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$2\r\nhi\r\n"),
            got("*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n"),
            sent(command("KEYS *")),
            got("*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$2\r\nhi\r\n"),
            sent(command("UNSUBSCRIBE")),
            got("*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [SUBSCRIBE] SUBSCRIBE ? ?",
            "begin 1 @3-3",
            "reply 1 @4",
            "push @5 message \"b\" Some(2)",
            "end 1 @6 [UNSUBSCRIBE] UNSUBSCRIBE",
            "begin 2 @7-7",
            "reply 2 @8",
            "end 2 @8 [KEYS] KEYS ?",
            "begin 3 @9-9",
            "reply 3 @10",
            "end 3 @10 [UNSUBSCRIBE] UNSUBSCRIBE",
        ],
    );
}

#[test]
fn a_refused_subscription_is_answered_once() {
    check(
        &[sent(command("SUBSCRIBE a b")), got("-NOPERM no\r\n"), sent(command("PING")), got("+PONG\r\n")],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [SUBSCRIBE] SUBSCRIBE ? ? | NOPERM",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [PING] PING",
        ],
    );
}

#[test]
fn a_published_payload_has_the_same_digest_at_both_ends() {
    let sender = play(&[sent(command("PUBLISH news hello")), got(":1\r\n")]);
    let receiver = play(&[got("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")]);
    let payload = batches(&sender)[0].commands[0].payloads.first().copied();
    assert!(payload.is_some_and(|payload| payload.length == 5 && payload.digest.is_some()));
    match receiver.as_slice() {
        [Event::Push { detail: Detail::Redis(batch), .. }] => {
            let (kind, channel) = ("message".to_owned(), "news".to_owned());
            assert_eq!(batch.kind, Kind::Push { kind, channel, payload });
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn unanswered_commands_end_at_the_next_sign_of_life() {
    check(
        &[
            sent(commands(&["CLIENT REPLY OFF", "SET a 1"])),
            sent(command("SET a 2")),
            sent(command("CLIENT REPLY ON")),
            got("+OK\r\n"),
        ],
        &[
            "begin 0 @1-1",
            "end 0 @1 [PIPELINE] x2 CLIENT REPLY ?; SET ? ?",
            "begin 1 @2-2",
            "end 1 @2 [SET] SET ? ?",
            "begin 2 @3-3",
            "reply 2 @4",
            "end 2 @4 [CLIENT REPLY] CLIENT REPLY ?",
        ],
    );
}

#[test]
fn secrets_are_dropped_when_they_are_read() {
    let lines = [
        "AUTH hunter2",
        "auth user hunter2",
        "HELLO 3 AUTH user hunter2 SETNAME x",
        "CONFIG SET requirepass hunter2",
        "config set requirepass hunter2",
        "ACL SETUSER user >hunter2",
        "MIGRATE host 6379 key 0 5000 AUTH hunter2 KEYS a",
        "MIGRATE host 6379 key 0 5000 AUTH2 user hunter2",
        "SENTINEL SET mymaster auth-pass hunter2",
    ];
    for line in lines {
        let events = play(&[sent(command(line)), got("+OK\r\n")]);
        assert_eq!(events.len(), 3, "{line}");
        for mode in [TextMode::Raw, TextMode::Sanitized] {
            let description = describe(&batches(&events)[0], Role::Client, &Endpoints::default(), mode);
            assert!(!format!("{description:?}").contains("hunter2"), "{description:?}");
        }
        // Neither are the bytes held anywhere.
        let bytes: Vec<String> = "hunter2".bytes().map(|byte| byte.to_string()).collect();
        assert!(!format!("{events:?}").contains(&bytes.join(", ")), "{line}");
    }
}

#[test]
fn what_follows_monitor_is_not_read() {
    check(
        &[
            sent(command("MONITOR")),
            got("+OK\r\n"),
            got("+1700000000.1 [0 127.0.0.1:1] \"AUTH\" \"x\"\r\n"),
            Op::Close,
        ],
        &["begin 0 @1-1", "reply 0 @2", "end 0 @2 [MONITOR] MONITOR"],
    );
}

#[test]
fn plain_lines_are_commands() {
    check(
        &[sent("\r\nPING\r\n"), got("+PONG\r\n"), sent("echo  hi\n"), got("$2\r\nhi\r\n")],
        &[
            "begin 0 @1-1",
            "reply 0 @2",
            "end 0 @2 [PING] PING",
            "begin 1 @3-3",
            "reply 1 @4",
            "end 1 @4 [ECHO] ECHO ?",
        ],
    );
}

#[test]
fn the_close_cuts_what_is_open() {
    check(
        &[sent(command("BLPOP q 0")), sent("*1\r\n$4\r\nPI"), Op::Close],
        &["begin 0 @1-1", "end 0 @3 [BLPOP] BLPOP ? ? | Cut"],
    );
}

#[test]
fn an_element_that_was_waited_for_has_the_digest_that_it_was_pushed_with() {
    let pushed = play(&[sent(command("RPUSH jobs first second")), got(":2\r\n")]);
    let pushed = batches(&pushed)[0].commands[0].payloads.clone();
    assert_eq!(pushed.iter().map(|payload| payload.length).collect::<Vec<_>>(), [5, 6]);
    let waits = [
        ("BLPOP other jobs 0", "*2\r\n$4\r\njobs\r\n$5\r\nfirst\r\n", Some(pushed[0])),
        ("BRPOPLPUSH jobs done 0", "$6\r\nsecond\r\n", Some(pushed[1])),
        ("BLMOVE jobs done LEFT RIGHT 0", "$5\r\nfirst\r\n", Some(pushed[0])),
        ("BLPOP jobs 1", "*-1\r\n", None),
        ("BLMOVE jobs done LEFT RIGHT 1", "$-1\r\n", None),
        ("BLPOP jobs 1", "-WRONGTYPE no list\r\n", None),
        ("LPOP jobs", "$5\r\nfirst\r\n", None),
    ];
    for (text, reply, payload) in waits {
        for events in [play(&[sent(command(text)), got(reply)]), {
            play_cut(&[sent(command(text)), got(reply)], &mut || 1)
        }] {
            let popped = batches(&events)[0].popped.clone();
            let expected = payload.map(|payload| Popped { list: "jobs".to_owned(), payload, task: None });
            assert_eq!(popped, expected, "{text}");
        }
    }
}

#[test]
fn a_task_of_celery_is_read_off_the_element() {
    let json = r#"{"body": "W10=", "headers": {"lang": "py", "task": "shop.notify", "id": "4f-1", "root_id": "4f-0"}}"#;
    for (element, expected) in [
        (json, Some(("shop.notify", "4f-1"))),
        (r#"{"task":"a","id":"b"}"#, Some(("a", "b"))),
        (r#"{"task": "a"}"#, None),
        (r#"{"task": 1, "id": "b"}"#, None),
        (r#"["task", "id"]"#, None),
        (r#"{"task": "a\"b", "id": "b"}"#, None),
        ("", None),
    ] {
        let reply = format!("*2\r\n$1\r\nq\r\n${}\r\n{element}\r\n", element.len());
        let ops = [sent(command("BRPOP q 1")), got(reply)];
        for events in [play(&ops), play_cut(&ops, &mut || 3)] {
            let popped = batches(&events)[0].popped.clone().expect("an element");
            let task = popped.task.as_ref().map(|task| (task.name.as_str(), task.id.as_str()));
            assert_eq!(task, expected, "{element}");
        }
    }
}

#[test]
fn the_digest_of_a_large_payload_is_that_of_its_beginning() {
    let payload = |op: Op| batches(&play(&[op, got(":1\r\n")]))[0].commands[0].payloads[0];
    let whole = payload(sent(command(&format!("PUBLISH c {}", "x".repeat(3000)))));
    assert!(whole.digest.is_some());
    let holed = |before: usize| {
        let head = format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$3000\r\n{}", "x".repeat(before));
        let rest = format!("{}\r\n", "x".repeat(2900 - before));
        payload(Op::Holed(Side::Request, head.into_bytes(), 100, rest.into_bytes()))
    };
    assert_eq!(holed(1500), whole);
    assert_eq!(holed(500).digest, None);
}
