use adder_ebpf::{Data, Lineage, Socket, Stack, Stream, flag, kind};

use super::*;
use crate::{
    code::CodeInfo,
    fact::{Clock, Fact, ProcessInfo},
    stitch::Options,
};

const PID: u32 = 7;
pub(in crate::stitch) const LOOP: u64 = 0x9000;
/// Code objects.
const WRITE: u64 = 0x1000;
const REQUEST: u64 = 0x2000;
const EVENTS: u64 = 0x3000;
const WRITE_OF_THREADS: u64 = 0x4000;
/// `:method: GET`, `:scheme: http`, `:path: /` of the static table.
const FIELDS: [u8; 3] = [0x82, 0x86, 0x84];

/// A process whose tasks are at the addresses that the tests name.
pub(in crate::stitch) struct Rig {
    engine: Engine,
    pub(in crate::stitch) time: u64,
    /// The thread that does things.
    pub(in crate::stitch) tid: u32,
    /// The connection on which things are sent, and how many bytes have gone over each.
    socket: u64,
    sent: [u64; 2],
    objects: [u64; 2],
}

impl Rig {
    pub(in crate::stitch) fn new() -> Self {
        let engine = Engine::new(Options { seed: 1, ..Options::default() });
        let mut rig = Self { engine, time: 0, tid: PID, socket: 0, sent: [0; 2], objects: OBJECTS };
        let header = rig.header(0, LOOP, 0);
        rig.engine.fact(&Fact::Process(header, ProcessInfo::default()));
        rig.engine.fact(&Fact::Clock(header, Clock { offset: 0 }));
        for (address, file, name) in [
            (WRITE, "httpcore/_async/http2.py", "AsyncHTTP2Connection._write_outgoing_data"),
            (REQUEST, "httpcore/_async/http2.py", "AsyncHTTP2Connection._send_request_headers"),
            (EVENTS, "httpcore/_async/http2.py", "AsyncHTTP2Connection._receive_events"),
            (WRITE_OF_THREADS, "httpcore/_sync/http2.py", "HTTP2Connection._write_outgoing_data"),
        ] {
            rig.code(address, file, name);
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
            rig.send(LOOP, &[EVENTS], None, &preface);
        }
        rig
    }

    pub(in crate::stitch) fn code(&mut self, address: u64, file: &str, name: &str) {
        let (name, file) = (name.to_owned(), format!("/lib/{file}"));
        let header = self.header(0, LOOP, 0);
        self.engine.fact(&Fact::Code(header, CodeInfo { address, name, file, ..CodeInfo::default() }));
    }

    fn header(&mut self, kind: u16, context: u64, flags: u16) -> Header {
        self.time += 1_000;
        Header { kind, flags, time: self.time, context, pid: PID, tid: self.tid, ..Header::default() }
    }

    pub(in crate::stitch) fn stack(&mut self, frames: &[u64], context: u64) {
        let header = self.header(kind::STACK, context, 0);
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        let stack = Stack { header, count: frames.len() as u32, cut: 0 };
        self.engine.fact(&Fact::Stack { stack, frames: &bytes });
    }

    /// A task is told of.
    pub(in crate::stitch) fn task(&mut self, child: u64, flags: u16) {
        let header = self.header(kind::TASK, LOOP, flags);
        self.engine.fact(&Fact::Task(Lineage { header, child }));
    }

    fn make(&mut self, tasks: impl IntoIterator<Item = u64>) {
        for child in tasks {
            self.task(child, 0);
        }
    }

    /// Who has the care of a stream, in the frames that were told last.
    fn stream(&mut self, number: u32, context: u64) {
        let (header, object) = (self.header(kind::STREAM, context, 0), self.objects[self.socket as usize]);
        self.engine.fact(&Fact::Stream(Stream { header, object, number, reserved: 0 }));
    }

    /// A task hands one of the connection's locks on.
    fn hands_over(&mut self, by: u64, stream: Option<u32>, child: u64) {
        self.stack(&[WRITE, EVENTS], by);
        if let Some(number) = stream {
            self.stream(number, by);
        }
        let header = self.header(kind::WAKE, by, flag::STACKED);
        self.engine.fact(&Fact::Wake(Lineage { header, child }));
    }

