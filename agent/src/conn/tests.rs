//! Whose plaintext is which connection's.

use adder_ebpf::{Header, Item, Tls, kind};

use super::{ends::family, *};

const PID: u32 = 7;
const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

/// What `Connections` is told, and what it has understood.
#[derive(Default)]
struct Rig {
    connections: Connections,
    happened: VecDeque<Happened>,
    time: u64,
    positions: FxHashMap<(u64, u16), u64>,
}

/// A record of application data that holds so many bytes.
fn record(plaintext: usize) -> Vec<u8> {
    let mut record = vec![23, 3, 3];
    record.extend_from_slice(&(plaintext as u16 + 17).to_be_bytes());
    record.resize(record.len() + plaintext + 17, 0xaa);
    record
}

impl Rig {
    fn mark(&mut self, tid: u32, context: u32) -> Mark {
        self.time += 1000;
        Mark { time: self.time, pid: PID, tid, context, stack: 0 }
    }

    fn socket(&mut self, socket: u64) {
        self.opened(socket, socket as i32, flag::CONNECTED);
    }

    fn opened(&mut self, socket: u64, fd: i32, flags: u16) {
        let mark = self.mark(1, 1);
        let header = Header { flags, ..Header::default() };
        // SAFETY: a structure of integers.
        let mut fact: Socket = unsafe { std::mem::zeroed() };
        (fact.header, fact.socket, fact.fd, fact.family) = (header, socket, fd, family::INET);
        fact.remote_port = socket as u16;
        self.connections.socket(&fact, mark, &mut self.happened);
    }

    /// A request is received; whether the connection is known and it has begun.
    fn asked(&mut self, socket: u64, fd: i32) -> bool {
        let mark = self.mark(1, 1);
        let header = Header { flags: flag::RECEIVED, ..Header::default() };
        let data = Data { header, socket, length: REQUEST.len() as u64, fd, ..Data::default() };
        self.connections.data(&data, REQUEST, &[], mark, &mut self.happened);
        self.begun() == [socket as u16]
    }

    /// A close has returned: of which number, and what that stood for by then.
    fn closed(&mut self, fd: i32, now: u32) {
        let mark = self.mark(2, 2);
        let close = Close { fd, now, ..Close::default() };
        self.connections.close(&close, mark, &mut self.happened);
    }

    /// Ciphertext goes over a socket.
    fn data(&mut self, socket: u64, flags: u16, bytes: &[u8], (tid, context): (u32, u32)) {
        let mark = self.mark(tid, context);
        let position = self.positions.entry((socket, flags)).or_default();
        let length = bytes.len() as u64;
        let header = Header { flags, ..Header::default() };
        let data = Data { header, socket, offset: *position, length, fd: socket as i32, ..Data::default() };
        *position += length;
        self.connections.data(&data, bytes, &[], mark, &mut self.happened);
    }

    /// Plaintext goes through an object.
    fn tls(&mut self, ssl: u64, flags: u16, bytes: &[u8], (tid, context): (u32, u32)) {
        let mark = self.mark(tid, context);
        let position = self.positions.entry((ssl, flags)).or_default();
        let length = bytes.len() as u64;
        let header = Header { flags: flags | flag::DETACHED, ..Header::default() };
        let tls = Tls { header, ssl, offset: *position, length, ..Tls::default() };
        *position += length;
        self.connections.tls(&tls, bytes, &[], mark, &mut self.happened);
    }

    /// Something is given to a connection that is sent later.
    fn gives(&mut self, socket: u64, (tid, context): (u32, u32)) {
        let mark = self.mark(tid, context);
        self.connections.given(mark, socket as i32);
    }

    fn item(&mut self, kind: u16, ssl: u64, (tid, context): (u32, u32)) {
        let mark = self.mark(tid, context);
        let item = Item { item: ssl, ..Item::default() };
        if kind == kind::TLS_FREE {
            self.positions.retain(|key, _| key.0 != ssl);
            self.connections.tls_free(&item, mark, &mut self.happened);
        } else {
            self.connections.tls_handshake(&item, mark, &mut self.happened);
        }
    }

    /// Remote ports of the connections on which requests have begun, since the last call.
    fn begun(&mut self) -> Vec<u16> {
        let begun = self.happened.drain(..).filter(|happened| matches!(happened.event, Event::Begin { .. }));
        let port = |happened: Happened| match happened.endpoints.remote {
            Address::Inet(remote) => remote.port(),
            _ => 0,
        };
        begun.map(port).collect()
    }
}

#[test]
fn a_close_that_is_reported_late_is_of_what_was_there_before() {
    // Of a descriptor that was watched, and of one that was not.
    for before in [Some(101), None] {
        let mut rig = Rig::default();
        if let Some(before) = before {
            rig.opened(before, 9, flag::ACCEPTED);
        }
        rig.opened(102, 9, flag::ACCEPTED);
        rig.closed(9, 102);
        assert!(rig.asked(102, 9));
        rig.closed(9, 0);
        assert!(rig.connections.by_socket.is_empty() && rig.connections.by_descriptor.is_empty());
    }
}

#[test]
fn the_next_close_of_a_number_that_was_made_to_stand_for_another_is_its_own() {
    let mut rig = Rig::default();
    rig.opened(101, 9, flag::ACCEPTED);
    // As `dup2` does, without a `close`.
    rig.opened(102, 9, flag::ACCEPTED);
    assert!(rig.asked(102, 9));
    rig.closed(9, 0);
    assert!(rig.connections.by_socket.is_empty());
}

