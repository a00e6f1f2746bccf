use adder_ebpf::{Data, Header, Socket, flag, kind};

use super::*;
use crate::{
    fact::{Clock, Fact, ProcessInfo},
    signal::{Kind, Span},
    stitch::{HOLD_MAX, Options, SERVED},
};

const CLIENT: u32 = 7;
const SERVER: u32 = 8;
const PORTS: [u16; 2] = [40_000, 80];
const MILLISECOND: u64 = 1_000_000;

/// A client and a server, each at its end of one connection.
struct Rig {
    engine: Engine,
    moved: [[u64; 2]; 2],
}

impl Rig {
    fn new(flags: [u16; 2]) -> Self {
        Self::of(flags, libc::AF_INET)
    }

    fn of(flags: [u16; 2], family: i32) -> Self {
        let mut rig =
            Self { engine: Engine::new(Options { seed: 1, ..Options::default() }), moved: [[0; 2]; 2] };
        for (pid, flags, ends) in [(CLIENT, flags[0], PORTS), (SERVER, flags[1], [PORTS[1], PORTS[0]])] {
            let header = Header { pid, tid: pid, ..Header::default() };
            rig.engine.fact(&Fact::Process(header, ProcessInfo::default()));
            rig.engine.fact(&Fact::Clock(header, Clock { offset: 0 }));
            // SAFETY: a structure of integers.
            let mut fact: Socket = unsafe { std::mem::zeroed() };
            (fact.header, fact.socket, fact.fd) = (header, u64::from(pid), 5);
            (fact.header.kind, fact.header.flags) = (kind::SOCKET, flags);
            (fact.family, fact.local_port, fact.remote_port) = (family as u16, ends[0], ends[1]);
            rig.engine.fact(&Fact::Socket(Box::new(fact)));
        }
        rig
    }

    /// Both saw the connection begin.
    fn whole() -> Self {
        Self::new([flag::CONNECTED, flag::ACCEPTED])
    }

    fn data(&mut self, time: u64, pid: u32, flags: u16, bytes: &[u8]) {
        let moved = &mut self.moved[usize::from(pid == SERVER)][usize::from(flags == 0)];
        let (offset, length) = (*moved, bytes.len() as u64);
        *moved += length;
        let time = time * MILLISECOND;
        let header = Header { time, pid, tid: pid, kind: kind::DATA, flags, ..Header::default() };
        let data = Data { header, socket: u64::from(pid), offset, length, fd: 5, ..Data::default() };
        self.engine.fact(&Fact::Data { data, head: bytes, tail: &[] });
    }

