use adder_ebpf::{Data, Item, Lineage, Socket, Stack, kind};

use super::*;
use crate::{
    code::CodeInfo,
    fact::{Clock, Fact, ProcessInfo, PythonInfo},
    python::Attribution,
    signal::{Kind, Span},
    stitch::Options,
};

pub(in crate::stitch) const PID: u32 = 7;
pub(in crate::stitch) const LOOP: u64 = 0x9000;
/// The tasks of two requests.
pub(in crate::stitch) const TASKS: [u64; 2] = [0x100, 0x200];
/// Descriptors: of the two requests, and of a connection to Redis. They are the numbers of their sockets too.
const CLIENTS: [u64; 2] = [11, 12];
pub(in crate::stitch) const REDIS: u64 = 20;
const AF_INET: u16 = 2;
/// A connection to `RabbitMQ`, and a publish with an empty body: `basic.publish`, content header.
pub(in crate::stitch) const RABBIT: u64 = 21;
pub(in crate::stitch) const PUBLISH: &[u8] = b"\x01\0\x01\0\0\0\x0c\0\x3c\0\x28\0\0\x01e\x02kk\0\xce\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce";
pub(in crate::stitch) const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n";

/// The code of uvloop's `run`.
const RUN: u64 = 0x2000;

/// A place in memory.
const PLACE: u64 = 0x7f00_0000_1020;

pub(in crate::stitch) struct Rig {
    pub(in crate::stitch) engine: Engine,
    time: u64,
    moved: [[u64; 2]; 32],
    /// Where in memory is what is sent next.
    place: u64,
    /// It is told where in the code the loop sends something.
    stacks: bool,
}

impl Rig {
    /// Two requests have come, and each has a task.
    fn new() -> Self {
        let mut rig = Self::of_newest();
        let header = rig.header(0, LOOP, 0);
        rig.engine.fact(&Fact::LateWrites(header));
        rig.stacks = false;
        rig
    }