    /// Sends bytes; with no frames, by a thread that runs no Python.
    pub(in crate::stitch) fn send(&mut self, by: u64, frames: &[u64], stream: Option<u32>, bytes: &[u8]) {
        let flags = if frames.is_empty() {
            0
        } else {
            self.stack(frames, by);
            flag::STACKED
        };
        if let Some(number) = stream {
            self.stream(number, by);
        }
        let header = self.header(kind::DATA, by, flags);
        let length = bytes.len() as u64;
        let sent = &mut self.sent[self.socket as usize];
        let fd = self.socket as i32;
        let data = Data { header, socket: self.socket, offset: *sent, length, fd, ..Data::default() };
        *sent += length;
        self.engine.fact(&Fact::Data { data, head: bytes, tail: &[] });
    }

    pub(in crate::stitch) fn heads(streams: &[u8]) -> Vec<u8> {
        let head = |stream: &u8| [&[0, 0, FIELDS.len() as u8, 1, 5, 0, 0, 0, *stream], &FIELDS[..]].concat();
        streams.iter().flat_map(head).collect()
    }

    /// Who has the lock, for a stream of its own, sends these requests, by the numbers of their streams.
    fn requests(&mut self, by: u64, own: u32, streams: &[u8]) {
        self.send(by, &[WRITE, REQUEST], Some(own), &Self::heads(streams));
    }

    /// Whose each request is, in the order on the wire.
    pub(in crate::stitch) fn owners(&mut self, tasks: &[u64]) -> Vec<Option<u64>> {
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

/// The objects that stand for the connections.
const OBJECTS: [u64; 2] = [0xa000, 0xb000];

#[test]
fn the_streams_in_their_frames_tell_whose_the_requests_are() {
    let mut rig = Rig::new();
    rig.make(TASKS);
    // While A sends, B and C have put something there; D has no part in it.
    rig.requests(A, 1, &[1, 3, 5]);
    assert_eq!(rig.owners(&TASKS), [Some(A), None, None]);
    rig.hands_over(A, None, D);
    rig.hands_over(C, Some(5), B);
    rig.hands_over(B, Some(3), A);
    assert_eq!(rig.owners(&TASKS), [Some(A), Some(B), Some(C)]);
}

#[test]
fn who_tells_before_the_request_is_sent_is_remembered() {
    let mut rig = Rig::new();
    rig.make(TASKS);
    rig.requests(A, 1, &[1]);
    rig.hands_over(B, Some(3), C);
    rig.requests(C, 5, &[3, 5]);
    assert_eq!(rig.owners(&TASKS), [Some(A), Some(B), Some(C)]);
}

#[test]
fn one_that_is_cancelled_shifts_no_other() {
    let mut rig = Rig::new();
    rig.make(TASKS);
    // B is cancelled while it waits.
    rig.requests(A, 1, &[1, 3, 5]);
    rig.hands_over(C, Some(5), D);
    rig.requests(D, 7, &[7]);
    assert_eq!(rig.owners(&TASKS), [Some(A), None, Some(C), Some(D)]);
}

#[test]
fn each_connection_has_streams_of_its_own() {
    let mut rig = Rig::new();
    rig.make(TASKS);
    rig.requests(A, 1, &[1, 3]);
    rig.socket = 1;
    rig.requests(B, 1, &[1, 3]);
    rig.hands_over(C, Some(3), D);
    rig.socket = 0;
    rig.hands_over(D, Some(3), A);
    assert_eq!(rig.owners(&TASKS), [Some(A), Some(D), Some(B), Some(C)]);
}

#[test]
fn a_new_connection_may_have_the_object_of_one_that_is_gone() {
    let mut rig = Rig::new();
    rig.make(TASKS);
    rig.requests(A, 1, &[1, 3]);
    rig.objects[1] = rig.objects[0];
    rig.socket = 1;
    rig.requests(B, 1, &[1, 3]);
    rig.hands_over(C, Some(3), D);
    assert_eq!(rig.owners(&TASKS), [Some(A), None, Some(B), Some(C)]);
}

#[test]
fn where_the_frame_does_not_tell_nothing_is_believed() {
    let mut rig = Rig::new();
    rig.make(TASKS);
    rig.send(A, &[WRITE, REQUEST], None, &Rig::heads(&[1, 3]));
    rig.hands_over(B, None, C);
    assert_eq!(rig.owners(&TASKS), [None, None]);
}

#[test]
fn what_a_thread_sends_for_itself_it_makes() {
    let mut rig = Rig::new();
    // Another has put the first there.
    rig.send(0, &[WRITE_OF_THREADS], Some(3), &Rig::heads(&[1, 3]));
    let mut requests: Vec<_> = rig.engine.operations.iter().collect();
    requests.sort_unstable_by_key(|(id, _)| **id);
    let shared: Vec<_> = requests.into_iter().map(|(_, operation)| operation.act.shared).collect();
    assert_eq!(shared, [Shared::Open, Shared::Own]);
}
