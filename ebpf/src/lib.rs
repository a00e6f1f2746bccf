//! The layout of everything that crosses from the kernel side to user space: facts in the ring buffer, the
//! configuration of each watched process, the offsets of kernel structures.
//!
//! All structures are `repr(C)`, have no padding and hold plain integers, so that they can be copied as bytes.
#![no_std]

/// What a fact is about. The numbers are part of the recording format: never reuse one.
pub mod kind {
    /// [`Data`](super::Data), followed by the captured bytes.
    pub const DATA: u16 = 1;
    /// [`Socket`](super::Socket).
    pub const SOCKET: u16 = 2;
    /// [`Close`](super::Close).
    pub const CLOSE: u16 = 3;
    /// [`Lineage`](super::Lineage): a task was created.
    pub const TASK: u16 = 4;
    /// [`Lineage`](super::Lineage): a context was copied for another thread.
    pub const COPY: u16 = 5;
    /// [`Child`](super::Child): the process has forked.
    pub const FORK: u16 = 6;
    /// [`Header`](super::Header) alone: the process has a new program.
    pub const EXEC: u16 = 7;
    /// [`Header`](super::Header) alone: the process has ended.
    pub const EXIT: u16 = 8;
    /// [`Header`](super::Header) alone: the process has mapped a file executable.
    pub const MAP: u16 = 9;
    /// [`Item`](super::Item): an item was put into a `queue.SimpleQueue`.
    pub const PUT: u16 = 10;
    /// [`Item`](super::Item): an item was taken from a `queue.SimpleQueue`.
    pub const GET: u16 = 11;
    /// [`Lineage`](super::Lineage): a future has its result, and `child` is the context that waits for it.
    pub const WAKE: u16 = 12;
    /// [`Child`](super::Child): the process has a new thread.
    pub const THREAD: u16 = 13;
    /// [`Tls`](super::Tls), followed by the captured bytes.
    pub const TLS: u16 = 14;
    /// [`Item`](super::Item): an `SSL` object was freed.
    pub const TLS_FREE: u16 = 15;
    /// [`Item`](super::Item): a TLS library goes on with the handshake of an `SSL` object.
    pub const TLS_HANDSHAKE: u16 = 16;
    /// [`Item`](super::Item): a system call has waited until its time was up, or a signal came; the item is its number.
    pub const TIMER: u16 = 17;
    /// [`Stack`](super::Stack), followed by its frames: where in the code the thread is.
    pub const STACK: u16 = 18;
    /// [`Text`](super::Text), followed by the string: what a database driver was called with, in the stack before.
    pub const TEXT: u16 = 19;
    /// [`Item`](super::Item): a step of an event loop is over that has lasted [`Settings::step_min`](super::Settings) or longer;
    /// the item is how long, in nanoseconds.
    pub const STEP: u16 = 20;
    /// [`Item`](super::Item): the low 32 bits are a descriptor to which something was given that is sent when the turn of the loop
    /// ends, those above how many bytes; 0 where that is not known.
    pub const GIVEN: u16 = 21;
    /// [`Stream`](super::Stream): of which stream of HTTP/2 the task has the care that made the stack before.
    pub const STREAM: u16 = 22;
    /// [`Item`](super::Item): a frame of AMQP was put into a `collections.deque`; the item is how many bytes it has.
    pub const BUFFERED: u16 = 23;
    /// [`Window`](super::Window), followed by [`WINDOW_SIZE`](super::WINDOW_SIZE) bytes: a call of zlib's `inflate` begins.
    pub const WINDOW: u16 = 24;
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// [`Data`](super::Data): the process received the bytes; else it sent them.
    pub const RECEIVED: u16 = 1;
    /// [`Data`](super::Data): moved by `read`/`write` or their vector forms, as uvloop does, not by a socket call.
    pub const FILE_CALL: u16 = 2;
    /// [`Socket`](super::Socket): the process called `connect`.
    pub const CONNECTED: u16 = 4;
    /// [`Socket`](super::Socket): the process accepted it.
    pub const ACCEPTED: u16 = 8;
    /// [`Data`](super::Data): descriptors went with it (`SCM_RIGHTS`).
    pub const RIGHTS: u16 = 16;
    /// [`Data`](super::Data): read from a pipe, of which only the front of each piece is captured.
    pub const PIPE: u16 = 32;
    /// [`Tls`](super::Tls): no socket was used within the call; the library works on memory (`BIO_s_mem`), as under an
    /// event loop.
    pub const DETACHED: u16 = 64;
    /// [`Data`](super::Data): written to standard output or standard error, whatever that is.
    pub const OUTPUT: u16 = 128;
    /// [`Data`](super::Data), [`Tls`](super::Tls), [`Lineage`](super::Lineage), [`Item`](super::Item): the last
    /// [`Stack`](super::Stack) of the thread is where it was made.
    pub const STACKED: u16 = 256;
    /// [`Item`](super::Item) of a wait: a signal has interrupted it.
    pub const INTERRUPTED: u16 = 512;
    /// [`Data`](super::Data): moved by the same call as what the thread's last fact tells of.
    pub const CONTINUED: u16 = 1024;
    /// [`Item`](super::Item) of a wait: a read of a file that may be waited at (a pipe, a terminal, inotify and its like) has
    /// given something. The number stands for the file, instead of for the system call.
    pub const FILE: u16 = 2048;
}

