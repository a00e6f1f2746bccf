use adder_ebpf::{Child, Data, Lineage, kind};

use super::*;
use crate::{
    fact::{Clock, Fact, ProcessInfo},
    stitch::Options,
};

const US: u64 = 1_000;
/// Contexts: the loop's own, a task's, a timer's.
const LOOP: u64 = 0x9000;
const TASK: u64 = 0x9100;
const HANDLE: u64 = 0x9200;

fn header(kind: u16, time: u64, context: u64) -> Header {
    Header { kind, time: time * US, context, pid: 7, tid: 7, ..Header::default() }
}

/// An engine that knows a loop with one task.
fn engine() -> Engine {
    let mut engine = Engine::new(Options { seed: 1, ..Options::default() });
    engine.fact(&Fact::Process(header(0, 1, 0), ProcessInfo::default()));
    engine.fact(&Fact::Clock(header(0, 1, 0), Clock { offset: 0 }));
    make(&mut engine, 1, LOOP, TASK);
    engine
}

fn make(engine: &mut Engine, time: u64, context: u64, child: u64) {
    engine.fact(&Fact::Task(Lineage { header: header(kind::TASK, time, context), child }));
}

fn runs_out(engine: &mut Engine, time: u64) {
    engine.fact(&Fact::Timer(Item { header: header(kind::TIMER, time, LOOP), item: 0 }));
}

fn wakes(engine: &mut Engine, time: u64, by: u64, child: u64) {
    engine.fact(&Fact::Wake(Lineage { header: header(kind::WAKE, time, by), child }));
}

/// When the turn of the task began.
fn turn(engine: &Engine) -> u64 {
    let task = engine.contexts.find(engine.contexts.find_at(7, TASK)).expect("a task");
    task.turn.as_ref().map_or(0, |turn| turn.start / US)
}

#[test]
fn a_timer_begins_a_turn() {
    let mut engine = engine();
    runs_out(&mut engine, 100_000);
    wakes(&mut engine, 100_100, HANDLE, TASK);
    assert_eq!(turn(&engine), 100_100);
    runs_out(&mut engine, 200_000);
    wakes(&mut engine, 200_100, HANDLE, TASK);
    assert_eq!(turn(&engine), 200_100);
}

#[test]
fn what_stands_at_the_address_of_a_timer_that_has_called_is_none() {
    let mut engine = engine();
    runs_out(&mut engine, 100_000);
    wakes(&mut engine, 100_100, HANDLE, TASK);
    // The task makes one and waits for it; its end is told in a context that only has the timer's address.
    make(&mut engine, 100_300, TASK, 0x9300);
    wakes(&mut engine, 100_500, HANDLE, TASK);
    make(&mut engine, 100_700, TASK, 0x9300);
    wakes(&mut engine, 100_800, HANDLE, TASK);
    assert_eq!(turn(&engine), 100_100);
}

#[test]
fn one_timer_wakes_several() {
    let mut engine = engine();
    make(&mut engine, 2, LOOP, 0x9300);
    runs_out(&mut engine, 100_000);
    wakes(&mut engine, 100_100, HANDLE, 0x9300);
    wakes(&mut engine, 100_101, HANDLE, TASK);
    assert_eq!(turn(&engine), 100_101);
}

/// The loop reads something.
fn read(engine: &mut Engine, now: u64) {
    let header = Header { flags: flag::RECEIVED, ..header(kind::DATA, now, LOOP) };
    let data = Data { header, socket: 1, length: 1, fd: 4, ..Data::default() };
    engine.fact(&Fact::Data { data, head: b"x", tail: b"" });
}

/// When the job of a task began that a timer of the loop, whose wait ran out at 100 ms, has another callback make. The timer calls
/// then, and the task is made 15 ms later. `reads` is when the loop reads something in between.
fn made(called: u64, reads: Option<u64>) -> Option<u64> {
    let mut engine = engine();
    wakes(&mut engine, 2, HANDLE, TASK);
    runs_out(&mut engine, 100_000);
    if let Some(now) = reads.filter(|&now| now < called) {
        read(&mut engine, now);
    }
    // As `APScheduler` does: the timer's callback has the loop call another, which makes the task.
    let copied = Lineage { header: header(kind::COPY, called, HANDLE), child: 0x9400 };
    engine.fact(&Fact::Copy(copied));
    if let Some(now) = reads.filter(|&now| now > called) {
        read(&mut engine, now);
    }
    make(&mut engine, called + 15_000, 0x9400, 0x9500);
    let task = engine.contexts.find(engine.contexts.find_at(7, 0x9500)).expect("a task");
    task.turn.as_ref().map(|turn| turn.start / US)
}

