use adder_ebpf::flag;

use crate::stitch::sharing::tests::{LOOP, Rig};

/// Code objects of `grpc.aio`: where the task of a call is made, and what it runs.
const MADE: u64 = 0x5000;
const INVOKES: u64 = 0x6000;
/// A thread of the core.
const CORE: u32 = 8;
const OLDER: [u64; 2] = [0x100, 0x200];
const CORES: u64 = 0x300;
const NEXT: u64 = 0x400;
const LATER: u64 = 0x500;
/// Nanoseconds of a long call.
const LONG: u64 = 4_000_000_000;

/// A process that calls over one connection of HTTP/2, and has sent two calls in their tasks: from the second on it is known which
/// task is the last.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.code(MADE, "grpc/aio/_call.py", "UnaryUnaryCall.__init__");
    rig.code(INVOKES, "grpc/aio/_call.py", "UnaryUnaryCall._invoke");
    for (task, stream) in [(OLDER[0], 1), (OLDER[1], 3)] {
        makes(&mut rig, task);
        sends(&mut rig, task, stream);
    }
    rig
}

/// The task of a call is made.
fn is_made(rig: &mut Rig) {
    rig.stack(&[MADE], LOOP);
}

/// The task that was made last is told of.
fn is_told(rig: &mut Rig, child: u64) {
    rig.task(child, flag::STACKED);
}

/// Both.
fn makes(rig: &mut Rig, child: u64) {
    is_made(rig);
    is_told(rig, child);
}

/// A task sends its call.
fn sends(rig: &mut Rig, task: u64, stream: u8) {
    rig.send(task, &[INVOKES], None, &Rig::heads(&[stream]));
}

/// A thread of the core sends a call.
fn core_sends(rig: &mut Rig, stream: u8) {
    let own = std::mem::replace(&mut rig.tid, CORE);
    rig.send(0, &[], None, &Rig::heads(&[stream]));
    rig.tid = own;
}

#[test]
fn what_the_core_sends_is_the_task_s_between_those_that_sent_themselves() {
    let mut rig = rig();
    makes(&mut rig, CORES);
    core_sends(&mut rig, 5);
    makes(&mut rig, NEXT);
    sends(&mut rig, NEXT, 7);
    assert_eq!(rig.owners(&[CORES]), [None, None, Some(CORES), None]);
}

#[test]
fn its_task_may_be_told_of_only_when_the_answer_has_woken_it() {
    for wait in [0, LONG] {
        let mut rig = rig();
        is_made(&mut rig);
        core_sends(&mut rig, 5);
        rig.time += wait;
        is_told(&mut rig, CORES);
        makes(&mut rig, NEXT);
        sends(&mut rig, NEXT, 7);
        assert_eq!(rig.owners(&[CORES]), [None, None, Some(CORES), None]);
    }
}

#[test]
fn a_task_that_was_made_later_has_not_sent_before() {
    let mut rig = rig();
    core_sends(&mut rig, 5);
    makes(&mut rig, CORES);
    makes(&mut rig, NEXT);
    sends(&mut rig, NEXT, 7);
    assert_eq!(rig.owners(&[CORES]), [None; 4]);
}

#[test]
fn of_tasks_of_which_some_have_sent_nothing_nothing_is_said() {
    let mut rig = rig();
    // Two are given up.
    makes(&mut rig, CORES);
    makes(&mut rig, LATER);
    core_sends(&mut rig, 5);
    makes(&mut rig, NEXT);
    sends(&mut rig, NEXT, 7);
    makes(&mut rig, LATER);
    core_sends(&mut rig, 9);
    makes(&mut rig, OLDER[1]);
    sends(&mut rig, OLDER[1], 11);
    assert_eq!(rig.owners(&[LATER]), [None, None, None, None, Some(LATER), None]);
}
