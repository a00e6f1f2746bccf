//! Connections: from calls on file descriptors to the two byte streams of each socket, and the protocol on them.
//!
//! A socket is known by its inode number, which descriptors share however they were duplicated, inherited or passed
//! on; descriptors are counted only to know when the last one was closed. Of an encrypted one the plaintext comes from
//! its TLS library (`tls`), and goes the same way from there on.

mod detect;
mod ends;
mod sessions;
#[cfg(test)]
mod tests;
mod tls;
mod windows;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use adder_ebpf::{Close, Data, Socket, flag};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use self::{
    ends::endpoints,
    sessions::{Key, Layer, Sessions},
};
use crate::{
    protocol::{self, Event, LossReason, Mark, Parser, Side, Unread, websocket::WebSocket},
    signal::{Address, Endpoints, Role},
};

/// Newly found protocols that wait to be asked for.
const FOUND_MAX: usize = 4096;
/// Connections followed at once; beyond it the ones longest without traffic are given up.
const CONNECTIONS_MAX: usize = 65_536;

/// A protocol that Adder understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.
    Http,
    /// HTTP/2, and gRPC on it.
    Http2,
    /// Postgres.
    Postgres,
    /// Redis.
    Redis,
    /// AMQP 0-9-1.
    Amqp,
    /// WebSocket.
    WebSocket,
}

/// Number of a connection; never reused in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

enum State {
    /// Too few bytes seen.
    Undecided { tries: u32, kept: Vec<(Direction, Vec<u8>, Mark)> },
    /// Understood.
    Parsing { protocol: Protocol, parser: Box<dyn Parser>, role: Role },
    /// Not understood, or no longer.
    Opaque,
}

impl State {
    fn new() -> Self {
        Self::Undecided { tries: 0, kept: Vec::new() }
    }
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Received,
    Sent,
}

/// One connection as one end of it sees it.
pub struct Connection {
    /// Its number.
    pub id: ConnectionId,
    /// Its ends.
    pub endpoints: Arc<Endpoints>,
    /// Network namespace.
    netns: u32,
    role: Option<Role>,
    /// All that was said on it so far was understood.
    whole: bool,
    /// What is known of what it says; of an encrypted one, of the plaintext.
    state: State,
    /// Its encryption.
    tls: Option<Box<Layer>>,
    /// The object of a TLS library that has made what was given to it to be sent later, and whether in its handshake.
    offered: Option<(Key, bool)>,
    /// Stream positions up to which bytes were taken: received, sent.
    taken: [u64; 2],
    descriptors: Vec<(u32, i32)>,
    last: u64,
}

/// Something was understood on a connection.
pub struct Happened {
    /// On which connection.
    pub connection: ConnectionId,
    /// In which protocol.
    pub protocol: Protocol,
    /// Which part the watched process plays.
    pub role: Role,
    /// The ends.
    pub endpoints: Arc<Endpoints>,
    /// Network namespace.
    pub netns: u32,
    /// Process that moved the bytes.
    pub pid: u32,
    /// The bytes were moved before the last fact: it was not known until then where they belong.
    pub late: bool,
    /// All that was said on the connection so far was seen.
    pub whole: bool,
    /// What.
    pub event: Event,
}

/// Counts of what could not be followed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Connections seen.
    pub connections: u64,
    /// Connections whose protocol stayed unknown.
    pub opaque: u64,
    /// Encrypted connections.
    pub encrypted: u64,
    /// Encrypted connections whose plaintext was seen.
    pub decrypted: u64,
    /// TLS objects whose socket was not found: what they say has spans without a peer.
    pub detached: u64,
    /// Bytes of plaintext whose connection was not found in time, by the bounds of what is kept of them.
    pub unplaced_bytes: u64,
    /// Connections given up because there were too many.
    pub evicted: u64,
    /// Bytes on connections whose protocol is unknown.
    pub opaque_bytes: u64,
    /// Bytes that the capture did not copy or that found no room in the ring buffer.
    pub gap_bytes: u64,
    /// Bytes that a parser could not use, by reason: gap, malformed, too large, resynchronised.
    pub lost_bytes: [u64; 4],
    /// How often, likewise.
    pub lost: [u64; 4],
    /// Messages with which descriptors were passed to another process (`SCM_RIGHTS`).
    pub rights: u64,
}