    /// The same on a uvloop that sends what it is given at once.
    pub(in crate::stitch) fn of_newest() -> Self {
        let engine = Engine::new(Options { seed: 1, ..Options::default() });
        let mut rig = Self { engine, time: 0, moved: [[0; 2]; 32], place: 0, stacks: true };
        let header = rig.header(0, LOOP, 0);
        rig.engine.fact(&Fact::Process(header, ProcessInfo::default()));
        rig.engine
            .fact(&Fact::Python(header, PythonInfo { attribution: Attribution::Context, uvloop: true }));
        rig.engine.fact(&Fact::Clock(header, Clock { offset: 0 }));
        let code = CodeInfo {
            address: RUN,
            name: "run".into(),
            file: "uvloop/__init__.py".into(),
            ..CodeInfo::default()
        };
        rig.engine.fact(&Fact::Code(header, code));
        rig.socket(REDIS, flag::CONNECTED);
        for (client, task) in CLIENTS.into_iter().zip(TASKS) {
            rig.socket(client, flag::ACCEPTED);
            rig.data(client, flag::RECEIVED, LOOP, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            let header = rig.header(kind::TASK, LOOP, 0);
            rig.engine.fact(&Fact::Task(Lineage { header, child: task }));
        }
        rig
    }

    pub(in crate::stitch) fn header(&mut self, kind: u16, context: u64, flags: u16) -> Header {
        self.time += 1_000;
        Header { time: self.time, context, pid: PID, tid: PID, kind, flags, ..Header::default() }
    }

    pub(in crate::stitch) fn rests(&mut self, time: u64) {
        self.time += time;
    }

    pub(in crate::stitch) fn socket(&mut self, socket: u64, flags: u16) {
        // SAFETY: a structure of integers.
        let mut fact: Socket = unsafe { std::mem::zeroed() };
        (fact.header, fact.socket) = (self.header(kind::SOCKET, LOOP, flags), socket);
        (fact.fd, fact.family, fact.remote_port) = (socket as i32, AF_INET, socket as u16);
        self.engine.fact(&Fact::Socket(Box::new(fact)));
    }

    pub(in crate::stitch) fn data(&mut self, socket: u64, flags: u16, context: u64, bytes: &[u8]) {
        let mut flags = flags;
        if self.stacks && context == LOOP && flags & flag::RECEIVED == 0 {
            let stack = Stack { header: self.header(kind::STACK, context, 0), count: 1, cut: 0 };
            self.engine.fact(&Fact::Stack { stack, frames: &RUN.to_le_bytes() });
            flags |= flag::STACKED;
        }
        let mut header = self.header(kind::DATA, context, flags | flag::FILE_CALL);
        header.buffer = adder_ebpf::buffer_of(std::mem::take(&mut self.place));
        let moved = &mut self.moved[socket as usize][usize::from(flags & flag::RECEIVED == 0)];
        let (offset, length) = (*moved, bytes.len() as u64);
        *moved += length;
        let data = Data { header, socket, offset, length, fd: socket as i32, ..Data::default() };
        self.engine.fact(&Fact::Data { data, head: bytes, tail: &[] });
    }

    fn gives(&mut self, task: u64, socket: u64) {
        self.gives_bytes(task, socket, 0);
    }

    fn gives_bytes(&mut self, task: u64, socket: u64, length: usize) {
        let header = self.header(kind::GIVEN, task, 0);
        self.engine.fact(&Fact::Given(Item { header, item: socket | (length as u64) << 32 }));
    }

    fn buffers(&mut self, task: u64, place: u64) {
        let mut header = self.header(kind::BUFFERED, task, 0);
        header.buffer = adder_ebpf::buffer_of(place);
        self.engine.fact(&Fact::Buffered(Item { header, item: PUBLISH.len() as u64 }));
    }

    fn publishes_from(&mut self, place: u64) {
        self.place = place;
        self.leaves(RABBIT, PUBLISH);
    }

    /// A connection that is seen from its beginning.
    pub(in crate::stitch) fn rabbit(&mut self) {
        self.socket(RABBIT, flag::CONNECTED);
        self.leaves(RABBIT, b"AMQP\0\0\x09\x01");
    }

    fn closes(&mut self, fd: u64) {
        let header = self.header(kind::CLOSE, LOOP, 0);
        self.engine.fact(&Fact::Close(adder_ebpf::Close { header, fd: fd as i32, ..Default::default() }));
    }

    /// At the end of a turn this leaves.
    pub(in crate::stitch) fn leaves(&mut self, socket: u64, bytes: &[u8]) {
        self.data(socket, 0, LOOP, bytes);
    }

    /// All is answered: below which requests the commands are, by their places.
    fn owners(&mut self, commands: usize) -> Vec<Option<usize>> {
        for _ in 0..commands {
            self.data(REDIS, flag::RECEIVED, LOOP, b"$1\r\n1\r\n");
        }
        self.places(Kind::Client, commands)
    }

    /// The requests are answered: below which of them all spans of this kind are.
    pub(in crate::stitch) fn places(&mut self, kind: Kind, count: usize) -> Vec<Option<usize>> {
        for (client, task) in CLIENTS.into_iter().zip(TASKS) {
            self.gives(task, client);
            self.leaves(client, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        let header = self.header(0, LOOP, 0);
        self.engine.fact(&Fact::End(header));
        let spans = self.engine.spans();
        let of = |kind: Kind| spans.iter().filter(move |span| span.kind == kind);
        let mut servers: Vec<&Span> = of(Kind::Server).collect();
        servers.sort_by_key(|span| span.start);
        let place =
            |span: &Span| servers.iter().position(|server| Some(server.span_id) == span.parent_span_id);
        let mut calls: Vec<&Span> = of(kind).collect();
        calls.sort_by_key(|span| span.start);
        assert_eq!(calls.len(), count);
        calls.into_iter().map(place).collect()
    }
}

#[test]
fn what_leaves_is_of_who_has_given_it() {
    let mut rig = Rig::new();
    rig.gives(TASKS[0], REDIS);
    rig.leaves(REDIS, GET);
    rig.gives(TASKS[1], REDIS);
    // The parts of one call follow each other.
    rig.leaves(REDIS, &GET[..4]);
    rig.leaves(REDIS, &GET[4..]);
    rig.leaves(REDIS, GET);
    assert_eq!(rig.owners(3), [Some(0), Some(1), Some(1)]);
}

#[test]
fn what_several_have_given_is_nobodys() {
    let mut rig = Rig::new();
    rig.gives(TASKS[0], REDIS);
    rig.gives(TASKS[1], REDIS);
    rig.leaves(REDIS, GET);
    rig.leaves(REDIS, GET);
    rig.gives(TASKS[0], REDIS);
    rig.gives(TASKS[0], REDIS);
    rig.leaves(REDIS, GET);
    assert_eq!(rig.owners(3), [None, None, Some(0)]);
}

#[test]
fn what_several_have_given_leaves_in_that_order() {
    let mut rig = Rig::new();
    for task in [TASKS[0], TASKS[1], TASKS[0]] {
        rig.gives_bytes(task, REDIS, GET.len());
    }
    rig.leaves(REDIS, GET);
    rig.leaves(REDIS, &GET[..4]);
    // A full socket takes the rest some time later.
    rig.gives(TASKS[0], CLIENTS[0]);
    rig.gives_bytes(TASKS[1], REDIS, GET.len());
    rig.leaves(REDIS, &GET[4..]);
    rig.leaves(REDIS, GET);
    rig.leaves(REDIS, GET);
    assert_eq!(rig.owners(4), [Some(0), Some(1), Some(0), Some(1)]);
}

#[test]
fn what_leaves_and_was_not_given_so_is_nobodys() {
    let mut rig = Rig::new();
    rig.gives_bytes(TASKS[0], REDIS, GET.len() - 1);
    rig.leaves(REDIS, GET);
    rig.gives_bytes(TASKS[1], REDIS, GET.len());
    rig.leaves(REDIS, GET);
    assert_eq!(rig.owners(2), [None, Some(1)]);
}

#[test]
fn what_was_given_before_something_was_lost_is_nobodys() {
    let mut rig = Rig::new();
    rig.gives_bytes(TASKS[0], REDIS, GET.len());
    rig.leaves(REDIS, GET);
    for task in TASKS {
        rig.gives_bytes(task, REDIS, GET.len());
    }
    // The fact of the first was lost.
    rig.moved[REDIS as usize][1] += GET.len() as u64;
    rig.leaves(REDIS, GET);
    rig.gives_bytes(TASKS[1], REDIS, GET.len());
    rig.leaves(REDIS, GET);
    let owners = rig.owners(3);
    assert_eq!((owners[0], owners[2]), (Some(0), Some(1)));
    assert_ne!(owners[1], Some(0));
}

#[test]
fn what_leaves_some_time_later_is_nobodys() {
    let mut rig = Rig::new();
    rig.gives(TASKS[0], REDIS);
    rig.leaves(REDIS, GET);
    rig.gives(TASKS[1], CLIENTS[1]);
    rig.leaves(REDIS, GET);
    assert_eq!(rig.owners(2), [Some(0), None]);
}

#[test]
fn a_new_connection_is_given_nothing_by_what_was_given_to_another_of_its_number() {
    let mut rig = Rig::new();
    rig.gives(TASKS[0], REDIS);
    rig.closes(REDIS);
    rig.moved[REDIS as usize] = [0; 2];
    rig.socket(REDIS, flag::CONNECTED);
    rig.leaves(REDIS, GET);
    assert_eq!(rig.owners(1), [None]);
}

#[test]
fn what_leaves_from_a_place_in_memory_is_of_who_has_put_it_there() {
    let mut rig = Rig::new();
    rig.rabbit();
    let places = [PLACE, PLACE + 0x1000, PLACE + 0x2000];
    rig.buffers(TASKS[0], places[0]);
    rig.buffers(TASKS[1], places[1]);
    rig.publishes_from(places[0]);
    rig.publishes_from(places[1]);
    rig.publishes_from(places[2]);
    // It has left.
    rig.publishes_from(places[0]);
    assert_eq!(rig.places(Kind::Producer, 4), [Some(0), Some(1), None, None]);
}

/// The first request has put a publish in memory.
fn buffered() -> Rig {
    let mut rig = Rig::new();
    rig.rabbit();
    rig.buffers(TASKS[0], PLACE);
    rig
}

#[test]
fn what_was_put_in_memory_is_nobodys_when_it_could_be_others_by_now() {
    let mut rig = buffered();
    rig.time += BUFFERED_WITHIN;
    rig.publishes_from(PLACE);
    rig.buffers(TASKS[0], PLACE);
    let header = rig.header(0, LOOP, 0);
    rig.engine.fact(&Fact::Dropped(header, 1));
    rig.publishes_from(PLACE);
    assert_eq!(rig.places(Kind::Producer, 2), [None, None]);
}

#[test]
fn what_was_put_in_memory_leaves_only_through_its_own_kind_of_connection() {
    let mut rig = buffered();
    rig.place = PLACE;
    rig.leaves(REDIS, GET);
    assert_eq!(rig.owners(1), [None]);
}

#[test]
fn what_was_put_in_memory_is_sent_no_more_when_its_connection_is_closed() {
    let mut rig = buffered();
    rig.closes(31);
    rig.publishes_from(PLACE);
    rig.buffers(TASKS[0], PLACE);
    rig.closes(RABBIT);
    rig.moved[RABBIT as usize] = [0; 2];
    rig.rabbit();
    rig.publishes_from(PLACE);
    assert_eq!(rig.places(Kind::Producer, 2), [Some(0), None]);
}
