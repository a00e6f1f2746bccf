//! Facts: everything the engine ever learns, from the kernel and from the agent's own looks at processes.
//!
//! Kernel facts are the structures of `adder_ebpf` as they lie in the ring buffer. The agent's own facts have the same
//! head and a `postcard` body. Both together are a recording: the engine gives the same signals for the same facts.

use adder_ebpf::{
    Child, Close, Data, HEAD_MAX, Header, Item, Lineage, Socket, Stack, Stream, TAIL_MAX, Text, Tls,
    WINDOW_SIZE, Window, kind,
};
use serde::{Deserialize, Serialize};

use crate::{
    code::{self, CodeInfo},
    logs::{self, lines::Buffering},
    python::Attribution,
    signal::RouteTable,
    stitch::{JobOptions, LoopOptions},
};

/// Kinds of the agent's own facts, above those of the kernel side. Never reuse a number.
mod own {
    pub(super) const PROCESS: u16 = 0x8001;
    pub(super) const PYTHON: u16 = 0x8002;
    pub(super) const CLOCK: u16 = 0x8003;
    pub(super) const DROPPED: u16 = 0x8004;
    pub(super) const END: u16 = 0x8005;
    pub(super) const LATE_WRITES: u16 = 0x8006;
    pub(super) const OUTPUT: u16 = 0x8007;
    pub(super) const LOGS: u16 = 0x8008;
    pub(super) const CODE: u16 = 0x8009;
    pub(super) const CODE_OPTIONS: u16 = 0x800a;
    pub(super) const TEXT: u16 = 0x800b;
    pub(super) const ROUTES: u16 = 0x800c;
    pub(super) const JOB_OPTIONS: u16 = 0x800d;
    pub(super) const LOOP_SAMPLE: u16 = 0x800e;
    pub(super) const LAGS: u16 = 0x800f;
    pub(super) const LOOP_OPTIONS: u16 = 0x8010;
}

/// A watched process, as far as its resource goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Resource attributes: key, value.
    pub attributes: Vec<(String, String)>,
    /// `process.pid` as the process itself sees it.
    pub own_pid: u32,
    /// Process that started it.
    pub parent: u32,
}

/// What is proven of a process's interpreter, as far as the engine needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonInfo {
    /// How exactly work is attributed.
    pub attribution: Attribution,
    /// uvloop moves bytes outside any task's context.
    pub uvloop: bool,
}

/// How a process's Python writes to its standard output and standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputInfo {
    /// Standard output.
    pub stdout: Buffering,
    /// Standard error.
    pub stderr: Buffering,
}

/// The text of a statement as a database driver was given it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextInfo {
    /// The text.
    pub text: String,
    /// It goes on.
    pub truncated: bool,
}

/// Where the thread of an event loop was found, in a step that has lasted for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopSample {
    /// When the step has begun, `CLOCK_MONOTONIC` in nanoseconds.
    pub start: u64,
    /// Its frames, as in a [`Stack`].
    pub frames: Vec<u64>,
    /// There are more.
    pub cut: bool,
}

/// How long the steps of a process's event loops have lasted, since it is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagInfo {
    /// See [`adder_ebpf::Lags`].
    pub buckets: Vec<u64>,
    /// All of them together, nanoseconds.
    pub sum: u64,
}

/// The relation of the kernel's monotonic clock to the time of day. Facts of this kind come for each 25 ms in which
/// there are others, and some times a second else, so they are also what makes time pass in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Nanoseconds since the Unix epoch minus monotonic nanoseconds.
    pub offset: i64,
}

