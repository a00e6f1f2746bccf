//! Real connections, recorded between the libraries and a `RabbitMQ` 3.10 server. The expected files were read and
//! compared with what the programs did.

use super::*;
use crate::protocol::recording::recording;

/// The recordings and what is understood of them.
pub(super) const RECORDINGS: [(&str, &str, &str); 9] = [
    ("pika", include_str!("../testdata/pika.wire"), include_str!("../testdata/pika.expected")),
    (
        "pika_confirms",
        include_str!("../testdata/pika_confirms.wire"),
        include_str!("../testdata/pika_confirms.expected"),
    ),
    ("pika_rpc", include_str!("../testdata/pika_rpc.wire"), include_str!("../testdata/pika_rpc.expected")),
    ("aio_pika", include_str!("../testdata/aio_pika.wire"), include_str!("../testdata/aio_pika.expected")),
    (
        "aio_pika_rpc",
        include_str!("../testdata/aio_pika_rpc.wire"),
        include_str!("../testdata/aio_pika_rpc.expected"),
    ),
    (
        "aio_pika_load",
        include_str!("../testdata/aio_pika_load.wire"),
        include_str!("../testdata/aio_pika_load.expected"),
    ),
    ("kombu", include_str!("../testdata/kombu.wire"), include_str!("../testdata/kombu.expected")),
    (
        "celery_client",
        include_str!("../testdata/celery_client.wire"),
        include_str!("../testdata/celery_client.expected"),
    ),
    (
        "celery_worker",
        include_str!("../testdata/celery_worker.wire"),
        include_str!("../testdata/celery_worker.expected"),
    ),
];

/// The calls of a recording, and the end of the connection.
pub(super) fn calls(wire: &str) -> Vec<Op> {
    let mut ops: Vec<Op> = recording(wire).into_iter().map(|(side, bytes)| Op::Data(side, bytes)).collect();
    ops.push(Op::Close);
    ops
}

#[test]
fn the_libraries_are_understood() {
    for (name, wire, expected) in RECORDINGS {
        let found = told(&play(&calls(wire)));
        if let Some(folder) = std::env::var_os("ADDER_WRITE_EXPECTED") {
            let path = std::path::Path::new(&folder).join(format!("{name}.expected"));
            std::fs::write(path, found.join("\n") + "\n").unwrap();
            continue;
        }
        for (number, (found, expected)) in found.iter().zip(expected.lines()).enumerate() {
            assert_eq!(found, expected, "{name}, line {}", number + 1);
        }
        assert_eq!(found.len(), expected.lines().count(), "{name}");
    }
}

#[test]
fn nothing_of_the_recordings_is_lost_whatever_call_they_are_seen_from() {
    for (name, wire, _) in RECORDINGS {
        let ops = calls(wire);
        for first in 0..ops.len() {
            for line in told(&play(&ops[first..])) {
                // Attached between the frames of a message, the rest of it means nothing.
                assert!(
                    !line.starts_with("lost Malformed") && !line.starts_with("lost Gap"),
                    "{name} {first}"
                );
            }
        }
    }
}

#[test]
fn both_ends_of_every_recorded_message_agree() {
    let mut compared = 0;
    for (name, wire, _) in RECORDINGS {
        let messages = messages(&play(&calls(wire)));
        let of = |kind| messages.iter().filter(move |message| message.kind == kind);
        for received in of(Kind::Delivery).chain(of(Kind::Get)).filter(|message| message.message_id.is_some())
        {
            let same = of(Kind::Publish).find(|sent| sent.message_id == received.message_id);
            if let Some(sent) = same {
                assert_eq!(sent.properties_digest, received.properties_digest, "{name}");
                assert_eq!(sent.body_digest, received.body_digest, "{name}");
                compared += 1;
            }
        }
    }
    assert!(compared > 10, "{compared}");
}

#[test]
fn celery_tells_its_task() {
    let sent = messages(&play(&calls(RECORDINGS[7].1)));
    let done = messages(&play(&calls(RECORDINGS[8].1)));
    let task = |messages: &[Message]| messages.iter().find_map(|message| message.task.clone()).unwrap();
    assert_eq!(task(&sent).name, "shop.add");
    assert_eq!(task(&sent), task(&done));
}

#[test]
fn a_dead_letter_tells_where_it_died() {
    let messages = messages(&play(&calls(RECORDINGS[1].1)));
    let dead = messages.iter().find(|message| message.exchange == "dead" && message.death.is_some()).unwrap();
    let death = dead.death.as_deref().unwrap();
    assert_eq!((death.entries, death.count), (1, 1));
    assert_eq!((death.queue.as_str(), death.reason.as_str()), ("jobs", "rejected"));
    assert_eq!(death.first_queue.as_deref(), Some("jobs"));
}

#[test]
fn an_applications_own_trace_context_is_kept() {
    let messages = messages(&play(&calls(RECORDINGS[0].1)));
    let incoming = messages.iter().find_map(|message| message.incoming.clone()).unwrap();
    assert_eq!(incoming.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
}
