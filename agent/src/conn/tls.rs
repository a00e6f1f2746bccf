//! Encrypted connections: their plaintext comes from the TLS library, and goes to the parser of the connection to which
//! the library's object belongs (see [`super::sessions`]).

use std::{collections::VecDeque, sync::Arc};

use adder_ebpf::{Item, Tls, flag};

use super::{
    Connection, ConnectionId, Connections, Direction, Happened, State,
    sessions::{Key, Layer, Piece},
};
use crate::{
    protocol::Mark,
    signal::{Endpoints, TlsInfo},
};

/// Numbers of the sockets that stand for objects whose own is not known; inode numbers of sockets are below.
const DETACHED: u64 = 1 << 63;

/// How it shows that an object encrypts a connection.
#[derive(Clone, Copy)]
enum Shown {
    /// By the socket that was used in the call, or by the handshake.
    Certainly,
    /// By the size of what was moved, which does not count against another object of the process that is there already.
    BySize {
        /// What was written last has just been sent.
        sent: bool,
    },
}

impl Connections {
    /// Whether bytes on a socket are ciphertext.
    pub fn is_encrypted(&self, socket: u64) -> bool {
        self.by_socket.get(&socket).is_some_and(|connection| connection.tls.is_some())
    }

    /// The same of the connection that a process has at a descriptor.
    pub fn is_encrypted_at(&self, pid: u32, fd: i32) -> bool {
        self.by_descriptor.get(&(pid, fd)).is_some_and(|socket| self.is_encrypted(*socket))
    }

    /// A TLS library has encrypted or decrypted bytes. False where it is not known yet on which connection.
    pub fn tls(
        &mut self,
        tls: &Tls,
        head: &[u8],
        tail: &[u8],
        mark: Mark,
        out: &mut VecDeque<Happened>,
    ) -> bool {
        let key = (mark.pid, tls.ssl);
        let received = tls.header.flags & flag::RECEIVED != 0;
        let direction = if received { Direction::Received } else { Direction::Sent };
        let session = self.sessions.session(key, mark.time);
        let taken = &mut session.taken[usize::from(!received)];
        if tls.offset < *taken {
            // The kernel side counts from 0 again: another object at the same address, of which the end was not told.
            self.free(key, mark, out);
        }
        let session = self.sessions.session(key, mark.time);
        let taken = &mut session.taken[usize::from(!received)];
        let piece = Piece {
            direction,
            missing: tls.offset - *taken,
            head: head.into(),
            between: tls.length.saturating_sub(head.len() as u64 + tail.len() as u64),
            tail: tail.into(),
            mark,
        };
        *taken = tls.offset + tls.length;
        let known = session.socket;
        let found = if tls.socket != 0 {
            Some(tls.socket)
        } else if received {
            known.or_else(|| self.sessions.read(mark, tls.length))
        } else {
            self.sessions.wrote(mark, key, tls.length);
            known
        };
        if let Some(socket) = found
            && known != found
        {
            let how = if tls.socket != 0 { Shown::Certainly } else { Shown::BySize { sent: false } };
            self.bind(key, socket, how, out);
        }
        let Some(session) = self.sessions.get_mut(key) else { return true };
        if let Some(socket) = session.socket {
            self.plaintext(socket, &piece, out);
            return true;
        }
        if session.hold(piece) {
            let socket = self.detach(mark);
            self.bind(key, socket, Shown::Certainly, out);
        }
        false
    }

    /// A TLS library goes on with the handshake of an object.
    pub fn tls_handshake(&mut self, item: &Item, mark: Mark, out: &mut VecDeque<Happened>) {
        let key = (mark.pid, item.item);
        let known = self.sessions.session(key, mark.time).socket;
        let found = self.sessions.handshake(mark, key);
        if let Some(socket) = found.filter(|_| known != found) {
            self.bind(key, socket, Shown::Certainly, out);
        }
    }

    /// A process has given something to a descriptor's connection, to be sent at the end of a turn of its loop.
    pub fn given(&mut self, mark: Mark, fd: i32) {
        let Some(socket) = self.by_descriptor.get(&(mark.pid, fd)) else { return };
        let made_by = self.sessions.gave(mark);
        if let Some(connection) = self.by_socket.get_mut(socket) {
            connection.offered = made_by.or(connection.offered);
        }
    }

    /// A process sends at the end of a turn of its loop, perhaps another's: nothing follows from it but what was given before.
    pub fn writes_late(&mut self, pid: u32) {
        self.late_writers.insert(pid);
    }

    /// A TLS library has freed an object.
    pub fn tls_free(&mut self, item: &Item, mark: Mark, out: &mut VecDeque<Happened>) {
        self.free((mark.pid, item.item), mark, out);
    }

