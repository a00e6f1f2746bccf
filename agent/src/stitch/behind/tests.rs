use adder_ebpf::{Lineage, kind};

use super::*;
use crate::{
    fact::{Clock, Fact},
    signal::Kind,
    stitch::late::tests::{GET, LOOP, PUBLISH, RABBIT, REDIS, Rig, TASKS},
};

/// The task that writes for others.
const WRITER: u64 = 0x300;
/// A publish with a body of four bytes, and where it is cut.
const LARGE: &[u8] = b"\x01\0\x01\0\0\0\x0c\0\x3c\0\x28\0\0\x01e\x02kk\0\xce\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\x04\0\0\xce\x03\0\x01\0\0\0\x04body\xce";
const CUT: usize = LARGE.len() - 6;

/// A rig with a task that has been seen to write for the first request.
fn rig() -> Rig {
    let mut rig = Rig::of_newest();
    let header = rig.header(kind::TASK, LOOP, 0);
    rig.engine.fact(&Fact::Task(Lineage { header, child: WRITER }));
    rig.rabbit();
    rig.data(RABBIT, 0, WRITER, PUBLISH);
    wakes(&mut rig, TASKS[0]);
    rig
}

fn wakes(rig: &mut Rig, child: u64) {
    let header = rig.header(kind::WAKE, WRITER, 0);
    rig.engine.fact(&Fact::Wake(Lineage { header, child }));
}

/// The second request's publish has not left completely, and it is woken.
fn cut() -> Rig {
    let mut rig = rig();
    rig.data(RABBIT, 0, WRITER, &LARGE[..CUT]);
    wakes(&mut rig, TASKS[1]);
    rig
}

#[test]
fn what_the_loop_sends_is_of_those_who_were_woken_before() {
    let mut rig = cut();
    wakes(&mut rig, TASKS[0]);
    wakes(&mut rig, TASKS[1]);
    rig.leaves(RABBIT, &LARGE[CUT..]);
    rig.leaves(RABBIT, PUBLISH);
    rig.leaves(RABBIT, PUBLISH);
    rig.data(RABBIT, 0, WRITER, PUBLISH);
    wakes(&mut rig, TASKS[0]);
    assert_eq!(rig.places(Kind::Producer, 5), [Some(0), Some(1), Some(0), Some(1), Some(0)]);
}

#[test]
fn what_the_loop_sends_is_nobodys_where_more_were_woken() {
    let mut rig = cut();
    wakes(&mut rig, TASKS[0]);
    wakes(&mut rig, TASKS[1]);
    rig.leaves(RABBIT, &LARGE[CUT..]);
    rig.leaves(RABBIT, PUBLISH);
    rig.data(RABBIT, 0, WRITER, PUBLISH);
    wakes(&mut rig, TASKS[1]);
    assert_eq!(rig.places(Kind::Producer, 4), [Some(0), Some(1), None, Some(1)]);
}

#[test]
fn what_the_loop_sends_is_nobodys_where_not_all_were_woken() {
    let mut rig = cut();
    wakes(&mut rig, TASKS[0]);
    rig.leaves(RABBIT, &LARGE[CUT..]);
    rig.leaves(RABBIT, PUBLISH);
    rig.leaves(RABBIT, PUBLISH);
    rig.data(RABBIT, 0, WRITER, PUBLISH);
    wakes(&mut rig, TASKS[1]);
    assert_eq!(rig.places(Kind::Producer, 5), [Some(0), Some(1), None, None, Some(1)]);
}

#[test]
fn what_found_no_room_at_all_is_of_who_is_woken_when_it_has_left() {
    let mut rig = rig();
    rig.leaves(RABBIT, LARGE);
    wakes(&mut rig, TASKS[1]);
    assert_eq!(rig.places(Kind::Producer, 2), [Some(0), Some(1)]);
}

#[test]
fn what_the_loop_sends_is_nobodys_after_something_was_lost() {
    let mut rig = cut();
    wakes(&mut rig, TASKS[0]);
    let header = rig.header(0, LOOP, 0);
    rig.engine.fact(&Fact::Dropped(header, 1));
    rig.leaves(RABBIT, &LARGE[CUT..]);
    rig.leaves(RABBIT, PUBLISH);
    // This is still behind.
    wakes(&mut rig, TASKS[1]);
    rig.leaves(RABBIT, PUBLISH);
    rig.data(RABBIT, 0, WRITER, PUBLISH);
    wakes(&mut rig, TASKS[1]);
    assert_eq!(rig.places(Kind::Producer, 5), [Some(0), Some(1), None, None, Some(1)]);
}