/// Bits of [`Process::stacks`]: a stack is reported with each wait that ran out, and with what is sent over connections that
/// the process has not accepted, or written to its outputs; and where these say so.
pub mod stacks {
    /// With what is received.
    pub const RECEIVED: u32 = 1;
    /// With each task that is created.
    pub const TASKS: u32 = 2;
    /// With each wake-up.
    pub const WAKES: u32 = 4;
}

/// The head of every fact.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub time: u64,
    /// Address of the `contextvars.Context` that was current on this thread, 0 where there was none.
    pub context: u64,
    /// Kernel `tgid`.
    pub pid: u32,
    /// Kernel `pid`.
    pub tid: u32,
    /// See [`kind`].
    pub kind: u16,
    /// See [`flag`].
    pub flags: u16,
    /// [`Data`], [`Tls`], [`kind::BUFFERED`]: where in memory the bytes were, of the address bits 4 to 35. [`kind::WAKE`]: how long
    /// ago the loop of the thread has last waited ([`ago_of`]), 0 where that is not known. Else 0.
    pub buffer: u32,
}

/// Bytes went through a stream socket, were read from a pipe, or written to an output. `head` bytes from the front of the call's buffer follow this structure, then
/// `tail` bytes from its end; the `length - head - tail` bytes between were not captured.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// The head of the fact; [`flag::RECEIVED`] gives the direction.
    pub header: Header,
    /// Inode number of the socket, pipe or file.
    pub socket: u64,
    /// Bytes that went in this direction before these, since the socket was first seen; 0 for what is no socket.
    pub offset: u64,
    /// How many bytes went.
    pub length: u64,
    /// File descriptor that was used.
    pub fd: i32,
    /// Bytes captured from the front.
    pub head: u32,
    /// Bytes captured from the end.
    pub tail: u32,
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// A TLS library has encrypted or decrypted bytes. `head` bytes from the front of the plaintext follow this structure,
/// then `tail` bytes from its end, as behind [`Data`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The head of the fact; [`flag::RECEIVED`] gives the direction. What was sent over a socket within the call bears
    /// the time of the call's beginning.
    pub header: Header,
    /// Address of the `SSL` object.
    pub ssl: u64,
    /// Inode number of the socket that was used within the call; 0 with [`flag::DETACHED`].
    pub socket: u64,
    /// Bytes of plaintext that went in this direction before these, since the object was first seen.
    pub offset: u64,
    /// How many bytes of plaintext went.
    pub length: u64,
    /// Bytes captured from the front.
    pub head: u32,
    /// Bytes captured from the end.
    pub tail: u32,
}

/// A stream socket was seen for the first time, connected or accepted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The head of the fact.
    pub header: Header,
    /// Inode number of the socket.
    pub socket: u64,
    /// File descriptor.
    pub fd: i32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u16,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Length of `path`; the first byte of an abstract name is 0.
    pub path_length: u16,
    /// Local address, network byte order; IPv4 in the first four bytes.
    pub local: [u8; 16],
    /// Remote address, likewise.
    pub remote: [u8; 16],
    /// `AF_UNIX`: the path to which the listening end is bound.
    pub path: [u8; 108],
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
    /// `AF_UNIX`: inode number of the other end, 0 where unknown.
    pub peer: u64,
}