/// One fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<'a> {
    /// Bytes went through a socket.
    Data {
        /// Its fixed part.
        data: Data,
        /// Bytes captured from the front.
        head: &'a [u8],
        /// Bytes captured from the end.
        tail: &'a [u8],
    },
    /// A TLS library has encrypted or decrypted bytes.
    Tls {
        /// Its fixed part.
        tls: Tls,
        /// Plaintext captured from the front.
        head: &'a [u8],
        /// Plaintext captured from the end.
        tail: &'a [u8],
    },
    /// A system call has waited until its time was up.
    Timer(Item),
    /// Where in the code a thread makes its next fact.
    Stack {
        /// Its fixed part.
        stack: Stack,
        /// Its frames, eight bytes each.
        frames: &'a [u8],
    },
    /// Of which stream the task has the care that made the stack before.
    Stream(Stream),
    /// What a compressed stream refers back to.
    Window {
        /// Its fixed part.
        window: Window,
        /// The window, written in a circle.
        bytes: &'a [u8],
    },
    /// A TLS library goes on with the handshake of an `SSL` object.
    TlsHandshake(Item),
    /// An `SSL` object was freed.
    TlsFree(Item),
    /// A socket was seen for the first time.
    Socket(Box<Socket>),
    /// A descriptor was closed.
    Close(Close),
    /// A task was created.
    Task(Lineage),
    /// A context was copied.
    Copy(Lineage),
    /// An item went into a work queue.
    Put(Item),
    /// An item was taken from a work queue.
    Get(Item),
    /// Something was given to a descriptor's connection that leaves when the turn of the loop ends.
    Given(Item),
    /// See [`kind::BUFFERED`].
    Buffered(Item),
    /// A future has its result, and a context waits for it.
    Wake(Lineage),
    /// A process has a new thread.
    Thread(Child),
    /// A process forked.
    Fork(Child),
    /// A process has a new program.
    Exec(Header),
    /// A process ended.
    Exit(Header),
    /// A process mapped a file executable.
    Map(Header),
    /// The agent has looked at a process.
    Process(Header, ProcessInfo),
    /// The agent has looked at its interpreter.
    Python(Header, PythonInfo),
    /// Its event loop writes small pieces only when all tasks have run, in nobody's context (uvloop up to 0.22).
    LateWrites(Header),
    /// How it writes its logs, which are wanted.
    Output(Header, OutputInfo),
    /// What is to be made of logs.
    Logs(Header, logs::Options),
    /// A code object of a process.
    Code(Header, CodeInfo),
    /// What a database driver was called with, in the stack before.
    Text(Header, TextInfo),
    /// The routes that a web framework has there.
    Routes(Header, RouteTable),
    /// Which code is the application's own.
    CodeOptions(Header, code::Options),
    /// What is made of jobs.
    JobOptions(Header, JobOptions),
    /// A step of an event loop is over that has lasted long.
    Step(Item),
    /// Where the thread of an event loop was found in one. The context is the one that was current there.
    LoopSample(Header, LoopSample),
    /// How long the steps of a process's event loops have lasted.
    Lags(Header, LagInfo),
    /// What is made of event loops.
    LoopOptions(Header, LoopOptions),
    /// Time.
    Clock(Header, Clock),
    /// So many facts of a process found no room, in all.
    Dropped(Header, u64),
    /// No fact will follow.
    End(Header),
}

/// Why bytes are no fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// Shorter than its kind demands.
    #[error("a fact of kind {0} is cut short")]
    Short(u16),
    /// No such kind.
    #[error("no fact has the kind {0}")]
    Unknown(u16),
    /// The body does not decode.
    #[error("the body of a fact of kind {0} does not decode")]
    Body(u16),
}

/// Copies a fixed structure from the front of `bytes`.
fn front<T: Fixed>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough, and `Fixed` types are valid for any bytes.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes behind a fixed structure: captured from the front, and from the end.
fn captured<T: Fixed>(bytes: &[u8], head: u32, tail: u32) -> Option<(&[u8], &[u8])> {
    let rest = bytes.get(size_of::<T>()..)?;
    let (head, tail) = (head as usize, tail as usize);
    // The kernel side leaves the tail at a fixed place; a recording has it right behind the head.
    let at = if tail > 0 && rest.len() == HEAD_MAX + TAIL_MAX { HEAD_MAX } else { head };
    let tail = rest.get(at..at.checked_add(tail)?)?;
    Some((rest.get(..head)?, tail))
}

/// The frames of a stack, out of the bytes behind a [`Stack`].
pub fn words(frames: &[u8]) -> impl Iterator<Item = u64> + Clone {
    frames.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
}