/// All connections of the watched processes.
#[derive(Default)]
pub struct Connections {
    by_socket: FxHashMap<u64, Connection>,
    by_descriptor: FxHashMap<(u32, i32), u64>,
    /// Socket by ends: namespace, local, remote. Finds the other end of a connection between watched processes.
    by_ends: FxHashMap<(u32, Address, Address), u64>,
    sessions: Sessions,
    /// Processes that send at the end of a turn of their loop.
    late_writers: FxHashSet<u32>,
    /// What is understood now was said before: [`Happened::late`].
    late: bool,
    next: u64,
    events: Vec<Event>,
    found: Vec<(Protocol, u32)>,
    /// Processes with streams that cannot be read, and what these want.
    unread: BTreeSet<(u32, Unread)>,
    counters: Counters,
}

impl Connections {
    /// What could not be followed.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Protocols that were found since the last call, and the processes that speak them.
    pub fn found(&mut self) -> Vec<(Protocol, u32)> {
        std::mem::take(&mut self.found)
    }

    /// A socket was seen for the first time.
    pub fn socket(&mut self, fact: &Socket, mark: Mark, out: &mut VecDeque<Happened>) {
        let endpoints = endpoints(fact);
        let new = fact.header.flags & (flag::CONNECTED | flag::ACCEPTED) != 0;
        if let Some(known) = self.by_socket.get_mut(&fact.socket) {
            let ends = &known.endpoints;
            let same = ends.local == endpoints.local && ends.remote == endpoints.remote;
            if same && !new {
                // The kernel side has forgotten the stream positions and counts from 0 again.
                known.taken = [0; 2];
                return;
            }
            if same && fact.header.flags & flag::CONNECTED != 0 && known.taken == [0; 2] {
                // `connect` called again to learn how a pending one went.
                return;
            }
            self.end(fact.socket, mark, out);
        }
        self.counters.connections += 1;
        self.next += 1;
        let role = if fact.header.flags & flag::CONNECTED != 0 {
            Some(Role::Client)
        } else if fact.header.flags & flag::ACCEPTED != 0 {
            Some(Role::Server)
        } else {
            None
        };
        self.by_ends.insert((fact.netns, endpoints.local.clone(), endpoints.remote.clone()), fact.socket);
        let connection = Connection {
            id: ConnectionId(self.next),
            endpoints: Arc::new(endpoints),
            netns: fact.netns,
            role,
            whole: role.is_some(),
            state: State::new(),
            tls: None,
            offered: None,
            taken: [0; 2],
            descriptors: Vec::new(),
            last: mark.time,
        };
        self.by_socket.insert(fact.socket, connection);
        self.descriptor(mark.pid, fact.fd, fact.socket, mark, out);
        if self.by_socket.len() > CONNECTIONS_MAX {
            self.evict(mark, out);
        }
    }

    /// The protocol of what a socket carries in plain text, where it is known.
    pub fn protocol(&self, socket: u64) -> Option<Protocol> {
        match &self.by_socket.get(&socket)?.state {
            State::Parsing { protocol, .. } => Some(*protocol),
            State::Undecided { .. } | State::Opaque => None,
        }
    }

    /// The same of the connection that a process has at a descriptor.
    pub fn protocol_at(&self, pid: u32, fd: i32) -> Option<Protocol> {
        self.protocol(*self.by_descriptor.get(&(pid, fd))?)
    }

    /// Bytes went through a socket.
    pub fn data(&mut self, data: &Data, head: &[u8], tail: &[u8], mark: Mark, out: &mut VecDeque<Happened>) {
        self.counters.rights += u64::from(data.header.flags & flag::RIGHTS != 0);
        self.descriptor(mark.pid, data.fd, data.socket, mark, out);
        let Some(connection) = self.by_socket.get_mut(&data.socket) else {
            // Its first fact found no room in the ring buffer.
            self.counters.opaque_bytes += data.length;
            return;
        };
        connection.last = mark.time;
        let undecided = connection.is_undecided();
        let received = data.header.flags & flag::RECEIVED != 0;
        let direction = if received { Direction::Received } else { Direction::Sent };
        let taken = &mut connection.taken[usize::from(!received)];
        let missing = data.offset.saturating_sub(*taken);
        *taken = data.offset + data.length;
        if missing > 0 {
            self.counters.gap_bytes += missing;
            connection.gap(direction, missing, mark, &mut self.events);
        }
        connection.take(direction, head, mark, &mut self.events, &mut self.counters);
        let between = data.length.saturating_sub(head.len() as u64 + tail.len() as u64);
        if between > 0 {
            self.counters.gap_bytes += between;
            connection.gap(direction, between, mark, &mut self.events);
            connection.take(direction, tail, mark, &mut self.events, &mut self.counters);
        }
        if connection.tls.is_some() {
            return self.ciphertext(data.socket, direction, mark, out);
        }
        if undecided {
            self.note_found(data.socket, mark.pid);
        }
        self.hand_out(data.socket, mark.pid, out);
    }