/// A file descriptor was closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Close {
    /// The head of the fact.
    pub header: Header,
    /// The descriptor.
    pub fd: i32,
    /// Inode number of what the descriptor stands for by now, 0 where for nothing: another thread may have been given
    /// the number since. Those of sockets have 32 bits (`get_next_ino`, fs/inode.c).
    pub now: u32,
}

/// A context came to be out of the current one ([`Header::context`]), or will run because of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The head of the fact; its context is the parent, 0 where there was none.
    pub header: Header,
    /// Address of the other context.
    pub child: u64,
}

/// A process has forked, or has a new thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Child {
    /// The head of the fact.
    pub header: Header,
    /// `tgid` of the child process, `pid` of the thread.
    pub child: u32,
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// A work item went through a `queue.SimpleQueue`, the queue of `ThreadPoolExecutor`; or an object is no more; or time
/// is up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The head of the fact.
    pub header: Header,
    /// Address of the item or object.
    pub item: u64,
}

/// The Python frames of a thread, innermost first. `count` words follow this structure, each the address of a code object
/// in the low 48 bits ([`code_of`]), and in the others how far behind the beginning of its first instruction the frame is, in units of
/// two bytes ([`FAR`] where that is too far). The thread's next fact with [`flag::STACKED`] was made there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// The head of the fact.
    pub header: Header,
    /// How many frames there are.
    pub count: u32,
    /// 1: there are more.
    pub cut: u32,
}

/// A `str` in a local variable of a frame of the stack before. `length` bytes follow this structure, from the beginning of
/// the object on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The head of the fact.
    pub header: Header,
    /// How many bytes were copied.
    pub length: u32,
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// The local variables `self` and `stream_id` of a function of httpcore in a frame of the stack before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The head of the fact.
    pub header: Header,
    /// Address of the object that stands for the connection.
    pub object: u64,
    /// Number of the stream (RFC 9113, section 5.1.1).
    pub number: u32,
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// Bytes of the largest window of deflate (RFC 1951, section 2).
pub const WINDOW_SIZE: usize = 32 * 1024;

/// Fewest bytes that `inflate` is given of which a [`Window`] is reported: shorter messages are not told from each other.
pub const INFLATED_MIN: u32 = 32;

/// A stream of zlib that is between two blocks when a call of `inflate` begins. Its window follows this structure: [`WINDOW_SIZE`]
/// bytes that are written in a circle.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The head of the fact.
    pub header: Header,
    /// The first bytes that the call is given.
    pub front: [u8; 16],
    /// How many bytes it is given (`avail_in`).
    pub length: u32,
    /// Bytes of the window that have been written (`whave`).
    pub have: u32,
    /// Where in it the next one will be (`wnext`).
    pub next: u32,
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// [`Header::buffer`] of an address.
#[must_use]
pub const fn buffer_of(address: u64) -> u32 {
    (address >> 4) as u32
}

/// Nanoseconds as [`Header::buffer`] of a wake-up, which counts in units of 1,024 and from 1; about 73 minutes are the most.
#[must_use]
pub const fn ago_of(nanoseconds: u64) -> u32 {
    let units = nanoseconds >> 10;
    if units < (u32::MAX - 1) as u64 { units as u32 + 1 } else { u32::MAX }
}

/// The reverse of [`ago_of`], rounded up.
#[must_use]
pub const fn nanoseconds_ago(buffer: u32) -> Option<u64> {
    match buffer {
        0 => None,
        u32::MAX => Some(u64::MAX),
        units => Some((units as u64) << 10),
    }
}

/// Value of [`Process::late`]: what is given is the first of an array of arguments (`METH_FASTCALL`).
pub const LATE_FAST: u32 = 2;