/// Structures of integers without padding: valid for any bytes, and readable as bytes.
///
/// # Safety
///
/// Implement it for `repr(C)` structures of integers without padding only.
unsafe trait Fixed: Copy {}
// SAFETY: `adder_ebpf` promises it for all of these.
unsafe impl Fixed for Header {}
// SAFETY: likewise.
unsafe impl Fixed for Data {}
// SAFETY: likewise.
unsafe impl Fixed for Tls {}
// SAFETY: likewise.
unsafe impl Fixed for Socket {}
// SAFETY: likewise.
unsafe impl Fixed for Close {}
// SAFETY: likewise.
unsafe impl Fixed for Lineage {}
// SAFETY: likewise.
unsafe impl Fixed for Child {}
// SAFETY: likewise.
unsafe impl Fixed for Item {}
// SAFETY: likewise.
unsafe impl Fixed for Stack {}
// SAFETY: likewise.
unsafe impl Fixed for Text {}
// SAFETY: likewise.
unsafe impl Fixed for Stream {}
// SAFETY: likewise.
unsafe impl Fixed for Window {}

fn as_bytes<T: Fixed>(value: &T) -> &[u8] {
    // SAFETY: `Fixed` types have no padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

impl<'a> Fact<'a> {
    /// Reads a fact.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FactError> {
        let header: Header = front(bytes).ok_or(FactError::Short(0))?;
        let kind = header.kind;
        let short = FactError::Short(kind);
        let body = &bytes[size_of::<Header>()..];
        Ok(match kind {
            kind::DATA => {
                let data: Data = front(bytes).ok_or(short)?;
                let (head, tail) = captured::<Data>(bytes, data.head, data.tail).ok_or(short)?;
                Self::Data { data, head, tail }
            }
            kind::TLS => {
                let tls: Tls = front(bytes).ok_or(short)?;
                let (head, tail) = captured::<Tls>(bytes, tls.head, tls.tail).ok_or(short)?;
                Self::Tls { tls, head, tail }
            }
            kind::STACK => {
                let stack: Stack = front(bytes).ok_or(short)?;
                let rest = &bytes[size_of::<Stack>()..];
                // Behind them is what the kernel side has used for itself.
                let frames = rest.get(..stack.count as usize * 8).ok_or(short)?;
                Self::Stack { stack, frames }
            }
            kind::STREAM => Self::Stream(front(bytes).ok_or(short)?),
            kind::WINDOW => {
                let held = bytes.get(size_of::<Window>()..).and_then(|rest| rest.get(..WINDOW_SIZE));
                Self::Window { window: front(bytes).ok_or(short)?, bytes: held.ok_or(short)? }
            }
            kind::TLS_HANDSHAKE => Self::TlsHandshake(front(bytes).ok_or(short)?),
            kind::TIMER => Self::Timer(front(bytes).ok_or(short)?),
            kind::STEP => Self::Step(front(bytes).ok_or(short)?),
            kind::TLS_FREE => Self::TlsFree(front(bytes).ok_or(short)?),
            kind::SOCKET => Self::Socket(Box::new(front(bytes).ok_or(short)?)),
            kind::CLOSE => Self::Close(front(bytes).ok_or(short)?),
            kind::TASK => Self::Task(front(bytes).ok_or(short)?),
            kind::COPY => Self::Copy(front(bytes).ok_or(short)?),
            kind::WAKE => Self::Wake(front(bytes).ok_or(short)?),
            kind::PUT => Self::Put(front(bytes).ok_or(short)?),
            kind::GET => Self::Get(front(bytes).ok_or(short)?),
            kind::GIVEN => Self::Given(front(bytes).ok_or(short)?),
            kind::BUFFERED => Self::Buffered(front(bytes).ok_or(short)?),
            kind::THREAD => Self::Thread(front(bytes).ok_or(short)?),
            kind::FORK => Self::Fork(front(bytes).ok_or(short)?),
            kind::EXEC => Self::Exec(header),
            kind::EXIT => Self::Exit(header),
            kind::MAP => Self::Map(header),
            own::PROCESS => Self::Process(header, body_of(kind, body)?),
            own::PYTHON => Self::Python(header, body_of(kind, body)?),
            own::LATE_WRITES => Self::LateWrites(header),
            own::OUTPUT => Self::Output(header, body_of(kind, body)?),
            own::LOGS => Self::Logs(header, body_of(kind, body)?),
            own::CODE => Self::Code(header, body_of(kind, body)?),
            own::TEXT => Self::Text(header, body_of(kind, body)?),
            own::ROUTES => Self::Routes(header, body_of(kind, body)?),
            own::CODE_OPTIONS => Self::CodeOptions(header, body_of(kind, body)?),
            own::JOB_OPTIONS => Self::JobOptions(header, body_of(kind, body)?),
            own::LOOP_SAMPLE => Self::LoopSample(header, body_of(kind, body)?),
            own::LAGS => Self::Lags(header, body_of(kind, body)?),
            own::LOOP_OPTIONS => Self::LoopOptions(header, body_of(kind, body)?),
            own::CLOCK => Self::Clock(header, body_of(kind, body)?),
            own::DROPPED => Self::Dropped(header, body_of(kind, body)?),
            own::END => Self::End(header),
            other => return Err(FactError::Unknown(other)),
        })
    }

    /// The head of the fact.
    pub fn header(&self) -> &Header {
        match self {
            Self::Data { data, .. } => &data.header,
            Self::Tls { tls, .. } => &tls.header,
            Self::Stack { stack, .. } => &stack.header,
            Self::Stream(stream) => &stream.header,
            Self::Window { window, .. } => &window.header,
            Self::Socket(socket) => &socket.header,
            Self::Close(close) => &close.header,
            Self::Task(lineage) | Self::Copy(lineage) | Self::Wake(lineage) => &lineage.header,
            Self::Put(item)
            | Self::Get(item)
            | Self::Given(item)
            | Self::Buffered(item)
            | Self::Timer(item)
            | Self::Step(item)
            | Self::TlsHandshake(item)
            | Self::TlsFree(item) => &item.header,
            Self::Fork(child) | Self::Thread(child) => &child.header,
            Self::Exec(header)
            | Self::Exit(header)
            | Self::Map(header)
            | Self::LateWrites(header)
            | Self::Process(header, _)
            | Self::Python(header, _)
            | Self::Output(header, _)
            | Self::Logs(header, _)
            | Self::Code(header, _)
            | Self::Routes(header, _)
            | Self::Text(header, _)
            | Self::CodeOptions(header, _)
            | Self::JobOptions(header, _)
            | Self::LoopSample(header, _)
            | Self::Lags(header, _)
            | Self::LoopOptions(header, _)
            | Self::Clock(header, _)
            | Self::Dropped(header, _)
            | Self::End(header) => header,
        }
    }

    /// Appends the fact as a recording holds it; [`Fact::parse`] reads it back.
    pub fn write(&self, into: &mut Vec<u8>) {
        match self {
            Self::Data { data, head, tail } => {
                into.extend_from_slice(as_bytes(data));
                into.extend_from_slice(head);
                into.extend_from_slice(tail);
            }
            Self::Tls { tls, head, tail } => {
                into.extend_from_slice(as_bytes(tls));
                into.extend_from_slice(head);
                into.extend_from_slice(tail);
            }
            Self::Stack { stack, frames } => {
                into.extend_from_slice(as_bytes(stack));
                into.extend_from_slice(frames);
            }
            Self::Stream(stream) => into.extend_from_slice(as_bytes(stream)),
            Self::Window { window, bytes } => {
                into.extend_from_slice(as_bytes(window));
                into.extend_from_slice(bytes);
            }
            Self::Socket(socket) => into.extend_from_slice(as_bytes(&**socket)),
            Self::Close(close) => into.extend_from_slice(as_bytes(close)),
            Self::Task(lineage) | Self::Copy(lineage) | Self::Wake(lineage) => {
                into.extend_from_slice(as_bytes(lineage));
            }
            Self::Put(item)
            | Self::Get(item)
            | Self::Given(item)
            | Self::Buffered(item)
            | Self::Timer(item)
            | Self::Step(item)
            | Self::TlsHandshake(item)
            | Self::TlsFree(item) => {
                into.extend_from_slice(as_bytes(item));
            }
            Self::Fork(child) | Self::Thread(child) => into.extend_from_slice(as_bytes(child)),
            Self::Exec(header) | Self::Exit(header) | Self::Map(header) => {
                into.extend_from_slice(as_bytes(header));
            }
            Self::Process(header, info) => write_own(own::PROCESS, header, info, into),
            Self::Python(header, info) => write_own(own::PYTHON, header, info, into),
            Self::LateWrites(header) => write_own(own::LATE_WRITES, header, &(), into),
            Self::Output(header, info) => write_own(own::OUTPUT, header, info, into),
            Self::Logs(header, options) => write_own(own::LOGS, header, options, into),
            Self::Code(header, code) => write_own(own::CODE, header, code, into),
            Self::Text(header, text) => write_own(own::TEXT, header, text, into),
            Self::Routes(header, table) => write_own(own::ROUTES, header, table, into),
            Self::CodeOptions(header, options) => write_own(own::CODE_OPTIONS, header, options, into),
            Self::JobOptions(header, options) => write_own(own::JOB_OPTIONS, header, options, into),
            Self::LoopSample(header, sample) => write_own(own::LOOP_SAMPLE, header, sample, into),
            Self::Lags(header, lags) => write_own(own::LAGS, header, lags, into),
            Self::LoopOptions(header, options) => write_own(own::LOOP_OPTIONS, header, options, into),
            Self::Clock(header, clock) => write_own(own::CLOCK, header, clock, into),
            Self::Dropped(header, count) => write_own(own::DROPPED, header, count, into),
            Self::End(header) => write_own(own::END, header, &(), into),
        }
    }
}