#[test]
fn a_timer_that_the_machine_delays_still_makes_a_task() {
    assert_eq!(made(100_100, None), Some(100_000));
    assert_eq!(made(100_100, Some(110_000)), None, "the loop may have waited again");
}

#[test]
fn a_timer_that_the_machine_delays_still_calls() {
    assert_eq!(made(113_700, None), Some(100_000));
    assert_eq!(made(113_700, Some(113_000)), None, "what was read may call as well");
    assert_eq!(made(210_000, None), None);
}

/// When the turn of a task began that has made another, and is woken 5.9 ms after what that has waited for was read. The loop
/// has last waited so long ago.
fn woken_by_its_own(ago: u64) -> u64 {
    let mut engine = engine();
    runs_out(&mut engine, 100_000);
    wakes(&mut engine, 100_100, HANDLE, TASK);
    make(&mut engine, 100_300, TASK, 0x9300);
    read(&mut engine, 100_400);
    wakes(&mut engine, 100_410, LOOP, 0x9300);
    let header = Header { buffer: adder_ebpf::ago_of(ago * US), ..header(kind::WAKE, 106_300, 0x9600) };
    engine.fact(&Fact::Wake(Lineage { header, child: TASK }));
    turn(&engine)
}

#[test]
fn a_loop_that_the_machine_has_not_let_run_has_not_waited() {
    assert_eq!(woken_by_its_own(6_300), 100_100);
    assert_eq!(woken_by_its_own(200), 106_300, "it has waited since");
}

/// What a thread without a loop does.
#[derive(Clone, Copy)]
enum Does {
    /// It reads from this file.
    Reads(u64),
    /// It starts a program.
    Forks,
}

/// It does that at these times, microseconds; when each time its turn began.
fn turns_of_files(does: &[(u64, Does)]) -> Vec<u64> {
    let mut engine = engine();
    let turn = |&(time, does): &(u64, Does)| {
        let header = |kind, flags| Header { tid: 9, flags, ..header(kind, time, 0) };
        match does {
            Does::Reads(item) => {
                engine.fact(&Fact::Timer(Item { header: header(kind::TIMER, flag::FILE), item }));
            }
            Does::Forks => {
                let header = header(kind::FORK, 0);
                engine.fact(&Fact::Fork(Child { header, child: 10, reserved: 0 }));
            }
        }
        engine.threads.get(&(7, 9)).and_then(|thread| thread.turn).map_or(0, |turn| turn.start / US)
    };
    does.iter().map(turn).collect()
}

#[test]
fn what_a_thread_reads_begins_a_turn() {
    use Does::Reads;
    let does = [(10_000, Reads(1)), (20_000, Reads(1)), (20_100, Reads(1)), (30_000, Reads(2))];
    assert_eq!(turns_of_files(&does), [10_000, 20_000, 20_000, 30_000]);
}

#[test]
fn what_a_program_says_that_a_turn_has_started_begins_none() {
    use Does::{Forks, Reads};
    let does =
        [(10_000, Reads(1)), (15_000, Forks), (20_000, Reads(2)), (30_000, Reads(2)), (40_000, Reads(1))];
    assert_eq!(turns_of_files(&does), [10_000, 10_000, 10_000, 10_000, 40_000]);
}

#[test]
fn what_a_program_says_that_was_started_before_begins_turns() {
    use Does::{Forks, Reads};
    let does = [(5_000, Forks), (10_000, Reads(1)), (20_000, Reads(1)), (30_000, Reads(1))];
    assert_eq!(turns_of_files(&does), [0, 10_000, 20_000, 30_000]);
}

#[test]
fn what_a_program_says_for_long_begins_turns_where_something_is_done_for_it() {
    use Does::{Forks, Reads};
    let minute = 60_000_000;
    let does = [(10_000, Reads(1)), (15_000, Forks), (20_000, Reads(2)), (20_000 + minute, Reads(2))];
    // Nothing was done.
    assert_eq!(turns_of_files(&does), [10_000; 4]);
}