const HELLO: &[u8] = &[22, 3, 1, 0, 4, 1, 0, 0, 0];

#[test]
fn a_handshake_that_is_sent_at_once_shows_the_connection() {
    let mut rig = Rig::default();
    for (ssl, socket, context) in [(0x10, 101, 1), (0x20, 102, 2)] {
        rig.socket(socket);
        rig.item(kind::TLS_HANDSHAKE, ssl, (1, context));
        rig.data(socket, 0, HELLO, (1, context));
    }
    // The second writes first, and both are sent later, together.
    rig.tls(0x20, 0, REQUEST, (1, 2));
    assert_eq!(rig.begun(), [102]);
    rig.tls(0x10, 0, REQUEST, (1, 1));
    assert_eq!(rig.begun(), [101]);
    assert_eq!((rig.connections.counters.encrypted, rig.connections.counters.decrypted), (2, 2));
}

#[test]
fn a_write_that_is_sent_at_once_shows_the_connection() {
    let mut rig = Rig::default();
    rig.socket(101);
    rig.data(101, 0, &record(9), (1, 1));
    rig.tls(0x10, 0, REQUEST, (1, 5));
    assert_eq!(rig.begun(), [] as [u16; 0], "not known yet");
    // Another size, another context, another thread: none of these.
    rig.data(101, 0, &record(200), (1, 5));
    rig.tls(0x10, 0, REQUEST, (1, 5));
    rig.data(101, 0, &record(REQUEST.len()), (1, 6));
    rig.tls(0x10, 0, REQUEST, (1, 5));
    rig.data(101, 0, &record(REQUEST.len()), (2, 5));
    assert_eq!(rig.begun(), [] as [u16; 0]);
    rig.data(101, 0, &record(REQUEST.len()), (1, 5));
    assert_eq!(rig.begun(), [101; 3], "with what was written before");
}

#[test]
fn late_writers_send_anybodys() {
    let mut rig = Rig::default();
    rig.connections.writes_late(PID);
    rig.socket(101);
    rig.data(101, 0, &record(9), (1, 1));
    rig.tls(0x10, 0, REQUEST, (1, 5));
    rig.data(101, 0, &record(REQUEST.len()), (1, 5));
    assert_eq!(rig.begun(), [] as [u16; 0]);
}

#[test]
fn what_late_writers_give_at_once_shows_the_connection() {
    let mut rig = Rig::default();
    rig.connections.writes_late(PID);
    // Both go on with their handshakes, and both connections are sent to later, the other way round.
    for (ssl, socket, context) in [(0x10, 101, 1), (0x20, 102, 2)] {
        rig.socket(socket);
        rig.item(kind::TLS_HANDSHAKE, ssl, (1, context));
        rig.gives(socket, (1, context));
    }
    for socket in [102, 101] {
        rig.data(socket, 0, HELLO, (1, 9));
    }
    rig.tls(0x20, 0, REQUEST, (1, 2));
    assert_eq!(rig.begun(), [102]);
    rig.tls(0x10, 0, REQUEST, (1, 1));
    assert_eq!(rig.begun(), [101]);
    // Of one whose handshake was not seen, and what another context has given, which tells nothing.
    rig.socket(103);
    rig.data(103, 0, &record(9), (1, 9));
    for (context, begun) in [(4, vec![]), (3, vec![103; 2])] {
        rig.tls(0x30, 0, REQUEST, (1, 3));
        rig.gives(103, (1, context));
        rig.data(103, 0, &record(REQUEST.len()), (1, 9));
        assert_eq!(rig.begun(), begun);
    }
}

#[test]
fn an_object_at_the_address_of_another_is_another() {
    let mut rig = Rig::default();
    for socket in [101, 102] {
        rig.socket(socket);
        rig.item(kind::TLS_HANDSHAKE, 0x10, (1, 1));
        rig.data(socket, 0, HELLO, (1, 1));
        rig.tls(0x10, 0, REQUEST, (1, 1));
        assert_eq!(rig.begun(), [socket as u16]);
        rig.item(kind::TLS_FREE, 0x10, (1, 1));
    }
    // Also where nobody has said that the first was freed: positions begin anew.
    rig.socket(103);
    rig.item(kind::TLS_HANDSHAKE, 0x10, (1, 1));
    rig.data(103, 0, HELLO, (1, 1));
    rig.tls(0x10, 0, REQUEST, (1, 1));
    rig.positions.clear();
    rig.tls(0x10, 0, REQUEST, (1, 9));
    assert_eq!(rig.begun(), [103], "the second is not the connection's");
}

#[test]
fn what_finds_no_connection_is_understood_without_its_ends() {
    let mut rig = Rig::default();
    for _ in 0..70 {
        rig.tls(0x10, 0, REQUEST, (1, 5));
    }
    assert_eq!(rig.begun(), vec![0; 70]);
    assert_eq!(rig.connections.counters.detached, 1);
}

#[test]
fn a_library_that_uses_the_socket_itself_is_believed_at_once() {
    let mut rig = Rig::default();
    rig.socket(101);
    let mark = rig.mark(1, 0);
    let tls = Tls { socket: 101, ssl: 0x10, length: REQUEST.len() as u64, ..Tls::default() };
    assert!(rig.connections.tls(&tls, REQUEST, &[], mark, &mut rig.happened));
    assert_eq!(rig.begun(), [101]);
}
