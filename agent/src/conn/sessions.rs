//! Which `SSL` object belongs to which connection, and what it has said before that is known.
//!
//! A library that works on the socket itself is seen to do so. One that works on memory (asyncio, uvloop, anyio) is
//! not; there it shows in what a thread does next, in the same Python context:
//!
//! - It has received ciphertext, and at once goes on with a handshake, or reads plaintext of the size of a record in it:
//!   event loops call the library as soon as they have read.
//! - It has gone on with a handshake, or has written plaintext, and at once sends records, the first of that size.
//!   uvloop up to 0.22 sends later, and may send another's; there it is given to the connection at once, which is told.
//!
//! What is found holds until the object is freed or the connection closed.

use std::{borrow::Cow, collections::VecDeque};

use rustc_hash::FxHashMap;

use super::Direction;
use crate::protocol::{
    Mark,
    tls::{Greeting, Records, fits},
};

/// `SSL` objects followed at once.
const SESSIONS_MAX: usize = 65_536;
/// Threads of which is known what they have done last.
const THREADS_MAX: usize = 65_536;
/// Plaintext of one object that is kept while its connection is not known: pieces and bytes.
const PIECES_MAX: usize = 64;
const HELD_MAX: usize = 256 * 1024;
/// How long an object's connection is looked for, nanoseconds.
const SEARCH: u64 = 2_000_000_000;
/// Records of one thread of which nothing was read.
const RECORDS_MAX: usize = 32;

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
        match records.greeting() {
            Some(Greeting::Client(name)) => self.server_name = name,
            Some(Greeting::Server(version)) => self.version = version,
            None => {}
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

/// What a thread has done last, as far as it may belong to what it does next.
#[derive(Clone, Copy)]
enum Step {
    /// It has received ciphertext on this socket.
    Received(u64),
    /// It has gone on with this object's handshake.
    Handshake(Key),
    /// It has written plaintext to this object: so much, the first time in a row.
    Wrote(Key, u64),
}

/// A thread.
struct Thread {
    step: Step,
    /// The context in which it was.
    context: u32,
    /// Of received ciphertext: the records of application data that have begun on that socket and of which nothing was
    /// read, as far as they have come in a row.
    records: VecDeque<u16>,
}

/// All objects.
#[derive(Default)]
pub(super) struct Sessions {
    by_object: FxHashMap<Key, Session>,
    threads: FxHashMap<(u32, u32), Thread>,
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

    fn step(&mut self, mark: Mark, step: Step) -> &mut Thread {
        let key = (mark.pid, mark.tid);
        if self.threads.len() >= THREADS_MAX && !self.threads.contains_key(&key) {
            // What a thread has done last matters only for what it does at once.
            self.threads.clear();
        }
        let thread = self.threads.entry(key).or_insert(Thread {
            step,
            context: mark.context,
            records: VecDeque::new(),
        });
        thread.step = step;
        thread.context = mark.context;
        thread
    }

    /// What the thread has done last, if that was in the same context.
    fn before(&mut self, mark: Mark) -> Option<&mut Thread> {
        let thread = self.threads.get_mut(&(mark.pid, mark.tid))?;
        (thread.context == mark.context).then_some(thread)
    }

    /// A thread has received ciphertext, in which these records of application data begin.
    pub(super) fn received(&mut self, mark: Mark, socket: u64, records: &[u16]) {
        let same =
            self.before(mark).is_some_and(|last| matches!(last.step, Step::Received(at) if at == socket));
        let thread = self.step(mark, Step::Received(socket));
        if !same {
            thread.records.clear();
        }
        thread.records.extend(records);
        while thread.records.len() > RECORDS_MAX {
            thread.records.pop_front();
        }
    }

    /// A thread has sent ciphertext in which these records of application data begin: the object that has made it, if
    /// that shows, and whether by its handshake.
    pub(super) fn sent(&mut self, mark: Mark, records: &[u16]) -> Option<(Key, bool)> {
        // Whatever it sends next, it does not do so at once any more.
        let thread = self.threads.remove(&(mark.pid, mark.tid))?;
        match thread.step {
            _ if thread.context != mark.context => None,
            Step::Handshake(key) => Some((key, true)),
            Step::Wrote(key, length) => {
                records.first().is_some_and(|record| fits(*record, length)).then_some((key, false))
            }
            Step::Received(_) => None,
        }
    }

    /// A thread has given something to a connection that is sent later: the object that has made it, if that shows, and
    /// whether by its handshake.
    pub(super) fn gave(&mut self, mark: Mark) -> Option<(Key, bool)> {
        let step = self.before(mark)?.step;
        self.threads.remove(&(mark.pid, mark.tid));
        match step {
            Step::Handshake(key) => Some((key, true)),
            Step::Wrote(key, _) => Some((key, false)),
            Step::Received(_) => None,
        }
    }

    /// A thread goes on with the handshake of an object: the socket from which it has come, if that shows.
    pub(super) fn handshake(&mut self, mark: Mark, key: Key) -> Option<u64> {
        let from = self.before(mark).and_then(|thread| match thread.step {
            Step::Received(socket) => Some(socket),
            Step::Handshake(_) | Step::Wrote(..) => None,
        });
        self.step(mark, Step::Handshake(key));
        from
    }

    /// A thread has read so much plaintext: the socket from which it has come, if that shows.
    pub(super) fn read(&mut self, mark: Mark, length: u64) -> Option<u64> {
        let thread = self.before(mark)?;
        let Step::Received(socket) = thread.step else { return None };
        let place = thread.records.iter().position(|record| fits(*record, length))?;
        thread.records.drain(..=place);
        Some(socket)
    }

    /// A thread has written so much plaintext.
    pub(super) fn wrote(&mut self, mark: Mark, key: Key, length: u64) {
        let again =
            self.before(mark).is_some_and(|last| matches!(last.step, Step::Wrote(to, _) if to == key));
        if !again {
            self.step(mark, Step::Wrote(key, length));
        }
    }
}
