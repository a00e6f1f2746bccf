use adder_ebpf::{Data, Lineage, Socket, Stack, flag, kind};

use super::*;
use crate::{
    code::CodeInfo,
    fact::{Clock, Fact, ProcessInfo},
    stitch::Options,
};

const PID: u32 = 7;
const LOOP: u64 = 0x9000;
/// Code objects.
const WRITE: u64 = 0x1000;
const REQUEST: u64 = 0x2000;
const EVENTS: u64 = 0x3000;
const EXIT: u64 = 0x4000;
/// `:method: GET`, `:scheme: http`, `:path: /` of the static table.
const FIELDS: [u8; 3] = [0x82, 0x86, 0x84];

/// A process whose tasks are at the addresses that the tests name.
struct Rig {
    engine: Engine,
    time: u64,
    /// The connection on which things are sent, and how many bytes have gone over each.
    socket: u64,
    sent: [u64; 2],
}

impl Rig {
    fn new() -> Self {
        let engine = Engine::new(Options { seed: 1, ..Options::default() });
        let mut rig = Self { engine, time: 0, socket: 0, sent: [0; 2] };
        let header = rig.header(0, LOOP, 0);
        rig.engine.fact(&Fact::Process(header, ProcessInfo::default()));
        rig.engine.fact(&Fact::Clock(header, Clock { offset: 0 }));
        for (address, file, name) in [
            (WRITE, "httpcore/_async/http2.py", "AsyncHTTP2Connection._write_outgoing_data"),
            (REQUEST, "httpcore/_async/http2.py", "AsyncHTTP2Connection._send_request_headers"),
            (EVENTS, "httpcore/_async/http2.py", "AsyncHTTP2Connection._receive_events"),
            (EXIT, "httpcore/_synchronization.py", "AsyncLock.__aexit__"),
        ] {
            let (name, file) = (name.to_owned(), format!("/lib/{file}"));
            rig.engine.fact(&Fact::Code(header, CodeInfo { address, name, file, ..CodeInfo::default() }));
        }
        for number in [1, 0] {
            rig.socket = number;
            // SAFETY: a structure of integers.
            let mut socket: Socket = unsafe { std::mem::zeroed() };
            (socket.header, socket.socket) = (rig.header(kind::SOCKET, LOOP, flag::CONNECTED), number);
            (socket.fd, socket.remote_port) = (number as i32, 80 + number as u16);
            rig.engine.fact(&Fact::Socket(Box::new(socket)));
            let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            preface.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
            rig.send(LOOP, &[EVENTS], &preface);
        }
        rig
    }

    fn header(&mut self, kind: u16, context: u64, flags: u16) -> Header {
        self.time += 1_000;
        Header { kind, flags, time: self.time, context, pid: PID, tid: PID, ..Header::default() }
    }

    fn stack(&mut self, frames: &[u64], context: u64) {
        let header = self.header(kind::STACK, context, 0);
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        let stack = Stack { header, count: frames.len() as u32, cut: 0 };
        self.engine.fact(&Fact::Stack { stack, frames: &bytes });
    }

    fn make(&mut self, tasks: impl IntoIterator<Item = u64>) {
        for child in tasks {
            let header = self.header(kind::TASK, LOOP, 0);
            self.engine.fact(&Fact::Task(Lineage { header, child }));
        }
    }

    /// A task is woken by something else than the lock.
    fn wakes(&mut self, child: u64) {
        self.stack(&[EVENTS], LOOP);
        let header = self.header(kind::WAKE, LOOP, flag::STACKED);
        self.engine.fact(&Fact::Wake(Lineage { header, child }));
    }

    fn wake_all(&mut self) {
        for task in TASKS {
            self.wakes(task);
        }
    }

    fn hands_over(&mut self, by: u64, came: u64, child: u64) {
        self.stack(&[EXIT, WRITE, came], by);
        let header = self.header(kind::WAKE, by, flag::STACKED);
        self.engine.fact(&Fact::Wake(Lineage { header, child }));
    }

    fn send(&mut self, by: u64, frames: &[u64], bytes: &[u8]) {
        self.stack(frames, by);
        let header = self.header(kind::DATA, by, flag::STACKED);
        let length = bytes.len() as u64;
        let sent = &mut self.sent[self.socket as usize];
        let fd = self.socket as i32;
        let data = Data { header, socket: self.socket, offset: *sent, length, fd, ..Data::default() };
        *sent += length;
        self.engine.fact(&Fact::Data { data, head: bytes, tail: &[] });
    }

    /// Who has the lock sends these requests, by the numbers of their streams.
    fn requests(&mut self, by: u64, came: u64, streams: &[u8]) {
        let mut bytes = Vec::new();
        for stream in streams {
            bytes.extend([0, 0, FIELDS.len() as u8, 1, 5, 0, 0, 0, *stream]);
            bytes.extend(FIELDS);
        }
        self.send(by, &[WRITE, came], &bytes);
    }