#[test]
fn when_nothing_leaves_any_more_it_is_known_whose_all_was() {
    let mut rig = cut();
    wakes(&mut rig, TASKS[0]);
    rig.leaves(RABBIT, &LARGE[CUT..]);
    rig.leaves(RABBIT, PUBLISH);
    assert_eq!(rig.engine.behind.len(), 1);
    let mut header = rig.header(0, LOOP, 0);
    header.time += QUIET;
    rig.engine.fact(&Fact::Clock(header, Clock { offset: 0 }));
    assert!(rig.engine.behind.is_empty());
    assert_eq!(rig.places(Kind::Producer, 3), [Some(0), Some(1), Some(0)]);
}

#[test]
fn what_waits_for_long_is_nobodys_until_the_task_sends_itself() {
    let mut rig = cut();
    wakes(&mut rig, TASKS[0]);
    wakes(&mut rig, TASKS[1]);
    rig.leaves(RABBIT, &LARGE[CUT..]);
    rig.leaves(RABBIT, PUBLISH);
    let mut header = rig.header(0, LOOP, 0);
    header.time += SHARED_WAIT;
    rig.engine.fact(&Fact::Clock(header, Clock { offset: 0 }));
    rig.leaves(RABBIT, PUBLISH);
    wakes(&mut rig, TASKS[0]);
    rig.data(RABBIT, 0, WRITER, PUBLISH);
    wakes(&mut rig, TASKS[1]);
    assert_eq!(rig.places(Kind::Producer, 5), [Some(0), Some(1), None, None, Some(1)]);
}

/// Message `tag` for a consumer, with an empty body.
fn delivery(tag: u8) -> Vec<u8> {
    let mut frames = b"\x01\0\x01\0\0\0\x14\0\x3c\0\x3c\x01t\0\0\0\0\0\0\0".to_vec();
    frames.push(tag);
    frames.extend(b"\0\x01e\x02kk\xce\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce");
    frames
}

fn acknowledgement(tag: u8) -> Vec<u8> {
    let mut frame = b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0".to_vec();
    frame.extend([tag, 0, 0xce]);
    frame
}

#[test]
fn acknowledgements_that_the_loop_sends_are_of_those_who_were_woken_before() {
    let mut rig = cut();
    // Their tasks were made in the other order.
    let handlers = [0x400, 0x500];
    for tag in 1..=2 {
        rig.data(RABBIT, adder_ebpf::flag::RECEIVED, LOOP, &delivery(tag));
    }
    for child in [handlers[1], handlers[0]] {
        let header = rig.header(kind::TASK, LOOP, 0);
        rig.engine.fact(&Fact::Task(Lineage { header, child }));
    }
    for handler in handlers {
        rig.data(REDIS, 0, handler, GET);
        rig.data(REDIS, adder_ebpf::flag::RECEIVED, LOOP, b"$1\r\n1\r\n");
    }
    wakes(&mut rig, handlers[0]);
    wakes(&mut rig, handlers[1]);
    rig.leaves(RABBIT, &LARGE[CUT..]);
    rig.leaves(RABBIT, &acknowledgement(1));
    rig.leaves(RABBIT, &acknowledgement(2));
    rig.data(RABBIT, 0, WRITER, PUBLISH);
    wakes(&mut rig, TASKS[0]);
    let header = rig.header(0, LOOP, 0);
    rig.engine.fact(&Fact::End(header));
    let spans = rig.engine.spans();
    let of = |kind: Kind| {
        let mut spans: Vec<_> = spans.iter().filter(|span| span.kind == kind).collect();
        spans.sort_by_key(|span| span.start);
        spans
    };
    let consumers: Vec<_> = of(Kind::Consumer).iter().map(|span| Some(span.span_id)).collect();
    let parents: Vec<_> = of(Kind::Client).iter().map(|span| span.parent_span_id).collect();
    assert_eq!(consumers.len(), 2);
    assert_eq!(parents, consumers);
}
