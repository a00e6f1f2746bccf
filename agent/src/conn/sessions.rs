//! Which `SSL` object belongs to which connection, and what it has said before that is known.
//!
//! A library that works on the socket itself is seen to do so. One that works on memory (asyncio, uvloop, anyio) is
//! not; there the ciphertext tells:
//!
//! - A thread that has just received a record, and reads plaintext of the record's size, reads that record.
//! - A thread that has written plaintext, and then sends a record of that size, sends that plaintext; where two objects
//!   would fit, neither is believed.
//!
//! What is found holds until the object is freed or the connection closed.

use std::{borrow::Cow, collections::VecDeque};

use rustc_hash::FxHashMap;

use super::Direction;
use crate::protocol::{
    Mark,
    tls::{Records, client_hello, fits, server_hello},
};

/// `SSL` objects followed at once.
const SESSIONS_MAX: usize = 65_536;
/// Threads of which is known what they have moved last.
const THREADS_MAX: usize = 65_536;
/// Plaintext of one object that is kept while its connection is not known: pieces and bytes.
const PIECES_MAX: usize = 64;
const HELD_MAX: usize = 256 * 1024;
/// How long an object's connection is looked for, nanoseconds.
const SEARCH: u64 = 2_000_000_000;
/// Records, and writes, of one thread that have not found their other side.
const UNMATCHED_MAX: usize = 32;
/// How long after a write its record is looked for, nanoseconds.
const WRITE_WINDOW: u64 = 1_000_000_000;

/// An `SSL` object: process and address.
pub(super) type Key = (u32, u64);

/// The encryption of a connection, and what it says in the clear.
#[derive(Default)]
pub(super) struct Layer {
    sent: Records,
    received: Records,
    /// Records of application data that have begun in the bytes that were taken last.
    pub(super) begun: Vec<u16>,
    /// The object that encrypts it.
    pub(super) session: Option<Key>,
    /// Its plaintext has been seen.
    pub(super) readable: bool,
    /// Of the greeting.
    pub(super) server_name: Option<String>,
    pub(super) version: Option<&'static str>,
}

impl Layer {
    pub(super) fn take(&mut self, direction: Direction, bytes: &[u8]) {
        let records = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        records.data(bytes, &mut self.begun);
        for records in [&mut self.sent, &mut self.received] {
            // Whether it is the client's greeting or the server's, its type says.
            if let Some(name) = records.greeting(client_hello) {
                self.server_name = name;
            } else if let Some(version) = records.greeting(server_hello) {
                self.version = Some(version);
            }
        }
    }

    pub(super) fn gap(&mut self, direction: Direction, length: u64) {
        match direction {
            Direction::Sent => self.sent.gap(length),
            Direction::Received => self.received.gap(length),
        }
    }
}

/// Plaintext that went through an object at once.
pub(super) struct Piece<'a> {
    pub(super) direction: Direction,
    /// Bytes before these that were not reported.
    pub(super) missing: u64,
    pub(super) head: Cow<'a, [u8]>,
    /// Bytes between head and tail.
    pub(super) between: u64,
    pub(super) tail: Cow<'a, [u8]>,
    pub(super) mark: Mark,
}

impl Piece<'_> {
    fn into_owned(self) -> Piece<'static> {
        let (head, tail) = (self.head.into_owned().into(), self.tail.into_owned().into());
        Piece { head, tail, ..self }
    }
}

/// An `SSL` object.
#[derive(Default)]
pub(super) struct Session {
    /// The socket of its connection, once it is known.
    pub(super) socket: Option<u64>,
    /// Stream positions up to which plaintext was taken: received, sent.
    pub(super) taken: [u64; 2],
    /// What it has said while its connection is not known.
    held: Vec<Piece<'static>>,
    held_bytes: usize,
    last: u64,
}

impl Session {
    /// Keeps a piece; true where the connection was looked for long enough.
    pub(super) fn hold(&mut self, piece: Piece<'_>) -> bool {
        self.held_bytes += piece.head.len() + piece.tail.len();
        let now = piece.mark.time;
        self.held.push(piece.into_owned());
        let first = self.held.first().map_or(now, |piece| piece.mark.time);
        self.held.len() >= PIECES_MAX || self.held_bytes >= HELD_MAX || first + SEARCH < now
    }