/// A function of which something is known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MarkKey {
    /// Address of the code object.
    pub code: u64,
    /// Kernel `tgid`.
    pub pid: u32,
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// What is known of a function: a stack need not go beyond it. Any other number is the offset in its frame of a local variable
/// with the text of a statement.
pub const MARK_END: u32 = 1 << 31;
/// With this bit the low 16 are the offset of a [`Stream`]'s number, and the eight above them how many variables behind `self` it is.
pub const MARK_STREAM: u32 = 1 << 30;

/// The bit of [`Process::marks`] that stands for a code object.
#[must_use]
pub const fn mark_bit(code: u64) -> u64 {
    (code >> 4 ^ code >> 10) & 63
}

/// The address of the code object in a frame of a [`Stack`].
#[must_use]
pub const fn code_of(frame: u64) -> u64 {
    frame & ((1 << 48) - 1)
}

/// The instruction of a frame whose place in its code is not known.
pub const FAR: u16 = u16::MAX;

/// Where a watched process keeps what the programs read. All zero until its interpreter is proven.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Address of `PyContext_Type`; a context is believed only if its `ob_type` is this. 0 switches contexts off.
    pub context_type: u64,
    /// Offset of the thread-specific slot that holds the `PyThreadState`, from the thread pointer or, where
    /// `slot_table` is not 0, from the table to which that points.
    pub slot: i64,
    /// musl: offset from the thread pointer of the pointer to the thread-specific table; 0 for glibc.
    pub slot_table: i64,
    /// Addresses of `_PyRuntime`, in which the global lock is, and behind it: waiting there is no waiting for time.
    pub runtime: u64,
    /// See `runtime`.
    pub runtime_end: u64,
    /// Functions of which something is known: bit [`mark_bit`] is set for each that is in `MARKS`.
    pub marks: u64,
    /// Offset of `PyThreadState.context`.
    pub context: u32,
    /// Offset of `TaskObj.task_context`.
    pub task_context: u32,
    /// 1: what the process reads from pipes is reported. It may be work that its parent hands to it.
    pub pipes: u32,
    /// 1: the plaintext of its TLS libraries is reported, so of encrypted bytes only the front is.
    pub tls: u32,
    /// 1: what it writes to its standard output and standard error is reported.
    pub output: u32,
    /// Offset in `PyThreadState` of the pointer to the innermost frame, or to what points to that; 0 switches frames off.
    pub frame: u32,
    /// 3.11 and 3.12: offset of the pointer to the innermost frame in `_PyCFrame`, plus one.
    pub cframe: u32,
    /// The part of a frame that is read: its offset, and its length, less than [`FRAME_BYTES`].
    pub frame_from: u32,
    /// See `frame_from`.
    pub frame_size: u32,
    /// Offsets of fields in that part, multiples of 8: the frame that has called this one.
    pub frame_previous: u32,
    /// Likewise: its code object.
    pub frame_code: u32,
    /// Likewise: where in its code it is.
    pub frame_instruction: u32,
    /// Offset in a code object of its first instruction, where a frame holds the address of one; 0 where it holds a
    /// number.
    pub code_start: u32,
    /// How far that is shifted to the right to count units of two bytes.
    pub frame_shift: u32,
    /// How far `PyASCIIObject.state` is shifted to the right so that its lowest three bits are the bytes of a character.
    pub text_shift: u32,
    /// Where stacks are wanted besides: see [`stacks`].
    pub stacks: u32,
    /// 1: the texts of statements that frames hold are reported.
    pub texts: u32,
    /// 1: how long the steps of its event loops last is counted.
    pub steps: u32,
    /// 1: it is told what is given to its event loop to be sent at the end of a turn: see [`kind::GIVEN`]. [`LATE_FAST`]: by a fast call.
    pub late: u32,
    /// 1: where frames of AMQP begin is followed in what it moves through sockets.
    pub amqp: u32,
    /// 1: the windows of its zlib streams are reported.
    pub windows: u32,
    /// No meaning; keeps the structure free of implicit padding.
    pub reserved: u32,
}

/// What a thread that waits with `epoll_wait` is at: the step of its event loop from one wait to the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// When it has begun, `CLOCK_MONOTONIC` in nanoseconds; 0 while the thread waits.
    pub start: u64,
    /// When a wait was last over that was not only a look (with a time-out of 0).
    pub waited: u64,
    /// Address of the thread's `PyThreadState`.
    pub state: u64,
    /// Kernel `tgid`.
    pub pid: u32,
    /// Descriptor of the loop's epoll instance: when it is closed, so is the loop.
    pub epoll: i32,
}