    fn free(&mut self, key: Key, mark: Mark, out: &mut VecDeque<Happened>) {
        let Some(session) = self.sessions.remove(key) else { return };
        self.counters.unplaced_bytes += session.unplaced();
        let Some(socket) = session.socket else { return };
        if socket & DETACHED != 0 {
            return self.end(socket, mark, out);
        }
        if let Some(layer) = self.by_socket.get_mut(&socket).and_then(|known| known.tls.as_mut()) {
            layer.session = None;
        }
    }

    /// Ciphertext has gone over a socket; the records that begin in it are in its layer.
    pub(super) fn ciphertext(
        &mut self,
        socket: u64,
        direction: Direction,
        mark: Mark,
        out: &mut VecDeque<Happened>,
    ) {
        let Some(connection) = self.by_socket.get_mut(&socket) else { return };
        let Some(layer) = connection.tls.as_mut() else { return };
        let found = match direction {
            Direction::Received => {
                self.sessions.received(mark, socket, &layer.begun);
                None
            }
            Direction::Sent => {
                let late = self.late_writers.contains(&mark.pid);
                let sent = self.sessions.sent(mark, &layer.begun);
                let found = if late { connection.offered.take() } else { sent };
                found.filter(|_| layer.session.is_none())
            }
        };
        layer.begun.clear();
        if let Some((key, by_handshake)) = found {
            let how = if by_handshake { Shown::Certainly } else { Shown::BySize { sent: true } };
            self.bind(key, socket, how, out);
        }
    }

    /// An object encrypts the connection of this socket.
    fn bind(&mut self, key: Key, socket: u64, how: Shown, out: &mut VecDeque<Happened>) {
        let Some(connection) = self.by_socket.get_mut(&socket) else { return };
        if connection.tls.is_none() {
            self.counters.encrypted += 1;
        }
        let layer = connection.tls.get_or_insert_with(Box::default);
        let before = layer.session.filter(|before| *before != key);
        // A child process may go on with its parent's connection; within a process objects do not share one.
        if !matches!(how, Shown::Certainly) && before.is_some_and(|before| before.0 == key.0) {
            return;
        }
        layer.session = Some(key);
        if !layer.readable || before.is_some_and(|before| before.1 != key.1) {
            connection.state = State::new();
        }
        if let Some(before) = before.and_then(|before| self.sessions.get_mut(before)) {
            before.socket = None;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let left = session.socket.replace(socket).filter(|left| *left != socket);
        let pieces = session.release();
        if let Some(left) =
            left.filter(|left| left & DETACHED != 0).and_then(|left| self.by_socket.remove(&left))
        {
            // It goes on as what it was while its socket was not known.
            if let Some(connection) = self.by_socket.get_mut(&socket).filter(|known| known.is_undecided()) {
                (connection.id, connection.state) = (left.id, left.state);
            }
        } else if let Some(left) = left.and_then(|left| self.by_socket.get_mut(&left))
            && let Some(layer) = &mut left.tls
        {
            layer.session = None;
        }
        // What was just sent was written just before, the rest long ago.
        let just = usize::from(matches!(how, Shown::BySize { sent: true }));
        let before = pieces.len().saturating_sub(just);
        for (i, piece) in pieces.iter().enumerate() {
            self.late = i < before;
            self.plaintext(socket, piece, out);
        }
        self.late = false;
    }

    /// Plaintext of a connection goes to its parser.
    fn plaintext(&mut self, socket: u64, piece: &Piece<'_>, out: &mut VecDeque<Happened>) {
        let Some(connection) = self.by_socket.get_mut(&socket) else { return };
        let (direction, mark) = (piece.direction, piece.mark);
        connection.last = connection.last.max(mark.time);
        if let Some(layer) = &mut connection.tls
            && !std::mem::replace(&mut layer.readable, true)
        {
            self.counters.decrypted += 1;
            let info = TlsInfo { version: layer.version, server_name: layer.server_name.clone() };
            connection.endpoints = Arc::new(Endpoints { tls: Some(info), ..(*connection.endpoints).clone() });
        }
        let undecided = connection.is_undecided();
        for (gap, bytes) in [(piece.missing, &piece.head), (piece.between, &piece.tail)] {
            if gap > 0 {
                self.counters.gap_bytes += gap;
                connection.plain_gap(direction, gap, mark, &mut self.events);
            }
            connection.plain(direction, bytes, mark, &mut self.events, &mut self.counters);
        }
        if undecided {
            self.note_found(socket, mark.pid);
        }
        self.hand_out(socket, mark.pid, out);
    }

    /// A connection for an object whose own is not known: nothing is said of its ends.
    fn detach(&mut self, mark: Mark) -> u64 {
        self.counters.detached += 1;
        self.next += 1;
        let socket = DETACHED | self.next;
        let connection = Connection {
            id: ConnectionId(self.next),
            endpoints: Arc::default(),
            netns: 0,
            role: None,
            whole: false,
            state: State::new(),
            tls: Some(Box::<Layer>::default()),
            offered: None,
            taken: [0; 2],
            descriptors: Vec::new(),
            last: mark.time,
        };
        self.by_socket.insert(socket, connection);
        socket
    }
}