/// The text in a fact of [`kind::TEXT`], which the engine takes as [`Fact::Text`] when it is decoded.
pub fn copied_text(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let text: Text = front(bytes)?;
    Some((text.header, bytes.get(size_of::<Text>()..)?.get(..text.length as usize)?))
}

fn body_of<T: serde::de::DeserializeOwned>(kind: u16, body: &[u8]) -> Result<T, FactError> {
    postcard::from_bytes(body).map_err(|_| FactError::Body(kind))
}

fn write_own<T: Serialize>(kind: u16, header: &Header, body: &T, into: &mut Vec<u8>) {
    into.extend_from_slice(as_bytes(&Header { kind, ..*header }));
    // Serialising these types into memory cannot fail; an empty body would be refused when it is read.
    into.extend_from_slice(&postcard::to_stdvec(body).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u16) -> Header {
        Header { time: 7, context: 0x55, pid: 3, tid: 4, kind, flags: 0, buffer: 0 }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let data = Data { header: header(kind::DATA), length: 40, head: 4, tail: 2, ..Data::default() };
        let facts = [
            Fact::Data { data, head: b"GET ", tail: b"ok" },
            Fact::Task(Lineage { header: header(kind::TASK), child: 9 }),
            Fact::Exit(header(kind::EXIT)),
            Fact::Clock(header(own::CLOCK), Clock { offset: -5 }),
            Fact::Logs(header(own::LOGS), logs::Options::default()),
            Fact::Stack {
                stack: Stack { header: header(kind::STACK), count: 2, cut: 0 },
                frames: &[1, 0, 0, 0, 0, 0, 9, 0, 2, 0, 0, 0, 0, 0, 255, 255],
            },
            Fact::Code(header(own::CODE), CodeInfo { name: "f".into(), ..CodeInfo::default() }),
            Fact::Process(header(own::PROCESS), ProcessInfo { own_pid: 1, ..ProcessInfo::default() }),
        ];
        for fact in facts {
            let mut bytes = Vec::new();
            fact.write(&mut bytes);
            assert_eq!(Fact::parse(&bytes), Ok(fact));
        }
    }

    #[test]
    fn the_kernel_leaves_the_tail_at_a_fixed_place() {
        let data = Data { header: header(kind::DATA), length: 90_000, head: 100, tail: 3, ..Data::default() };
        let mut bytes = as_bytes(&data).to_vec();
        let mut payload = vec![b'.'; HEAD_MAX + TAIL_MAX];
        payload[..100].fill(b'h');
        payload[HEAD_MAX..HEAD_MAX + 3].copy_from_slice(b"end");
        bytes.extend_from_slice(&payload);
        let Ok(Fact::Data { head, tail, .. }) = Fact::parse(&bytes) else { panic!("a data fact") };
        assert_eq!((head.len(), tail), (100, &b"end"[..]));
    }

    #[test]
    fn no_prefix_of_a_fact_panics() {
        let data = Data { header: header(kind::DATA), length: 40, head: 4, tail: 2, ..Data::default() };
        let mut bytes = Vec::new();
        Fact::Data { data, head: b"GET ", tail: b"ok" }.write(&mut bytes);
        for length in 0..bytes.len() {
            assert!(Fact::parse(&bytes[..length]).is_err());
        }
    }
}