    /// What was kept.
    pub(super) fn release(&mut self) -> Vec<Piece<'static>> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// Bytes of plaintext that were kept and will not be understood.
    pub(super) fn unplaced(&self) -> u64 {
        self.held.iter().map(|piece| piece.head.len() as u64 + piece.between + piece.tail.len() as u64).sum()
    }
}

/// What a thread has moved last.
#[derive(Default)]
struct Moved {
    /// The socket on which it has received, and the records there that nothing was read of.
    received: (u64, VecDeque<u16>),
    /// Plaintext that objects without connection have written: when, which, how much.
    written: VecDeque<(u64, Key, u64)>,
}

/// All objects.
#[derive(Default)]
pub(super) struct Sessions {
    by_object: FxHashMap<Key, Session>,
    threads: FxHashMap<(u32, u32), Moved>,
}

impl Sessions {
    pub(super) fn session(&mut self, key: Key, time: u64) -> &mut Session {
        if self.by_object.len() >= SESSIONS_MAX && !self.by_object.contains_key(&key) {
            self.evict();
        }
        let session = self.by_object.entry(key).or_default();
        session.last = time;
        session
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Session> {
        self.by_object.get_mut(&key)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Session> {
        self.by_object.remove(&key)
    }

    /// A process has ended.
    pub(super) fn exit(&mut self, pid: u32) {
        self.by_object.retain(|key, _| key.0 != pid);
        self.threads.retain(|key, _| key.0 != pid);
    }

    /// Gives up the sixteenth of the objects that was longest without traffic and belongs to no connection, or, where
    /// there are none such, of all.
    fn evict(&mut self) {
        let mut oldest: Vec<_> =
            self.by_object.iter().map(|(key, s)| (s.socket.is_some(), s.last, *key)).collect();
        oldest.sort_unstable();
        for (_, _, key) in oldest.into_iter().take(SESSIONS_MAX / 16) {
            self.by_object.remove(&key);
        }
    }

    fn thread(&mut self, thread: (u32, u32)) -> &mut Moved {
        if self.threads.len() >= THREADS_MAX && !self.threads.contains_key(&thread) {
            // Each has at most a few records that have not found their side; none is needed for long.
            self.threads.clear();
        }
        self.threads.entry(thread).or_default()
    }

    /// A thread has received ciphertext, in which these records of application data begin.
    pub(super) fn received(&mut self, thread: (u32, u32), socket: u64, records: &[u16]) {
        let moved = self.thread(thread);
        if moved.received.0 != socket {
            moved.received = (socket, VecDeque::new());
        }
        moved.received.1.extend(records);
        while moved.received.1.len() > UNMATCHED_MAX {
            moved.received.1.pop_front();
        }
    }

    /// A thread has read so much plaintext: the socket from which it came, if that shows.
    pub(super) fn read(&mut self, thread: (u32, u32), length: u64) -> Option<u64> {
        let (socket, records) = &mut self.threads.get_mut(&thread)?.received;
        let place = records.iter().position(|record| fits(*record, length))?;
        records.drain(..=place);
        Some(*socket)
    }

    /// A thread has written so much plaintext to an object whose connection is not known.
    pub(super) fn wrote(&mut self, thread: (u32, u32), key: Key, length: u64, time: u64) {
        let moved = self.thread(thread);
        moved.written.push_back((time, key, length));
        if moved.written.len() > UNMATCHED_MAX {
            moved.written.pop_front();
        }
    }

    /// A thread has sent ciphertext on a connection whose object is not known, and these records begin in it: the object,
    /// if that shows.
    pub(super) fn sent(&mut self, thread: (u32, u32), records: &[u16], time: u64) -> Option<Key> {
        let by_object = &self.by_object;
        let moved = self.threads.get_mut(&thread)?;
        moved.written.retain(|(written, key, _)| {
            *written + WRITE_WINDOW > time && by_object.get(key).is_some_and(|s| s.socket.is_none())
        });
        let mut fitting = moved.written.iter().filter(|(_, key, length)| {
            key.0 == thread.0 && records.iter().any(|record| fits(*record, *length))
        });
        let first = fitting.next()?.1;
        fitting.all(|(_, key, _)| *key == first).then_some(first)
    }
}
