//! Maps and globals.

use adder_ebpf::{
    AMQP_MAX, LOOPS_MAX, Lags, MARKS_MAX, MarkKey, Offsets, PROCESSES_MAX, Process, RING_SIZE, SOCKETS_MAX,
    Settings, Step, TLS_MAX,
};
use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap, RingBuf},
};

/// Facts on their way to user space.
#[map]
pub static FACTS: RingBuf = RingBuf::with_byte_size(RING_SIZE, 0);

/// Watched processes, by `tgid`.
#[map]
pub static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(PROCESSES_MAX, 0);

/// Facts of each process that found no room, by `tgid`; user space clears it when the process has ended.
#[map]
pub static DROPPED: HashMap<u32, u64> = HashMap::with_max_entries(PROCESSES_MAX, 0);

/// Position in a socket's streams.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stream {
    /// Inode number: tells a new socket at the address of an old one.
    pub inode: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// 1: a process has accepted it.
    pub accepted: u64,
}

/// Sockets that were reported, by the address of their `struct socket`.
#[map]
pub static SOCKETS: LruHashMap<u64, Stream> = LruHashMap::with_max_entries(SOCKETS_MAX, 0);

/// Where the frames of AMQP are in one direction of a stream.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FrameStream {
    /// Position in the stream at which the next frame begins.
    pub next: u64,
    /// Position up to which the frame before is wanted.
    pub wanted: u64,
    /// The first octets of the next frame, where it has begun. Within a call: up to where the bytes of a piece are wanted.
    pub begun: u64,
}

/// The same of a socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SocketFrames {
    /// Its inode number.
    pub inode: u64,
    /// Of one direction.
    pub frames: FrameStream,
}

/// Of the sockets through which AMQP goes, by the address of their `struct socket`, plus one for what is received.
#[map]
pub static FRAMES: LruHashMap<u64, SocketFrames> = LruHashMap::with_max_entries(AMQP_MAX, 0);

/// A task whose `__init__` was entered and has not been reported yet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    /// Address of the task object and, in the 16 bits that addresses of user space leave free, the low bits of its
    /// `ob_type`, to see that it is still the same: see `python::tagged`. 0 when it has been reported.
    pub task: u64,
    /// The context that was current.
    pub parent: u64,
}

/// The pending task of each thread that has ever made one, by kernel `pid`: its place stays until the thread ends, for putting
/// something into a map and taking it out costs several times what a look does.
#[map]
pub static PENDING: HashMap<u32, Pending> = HashMap::with_max_entries(16_384, 0);

/// A call of a TLS library.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlsCall {
    /// Address of the `SSL` object; in the low bits, which are free in addresses, what `tls` keeps there. 0 when it has returned: as of
    /// [`PENDING`], the place stays.
    pub ssl: u64,
    /// Address of the plaintext.
    pub buffer: u64,
    /// Where the library leaves the number of bytes.
    pub out: u64,
    /// Inode number of the socket that was used meanwhile.
    pub socket: u64,
    /// When it was entered; of a read that has returned how many bytes are captured.
    pub time: u64,
}

/// The call in which each thread is, by kernel `pid`.
#[map]
pub static TLS_CALLS: LruHashMap<u32, TlsCall> = LruHashMap::with_max_entries(16_384, 0);

/// Position in an `SSL` object's streams.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TlsStream {
    /// Bytes of plaintext sent; in the highest bit what `tls` keeps there.
    pub sent: u64,
    /// Bytes of plaintext received.
    pub received: u64,
    /// Where frames of AMQP begin in what is received.
    pub frames: FrameStream,
}

/// `SSL` objects that were reported, by process and address: see `tls::stream_key`.
#[map]
pub static TLS_STREAMS: LruHashMap<u64, TlsStream> = LruHashMap::with_max_entries(TLS_MAX, 0);

/// What is known of functions.
#[map]
pub static MARKS: HashMap<MarkKey, u32> = HashMap::with_max_entries(MARKS_MAX, 0);

/// What the threads of event loops are at, by kernel `pid`.
#[map]
pub static LOOPS: HashMap<u32, Step> = HashMap::with_max_entries(LOOPS_MAX, 0);

/// How long their steps have lasted, by `tgid`; user space puts those in that it wants, and takes them out.
#[map]
pub static LAGS: HashMap<u32, Lags> = HashMap::with_max_entries(PROCESSES_MAX, 0);

/// Offsets inside kernel structures; user space writes them before the programs are loaded.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = unsafe { core::mem::zeroed() };

/// What to capture; user space writes it before the programs are loaded.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = unsafe { core::mem::zeroed() };

/// Volatile, or the compiler would fold the zero of the initialiser in.
#[inline(always)]
pub fn read_offset(field: &'static u32) -> u64 {
    u64::from(read_setting(field))
}

/// Likewise.
#[inline(always)]
pub fn read_setting(field: &'static u32) -> u32 {
    unsafe { core::ptr::from_ref(field).read_volatile() }
}

/// One kernel offset.
macro_rules! offset {
    ($field:ident) => {
        crate::maps::read_offset(&crate::maps::OFFSETS.$field)
    };
}

/// One setting.
macro_rules! setting {
    ($field:ident) => {
        crate::maps::read_setting(&crate::maps::SETTINGS.$field)
    };
}

pub(crate) use {offset, setting};
