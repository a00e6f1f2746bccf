//! Recordings of redis-py and redis-server.
//!
//! A recording is one line per call: `>` sent, `<` received, with `\r`, `\n`, `\xNN` and `\{c*N}` for N times c; `=`
//! begins another connection, `#` a remark. Beside it lie the events that it must give.

use super::*;

pub(super) const RECORDINGS: [(&str, &str); 9] = [
    ("sync_resp2", include_str!("../testdata/sync_resp2.txt")),
    ("sync_resp3", include_str!("../testdata/sync_resp3.txt")),
    ("pipeline_resp2", include_str!("../testdata/pipeline_resp2.txt")),
    ("pipeline_resp3", include_str!("../testdata/pipeline_resp3.txt")),
    ("pubsub_resp2", include_str!("../testdata/pubsub_resp2.txt")),
    ("pubsub_resp3", include_str!("../testdata/pubsub_resp3.txt")),
    ("asyncio_resp2", include_str!("../testdata/asyncio_resp2.txt")),
    ("asyncio_resp3", include_str!("../testdata/asyncio_resp3.txt")),
    ("raw", include_str!("../testdata/raw.txt")),
];

const EVENTS: &str = include_str!("../testdata/events.txt");

/// The connections of a recording, each with its close.
pub(super) fn connections(recording: &str) -> Vec<Vec<Op>> {
    let mut connections = vec![Vec::new()];
    for line in recording.lines() {
        let (kind, text) = line.split_at(1);
        let connection = connections.last_mut().expect("there is always one");
        match kind {
            ">" => connection.push(Op::Request(unescape(text))),
            "<" => connection.push(Op::Response(unescape(text))),
            "=" => connections.push(Vec::new()),
            _ => {}
        }
    }
    for connection in &mut connections {
        connection.push(Op::Close);
    }
    connections
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let [escape, tail @ ..] = rest else { panic!("a lone backslash in {text:?}") };
        rest = tail;
        match escape {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).expect("hex");
                bytes.push(u8::from_str_radix(digits, 16).expect("hex"));
                rest = &rest[2..];
            }
            b'{' => {
                let end = rest.iter().position(|byte| *byte == b'}').expect("a closing brace");
                let count: usize =
                    std::str::from_utf8(&rest[2..end]).expect("digits").parse().expect("a number");
                bytes.resize(bytes.len() + count, rest[0]);
                rest = &rest[end + 1..];
            }
            other => bytes.push(*other),
        }
    }
    bytes
}

#[test]
fn recordings_give_the_events_that_lie_beside_them() {
    let mut all = String::new();
    for (name, recording) in RECORDINGS {
        for (index, ops) in connections(recording).iter().enumerate() {
            let _ = writeln!(all, "# {name} {index}");
            for line in told(&play(ops)) {
                all.push_str(&line);
                all.push('\n');
            }
        }
    }
    for (line, (got, expected)) in all.lines().zip(EVENTS.lines()).enumerate() {
        assert_eq!(got, expected, "line {}", line + 1);
    }
    assert_eq!(all, EVENTS);
}

#[test]
fn nothing_is_lost_in_a_recording_from_the_start_on() {
    for (name, recording) in RECORDINGS {
        for ops in connections(recording) {
            let events = play(&ops);
            assert!(!told(&events).iter().any(|line| line.starts_with("lost")), "{name}");
            assert!(
                batches(&events).iter().all(|batch| batch.ended == super::super::Ended::Complete),
                "{name}"
            );
        }
    }
}

#[test]
fn a_recording_attached_to_late_gives_the_rest_of_the_exchanges() {
    for (name, recording) in RECORDINGS {
        for ops in connections(recording) {
            let whole = told(&play(&ops)).len();
            for start in 0..ops.len() {
                let events = play(&ops[start..]);
                assert!(events.len() <= whole + 1, "{name} from call {start}");
                let gaps = batches(&events)
                    .iter()
                    .filter(|batch| batch.ended != super::super::Ended::Complete)
                    .count();
                assert!(gaps == 0, "{name} from call {start}: {:?}", told(&events));
            }
        }
    }
}