    fn asks(&mut self, time: u64, method: &str) {
        self.data(time, CLIENT, 0, format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    }

    fn is_asked(&mut self, time: u64, method: &str) {
        self.data(time, SERVER, flag::RECEIVED, format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    }

    fn answers(&mut self, time: u64) {
        self.data(time, SERVER, 0, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }

    fn is_answered(&mut self, time: u64) {
        self.data(time, CLIENT, flag::RECEIVED, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }

    /// A whole exchange, one millisecond between its parts.
    fn exchange(&mut self, time: u64, method: &str) {
        self.asks(time, method);
        self.is_asked(time + 1, method);
        self.answers(time + 2);
        self.is_answered(time + 3);
    }

    /// The same, but the client runs again only when the server has answered.
    fn late_exchange(&mut self, time: u64, method: &str) {
        self.is_asked(time, method);
        self.answers(time + 1);
        self.asks(time + 2, method);
        self.is_answered(time + 3);
    }

    /// Bytes move that find no room in the ring buffer.
    fn misses(&mut self, pid: u32, flags: u16) {
        self.moved[usize::from(pid == SERVER)][usize::from(flags == 0)] += 50;
    }

    /// The methods of the requests that the server has taken, each with that of the call above it.
    fn pairs(&mut self) -> Vec<(String, Option<String>)> {
        self.engine.fact(&Fact::End(Header { time: 1_000 * MILLISECOND, ..Header::default() }));
        let spans = self.engine.spans();
        let method = |span: &Span| span.name.split(' ').next().unwrap_or_default().to_owned();
        let caller = |span: &Span| spans.iter().find(|call| Some(call.span_id) == span.parent_span_id);
        let mut requests: Vec<_> = spans.iter().filter(|span| span.kind == Kind::Server).collect();
        requests.sort_by_key(|span| span.start);
        requests.into_iter().map(|span| (method(span), caller(span).map(method))).collect()
    }
}

/// What the pairs should be.
fn pairs(of: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    of.iter().map(|(method, caller)| ((*method).to_owned(), caller.map(str::to_owned))).collect()
}

#[test]
fn a_call_that_is_reported_when_all_is_answered_finds_its_request() {
    let mut rig = Rig::whole();
    for (start, method) in [(10, "GET"), (20, "PUT")] {
        rig.late_exchange(start, method);
    }
    assert_eq!(rig.pairs(), pairs(&[("GET", Some("GET")), ("PUT", Some("PUT"))]));
}

#[test]
fn a_call_whose_request_was_not_seen_leaves_the_next_one_alone() {
    let mut rig = Rig::whole();
    rig.asks(10, "GET");
    rig.misses(SERVER, flag::RECEIVED);
    rig.misses(SERVER, 0);
    rig.is_answered(12);
    rig.exchange(20, "PUT");
    rig.late_exchange(31, "POST");
    assert_eq!(rig.pairs(), pairs(&[("PUT", Some("PUT")), ("POST", Some("POST"))]));
}

#[test]
fn a_request_whose_call_was_not_seen_has_none() {
    // Both were there before the agent: the client's first call is seen only when the server has answered one before.
    let mut rig = Rig::new([0; 2]);
    rig.is_asked(10, "GET");
    rig.answers(11);
    rig.exchange(12, "PUT");
    // From here on the client's side is known.
    rig.late_exchange(20, "POST");
    assert_eq!(rig.pairs(), pairs(&[("GET", None), ("PUT", Some("PUT")), ("POST", Some("POST"))]));
}

#[test]
fn after_a_loss_a_call_is_not_given_what_was_answered_before() {
    let mut rig = Rig::whole();
    rig.exchange(10, "GET");
    rig.is_asked(21, "PUT");
    rig.answers(22);
    rig.misses(CLIENT, 0);
    rig.misses(CLIENT, flag::RECEIVED);
    rig.exchange(30, "POST");
    assert_eq!(rig.pairs(), pairs(&[("GET", Some("GET")), ("PUT", None), ("POST", Some("POST"))]));
}

#[test]
fn a_request_whose_trace_stands_is_joined_no_more() {
    let mut rig = Rig::whole();
    rig.is_asked(10, "GET");
    rig.engine
        .fact(&Fact::Clock(Header { time: 61 * MILLISECOND, ..Header::default() }, Clock { offset: 0 }));
    rig.asks(62, "GET");
    rig.answers(63);
    rig.is_answered(64);
    assert_eq!(rig.pairs(), pairs(&[("GET", None)]));
}

#[test]
fn what_was_missed_before_it_was_known_what_is_spoken_counts() {
    let mut rig = Rig::whole();
    rig.is_asked(10, "GET");
    rig.answers(11);
    rig.misses(CLIENT, 0);
    rig.misses(CLIENT, flag::RECEIVED);
    rig.exchange(20, "PUT");
    assert_eq!(rig.pairs(), pairs(&[("GET", None), ("PUT", Some("PUT"))]));
}

#[test]
fn connections_to_one_path_are_not_mixed_up() {
    let mut rig = Rig::of([flag::CONNECTED, flag::ACCEPTED], libc::AF_UNIX);
    rig.exchange(10, "GET");
    assert_eq!(rig.pairs(), pairs(&[("GET", None)]));
}

#[test]
fn calls_that_do_not_wait_for_each_other_are_taken_in_their_order() {
    let mut rig = Rig::whole();
    for (time, method) in [(10, "GET"), (11, "PUT"), (12, "POST")] {
        rig.asks(time, method);
    }
    for (time, method) in [(13, "GET"), (14, "PUT"), (15, "POST")] {
        rig.is_asked(time, method);
        rig.answers(time);
    }
    for time in [16, 17, 18] {
        rig.is_answered(time);
    }
    assert_eq!(rig.pairs(), pairs(&[("GET", Some("GET")), ("PUT", Some("PUT")), ("POST", Some("POST"))]));
}

#[test]
fn the_requests_of_a_connection_are_kept_as_long_as_spans_wait_for_evidence() {
    let mut rig = Rig::whole();
    let kept = |rig: &Rig| rig.engine.exchanges.values().map(|exchanges| exchanges.served.len()).max();
    for number in 0..100 {
        rig.exchange(10 + number * 5, "GET");
    }
    assert_eq!(kept(&rig), Some(100), "no turn of the agent is over yet");
    rig.exchange(HOLD_MAX / MILLISECOND + 1_000, "GET");
    assert_eq!(kept(&rig), Some(SERVED[0]));
}