/// How long the steps of the event loops of a process have lasted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lags {
    /// How many have lasted up to each of [`LAG_BOUNDS`], and longer than the one before; then how many longer than the last.
    pub buckets: [u64; LAG_BOUNDS.len() + 1],
    /// All of them together, nanoseconds.
    pub sum: u64,
}

/// Bounds of [`Lags::buckets`], nanoseconds.
pub const LAG_BOUNDS: [u64; 11] = [
    1_000_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Offsets inside kernel structures, read from BTF at start. Names are `structure_field`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the offset of the field it is named after")]
pub struct Offsets {
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_files: u32,
    pub task_fsbase: u32,
    pub files_fdt: u32,
    pub file_inode: u32,
    pub file_private: u32,
    pub inode_ino: u32,
    pub inode_mode: u32,
    pub inode_rdev: u32,
    pub inode_sb: u32,
    pub sb_magic: u32,
    pub sk_family: u32,
    pub sk_daddr: u32,
    pub sk_rcv_saddr: u32,
    pub sk_dport: u32,
    pub sk_num: u32,
    pub sk_v6_daddr: u32,
    pub sk_v6_rcv_saddr: u32,
    pub sk_net: u32,
    pub sk_socket: u32,
    pub net_inum: u32,
    pub unix_addr: u32,
    pub unix_peer: u32,
    pub unix_address_len: u32,
    pub unix_address_name: u32,
    /// From a `struct socket` to the `struct inode` beside it (`struct socket_alloc`).
    pub socket_inode: u32,
}

/// How much the programs capture and report.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes taken from the front of a buffer that is sent.
    pub head_sent: u32,
    /// Most bytes taken from the front of a buffer that was received.
    pub head_received: u32,
    /// Bytes taken from the end of a buffer whose front did not hold it all.
    pub tail: u32,
    /// 1: `execve` of processes that are not watched is reported too.
    pub report_every_exec: u32,
    /// How long a step of an event loop lasts at least that is reported, microseconds.
    pub step_min: u32,
}

/// Most bytes that can be captured from the front of one buffer.
pub const HEAD_MAX: usize = 16 * 1024;
/// Bytes captured from the front of a large body in a frame of AMQP.
pub const BODY_HEAD: usize = 256;
/// Bytes captured from the front of what is read from a pipe.
pub const PIPE_HEAD: usize = 512;
/// Bytes captured from the front of what begins like a TLS record, where its plaintext is reported.
pub const TLS_HEAD: usize = 128;
/// Most bytes that can be captured from the end of one buffer.
pub const TAIL_MAX: usize = 4096;
/// Most frames of one stack.
pub const FRAMES_MAX: usize = 64;
/// More than is read of one frame; a power of two.
pub const FRAME_BYTES: usize = 128;
/// Most bytes that are copied of a `str`, with its head.
pub const TEXT_MAX: usize = 8192;
/// Bytes before the characters of a `str`, at most (`PyCompactUnicodeObject`, Include/cpython/unicodeobject.h).
pub const TEXT_HEAD: usize = 72;
/// Most functions of which something is known.
pub const MARKS_MAX: u32 = 16_384;
/// Most watched processes.
pub const PROCESSES_MAX: u32 = 8192;
/// Most threads of event loops.
pub const LOOPS_MAX: u32 = 1024;
/// Most sockets whose stream positions are kept; the least recently used is forgotten.
pub const SOCKETS_MAX: u32 = 65_536;
/// Most directions of sockets in which frames of AMQP are followed; likewise.
pub const AMQP_MAX: u32 = 8192;
/// Most `SSL` objects whose stream positions are kept; the least recently used is forgotten.
pub const TLS_MAX: u32 = 32_768;
/// Size of the ring buffer in bytes.
pub const RING_SIZE: u32 = 8 * 1024 * 1024;
/// Unread bytes in the ring buffer at which user space is woken at once and not at its next turn.
pub const RING_WAKE: u64 = 2 * 1024 * 1024;