    /// Notes the protocol of a connection that was undecided before, once it is known.
    fn note_found(&mut self, socket: u64, pid: u32) {
        if let Some(State::Parsing { protocol, .. }) = self.by_socket.get(&socket).map(|known| &known.state)
            && self.found.len() < FOUND_MAX
        {
            self.found.push((*protocol, pid));
        }
    }

    /// A descriptor was closed.
    pub fn close(&mut self, close: &Close, mark: Mark, out: &mut VecDeque<Happened>) {
        let key = (mark.pid, close.fd);
        let Some(socket) = self.by_descriptor.get(&key).copied() else { return };
        if close.now != 0 && u64::from(close.now) == socket {
            // Of what was there before: another thread was given the number before this one could report.
            return;
        }
        self.by_descriptor.remove(&key);
        self.release(socket, mark.pid, close.fd, mark, out);
    }

    /// A process has ended.
    pub fn exit(&mut self, mark: Mark, out: &mut VecDeque<Happened>) {
        let own = self.by_descriptor.iter().filter(|(key, _)| key.0 == mark.pid);
        let mut own: Vec<_> = own.map(|(key, socket)| (key.1, *socket)).collect();
        // The table's order is not the recording's: sort, or replays would differ.
        own.sort_unstable();
        for (fd, socket) in own {
            self.by_descriptor.remove(&(mark.pid, fd));
            self.release(socket, mark.pid, fd, mark, out);
        }
        self.sessions.exit(mark.pid);
        self.late_writers.remove(&mark.pid);
    }

    /// The connection of a watched process at the other end of one with these ends. All connections to one path have the same.
    pub fn peer(&self, netns: u32, ends: &Endpoints) -> Option<ConnectionId> {
        if matches!(ends.remote, Address::Unix(_)) {
            return None;
        }
        let socket = self.by_ends.get(&(netns, ends.remote.clone(), ends.local.clone()))?;
        self.by_socket.get(socket).map(|connection| connection.id)
    }

    fn descriptor(&mut self, pid: u32, fd: i32, socket: u64, mark: Mark, out: &mut VecDeque<Happened>) {
        let before = self.by_descriptor.insert((pid, fd), socket);
        if before == Some(socket) {
            return;
        }
        if let Some(before) = before {
            self.release(before, pid, fd, mark, out);
        }
        if let Some(connection) = self.by_socket.get_mut(&socket) {
            connection.descriptors.push((pid, fd));
        }
    }

    fn release(&mut self, socket: u64, pid: u32, fd: i32, mark: Mark, out: &mut VecDeque<Happened>) {
        let Some(connection) = self.by_socket.get_mut(&socket) else { return };
        connection.descriptors.retain(|known| *known != (pid, fd));
        if connection.descriptors.is_empty() {
            self.end(socket, mark, out);
        }
    }

    /// Ends a connection.
    fn end(&mut self, socket: u64, mark: Mark, out: &mut VecDeque<Happened>) {
        if let Some(connection) = self.by_socket.get_mut(&socket)
            && let State::Parsing { parser, .. } = &mut connection.state
        {
            parser.close(mark, &mut self.events);
            self.hand_out(socket, mark.pid, out);
        }
        let Some(connection) = self.by_socket.remove(&socket) else { return };
        if let Some(session) = connection.tls.as_ref().and_then(|layer| layer.session)
            && let Some(session) = self.sessions.get_mut(session)
        {
            session.socket = None;
        }
        for key in &connection.descriptors {
            if self.by_descriptor.get(key) == Some(&socket) {
                self.by_descriptor.remove(key);
            }
        }
        let ends =
            (connection.netns, connection.endpoints.local.clone(), connection.endpoints.remote.clone());
        if self.by_ends.get(&ends) == Some(&socket) {
            self.by_ends.remove(&ends);
        }
    }

    fn evict(&mut self, mark: Mark, out: &mut VecDeque<Happened>) {
        let mut oldest: Vec<_> = self.by_socket.iter().map(|(socket, c)| (c.last, *socket)).collect();
        oldest.sort_unstable();
        for (_, socket) in oldest.into_iter().take(CONNECTIONS_MAX / 16) {
            self.counters.evicted += 1;
            self.end(socket, mark, out);
        }
    }