    /// Whose each request is, in the order on the wire.
    fn owners(&mut self, tasks: &[u64]) -> Vec<Option<u64>> {
        let ids: Vec<_> =
            tasks.iter().map(|task| (self.engine.contexts.find_at(PID, *task), *task)).collect();
        let mut operations: Vec<_> = self.engine.operations.iter().collect();
        operations.sort_unstable_by_key(|(id, _)| **id);
        let owner = |woken| ids.iter().find(|(id, _)| *id == woken).map(|(_, task)| *task);
        operations.into_iter().map(|(_, operation)| owner(operation.act.woken)).collect()
    }
}

const A: u64 = 0x100;
const B: u64 = 0x200;
const C: u64 = 0x300;
const D: u64 = 0x400;
const TASKS: [u64; 4] = [A, B, C, D];

/// A connection on which two have sent a request while nobody else was about, and tasks that are older than those. Wake-ups are
/// seen with their stacks since the first.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.make(TASKS);
    rig.make([0x500]);
    rig.requests(0x500, REQUEST, &[1]);
    rig.wakes(0x500);
    rig.make([0x600]);
    rig.requests(0x600, REQUEST, &[3]);
    assert_eq!(rig.owners(&[0x500, 0x600]), [Some(0x500), Some(0x600)]);
    rig
}

#[test]
fn each_has_the_place_in_which_it_has_the_lock() {
    let mut rig = rig();
    rig.wake_all();
    // While A sends, the others put something there: C no request.
    rig.requests(A, REQUEST, &[5, 7]);
    rig.hands_over(A, REQUEST, C);
    rig.hands_over(C, EVENTS, B);
    rig.requests(B, REQUEST, &[9]);
    rig.hands_over(B, REQUEST, D);
    rig.hands_over(D, REQUEST, C);
    rig.hands_over(C, EVENTS, A);
    assert_eq!(rig.owners(&TASKS), [None, None, Some(A), Some(B), Some(D)]);
}

#[test]
fn of_the_last_the_number_tells() {
    let mut rig = rig();
    rig.wake_all();
    rig.requests(A, REQUEST, &[5, 7]);
    rig.hands_over(A, REQUEST, B);
    assert_eq!(rig.owners(&TASKS), [None; 4]);
    // Nobody has handed C the lock.
    rig.requests(C, REQUEST, &[9]);
    assert_eq!(rig.owners(&TASKS)[..4], [None, None, Some(A), Some(B)]);
}

#[test]
fn one_that_is_cancelled_leaves_nothing_to_believe() {
    let mut rig = rig();
    rig.wake_all();
    // B is cancelled while it waits.
    rig.requests(A, REQUEST, &[5, 7, 9]);
    rig.hands_over(A, REQUEST, C);
    rig.hands_over(C, REQUEST, A);
    rig.hands_over(A, EVENTS, D);
    rig.requests(D, REQUEST, &[11]);
    rig.hands_over(D, REQUEST, A);
    let none = rig.owners(&TASKS);
    assert_eq!(none, [None; 6]);
    // All have had their turn: what comes then is clear again.
    rig.hands_over(A, EVENTS, C);
    rig.requests(B, REQUEST, &[13]);
    rig.hands_over(B, REQUEST, C);
    rig.hands_over(C, EVENTS, D);
    let again = rig.owners(&TASKS);
    assert_eq!(again, [None, None, None, None, None, None, Some(B)]);
}

#[test]
fn where_a_wake_up_is_missing_nothing_is_believed() {
    let mut rig = rig();
    rig.wake_all();
    rig.requests(A, REQUEST, &[5, 7]);
    rig.engine.fact(&Fact::Dropped(Header { pid: PID, time: rig.time, ..Header::default() }, 1));
    rig.hands_over(B, REQUEST, C);
    rig.requests(C, REQUEST, &[9]);
    rig.hands_over(C, REQUEST, D);
    rig.requests(D, REQUEST, &[11]);
    rig.hands_over(D, REQUEST, A);
    assert_eq!(rig.owners(&TASKS), [None; 6]);
}

#[test]
fn who_has_had_the_lock_of_another_connection_hands_on_that_which_it_has() {
    let mut rig = rig();
    // D has had that of the first, and makes the next call on the second, where the lock was free before.
    rig.requests(D, REQUEST, &[5]);
    rig.hands_over(D, REQUEST, A);
    rig.hands_over(A, EVENTS, D);
    rig.hands_over(D, EVENTS, B);
    rig.socket = 1;
    for (number, task) in [(1, 0x700), (3, 0x800)] {
        rig.make([task]);
        rig.requests(task, REQUEST, &[number]);
    }
    rig.wake_all();
    rig.requests(B, REQUEST, &[5, 7]);
    rig.hands_over(B, REQUEST, C);
    rig.requests(A, REQUEST, &[9]);
    let owners = rig.owners(&TASKS);
    assert_eq!(owners, [None, None, Some(D), None, None, Some(B), Some(C), None]);
}
