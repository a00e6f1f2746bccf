use adder_ebpf::{Lineage, flag, kind};

use crate::{fact::Fact, stitch::sharing::tests::Rig};

const LOOP: u64 = 0x9000;
/// Code objects of `grpc.aio`: where the task of a call is made, and what it runs.
const MADE: u64 = 0x5000;
const INVOKES: u64 = 0x6000;
/// The loop's thread, and one of the core's.
const THREADS: [u32; 2] = [7, 8];
const OLDER: [u64; 2] = [0x100, 0x200];
const CORES: u64 = 0x300;
const NEXT: u64 = 0x400;
const OTHER: u64 = 0x500;

/// A process that calls over one connection of HTTP/2, and has sent two calls in their tasks: from the second on it is known which
/// task is the last.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.code(MADE, "grpc/aio/_call.py", "UnaryUnaryCall.__init__");
    rig.code(INVOKES, "grpc/aio/_call.py", "UnaryUnaryCall._invoke");
    for (task, stream) in [(OLDER[0], 1), (OLDER[1], 3)] {
        is_told(&mut rig, task);
        sends(&mut rig, task, stream);
    }
    rig
}

/// It is told that the task of a call was made.
fn is_told(rig: &mut Rig, child: u64) {
    rig.stack(&[MADE], LOOP);
    let header = rig.header(kind::TASK, LOOP, flag::STACKED);
    rig.engine.fact(&Fact::Task(Lineage { header, child }));
}

/// A task sends its call.
fn sends(rig: &mut Rig, task: u64, stream: u8) {
    rig.send(task, &[INVOKES], None, &Rig::heads(&[stream]));
}

/// A thread of the core sends a call.
fn core_sends(rig: &mut Rig, stream: u8) {
    rig.tid = THREADS[1];
    rig.send(0, &[], None, &Rig::heads(&[stream]));
    rig.tid = THREADS[0];
}

#[test]
fn what_the_core_sends_is_the_task_s_between_those_that_sent_themselves() {
    let mut rig = rig();
    is_told(&mut rig, CORES);
    core_sends(&mut rig, 5);
    is_told(&mut rig, NEXT);
    sends(&mut rig, NEXT, 7);
    assert_eq!(rig.owners(&[CORES]), [None, None, Some(CORES), None]);
}

#[test]
fn its_task_may_be_told_of_only_when_the_answer_has_woken_it() {
    let mut rig = rig();
    core_sends(&mut rig, 5);
    is_told(&mut rig, CORES);
    is_told(&mut rig, NEXT);
    sends(&mut rig, NEXT, 7);
    assert_eq!(rig.owners(&[CORES]), [None, None, Some(CORES), None]);
}

#[test]
fn what_was_made_behind_another_fact_of_its_thread_was_not_sent_before() {
    let mut rig = rig();
    core_sends(&mut rig, 5);
    // The loop's thread would have told of it here.
    rig.make([OTHER]);
    is_told(&mut rig, CORES);
    is_told(&mut rig, NEXT);
    sends(&mut rig, NEXT, 7);
    assert_eq!(rig.owners(&[CORES]), [None; 4]);
}