    /// Passes on what the parser has understood.
    fn hand_out(&mut self, socket: u64, pid: u32, out: &mut VecDeque<Happened>) {
        if self.events.is_empty() {
            return;
        }
        let Some(connection) = self.by_socket.get_mut(&socket) else { return self.events.clear() };
        let State::Parsing { protocol, role, .. } = connection.state else { return self.events.clear() };
        let mut upgraded = None;
        for event in self.events.drain(..) {
            if let Event::Lost { reason, bytes } = &event {
                let at = match reason {
                    LossReason::Gap => 0,
                    LossReason::Malformed => 1,
                    LossReason::TooLarge => 2,
                    LossReason::Resync => 3,
                };
                self.counters.lost[at] += 1;
                self.counters.lost_bytes[at] += bytes;
                connection.whole = false;
            }
            match event {
                Event::Upgrade { protocol: next, at, opening, request, response } => match next.as_str() {
                    "websocket" => {
                        let inbound = side(role, Direction::Received);
                        let parser = Box::new(WebSocket::new(&opening.unwrap_or_default(), inbound));
                        connection.state = State::Parsing { protocol: Protocol::WebSocket, parser, role };
                        upgraded = Some((request, response, at));
                        if self.found.len() < FOUND_MAX {
                            self.found.push((Protocol::WebSocket, pid));
                        }
                    }
                    "tls" => {
                        self.counters.encrypted += 1;
                        connection.tls = Some(Box::default());
                        connection.state = State::new();
                    }
                    // Whatever the other end of the tunnel speaks.
                    "connect" => connection.state = State::new(),
                    // The other protocols behind an upgrade are not understood yet.
                    _ => {
                        self.counters.opaque += 1;
                        connection.state = State::Opaque;
                    }
                },
                Event::Unread(want) => {
                    self.unread.insert((pid, want));
                }
                event => out.push_back(Happened {
                    connection: connection.id,
                    protocol,
                    role,
                    endpoints: connection.endpoints.clone(),
                    netns: connection.netns,
                    pid,
                    late: self.late,
                    // What was encrypted may have been said before it could be read.
                    whole: connection.whole && connection.tls.is_none(),
                    event,
                }),
            }
        }
        if let Some((request, response, at)) = upgraded
            && let State::Parsing { parser, .. } = &mut connection.state
        {
            parser.data(Side::Request, &request, at, &mut self.events);
            parser.data(Side::Response, &response, at, &mut self.events);
            self.hand_out(socket, pid, out);
        }
    }
}

impl Connection {
    fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided { .. })
    }

    fn gap(&mut self, direction: Direction, length: u64, mark: Mark, events: &mut Vec<Event>) {
        match &mut self.tls {
            Some(layer) => layer.gap(direction, length),
            None => self.plain_gap(direction, length, mark, events),
        }
    }

    fn take(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        mark: Mark,
        events: &mut Vec<Event>,
        counters: &mut Counters,
    ) {
        match &mut self.tls {
            Some(layer) => layer.take(direction, bytes),
            None => self.plain(direction, bytes, mark, events, counters),
        }
    }

    fn plain_gap(&mut self, direction: Direction, length: u64, mark: Mark, events: &mut Vec<Event>) {
        match &mut self.state {
            State::Parsing { parser, role, .. } => parser.gap(side(*role, direction), length, mark, events),
            // What was kept does not join what follows.
            State::Undecided { kept, .. } => {
                kept.clear();
                self.whole = false;
            }
            State::Opaque => {}
        }
    }

    /// Takes bytes that are not encrypted, or no longer.
    fn plain(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        mark: Mark,
        events: &mut Vec<Event>,
        counters: &mut Counters,
    ) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.state {
            State::Parsing { parser, role, .. } => parser.data(side(*role, direction), bytes, mark, events),
            State::Opaque if self.tls.is_none() && protocol::tls::begins(bytes) == Some(true) => {
                // The agent has come in the middle of a record.
                self.encrypt(direction, bytes, counters);
            }
            State::Opaque => counters.opaque_bytes += bytes.len() as u64,
            State::Undecided { .. } => self.decide(direction, bytes, mark, events, counters),
        }
    }

    /// Takes ciphertext, of which it has just shown that it is some.
    fn encrypt(&mut self, direction: Direction, bytes: &[u8], counters: &mut Counters) {
        if self.tls.is_none() {
            counters.encrypted += 1;
            self.state = State::new();
        }
        self.tls.get_or_insert_with(Box::default).take(direction, bytes);
    }
}

fn side(role: Role, direction: Direction) -> Side {
    match (role, direction) {
        (Role::Client, Direction::Sent) | (Role::Server, Direction::Received) => Side::Request,
        (Role::Client, Direction::Received) | (Role::Server, Direction::Sent) => Side::Response,
    }
}
