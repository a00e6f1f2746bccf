//! The one body that serves every system call that moves bytes, at its exit.
//!
//! At exit `pt_regs` still holds the arguments (arch/x86/include/asm/ptrace.h) and the result is known. The same body
//! is attached to `sys_exit` or, where the kernel allows trampolines, with `fexit` to the functions of the calls
//! themselves, which costs other processes nothing. Both give it a context of two words: registers and result.

use adder_ebpf::{Process, flag, kind, stacks};
use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fexit, raw_tracepoint},
    programs::{BtfTracePointContext, FExitContext, RawTracePointContext},
};

use crate::{
    amqp::report_framed,
    frames::report_stack,
    kernel::{inode_behind, kernel, source, stream_socket, user},
    life::argument,
    loops,
    python::{current_context, flush_pending, thread_state},
    record::{current, report_flagged, report_head, watched},
    socket::{
        begins_application_data, is_accepted, is_unix, pack, pack_for, report_bytes, report_close,
        report_pipe, report_socket,
    },
};

/// System call numbers (`arch/x86/entry/syscalls/syscall_64.tbl`).
pub mod number {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const POLL: u64 = 7;
    pub const MMAP: u64 = 9;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const SELECT: u64 = 23;
    pub const PAUSE: u64 = 34;
    pub const NANOSLEEP: u64 = 35;
    pub const SENDFILE: u64 = 40;
    pub const CONNECT: u64 = 42;
    pub const ACCEPT: u64 = 43;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const RT_SIGTIMEDWAIT: u64 = 128;
    pub const FUTEX: u64 = 202;
    pub const CLOCK_NANOSLEEP: u64 = 230;
    pub const EPOLL_WAIT: u64 = 232;
    pub const PSELECT6: u64 = 270;
    pub const PPOLL: u64 = 271;
    pub const SPLICE: u64 = 275;
    pub const EPOLL_PWAIT: u64 = 281;
    pub const ACCEPT4: u64 = 288;
    pub const PREADV: u64 = 295;
    pub const PWRITEV: u64 = 296;
    pub const RECVMMSG: u64 = 299;
    pub const SENDMMSG: u64 = 307;
    pub const PREADV2: u64 = 327;
    pub const PWRITEV2: u64 = 328;
}

/// Offsets in `struct pt_regs` (`arch/x86/include/asm/ptrace.h`).
mod register {
    pub const R10: u64 = 56;
    pub const R8: u64 = 72;
    pub const RDX: u64 = 96;
    pub const RSI: u64 = 104;
    pub const RDI: u64 = 112;
    pub const ORIG_RAX: u64 = 120;
}

const STDOUT: u64 = 1;
const STDERR: u64 = 2;
const EINPROGRESS: i64 = -115;
const ETIMEDOUT: i64 = -110;
const EINTR: i64 = -4;
/// `ERESTARTSYS` to `ERESTART_RESTARTBLOCK` (include/linux/errno.h): what a call that a signal has interrupted returns
/// before that is delivered.
const RESTART_FIRST: i64 = -512;
const RESTART_LAST: i64 = -516;
const MSG_OOB: u64 = 1;
const MSG_PEEK: u64 = 2;
const PROT_EXEC: u64 = 4;
/// Bytes in `struct iovec`.
const IOVEC: u64 = 16;
/// Offset of `iovec.iov_len`.
const IOVEC_LENGTH: u64 = 8;
/// Parts of one vector that are reported; what lies behind is known by its length only.
const VECTOR_MAX: u64 = 128;
/// Bytes in `struct mmsghdr`.
const MMSGHDR: u64 = 64;
/// Offset of `mmsghdr.msg_len`.
const MMSGHDR_LENGTH: u64 = 56;
/// Messages of one `sendmmsg` or `recvmmsg` whose lengths are counted.
const MESSAGES_MAX: u64 = 8;
/// Offsets in `struct msghdr`.
const MSGHDR_VECTOR: u64 = 16;
const MSGHDR_COUNT: u64 = 24;
const MSGHDR_CONTROL: u64 = 32;
const MSGHDR_CONTROL_LENGTH: u64 = 40;
/// Offset of `cmsghdr.cmsg_level`, with `cmsg_type` behind it.
const CMSGHDR_LEVEL: u64 = 8;
/// `SOL_SOCKET` and `SCM_RIGHTS`, both 1, as they lie behind each other.
const RIGHTS: u64 = 1 << 32 | 1;

/// Where the bytes of a call are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Buffer {
    /// In one buffer.
    Plain,
    /// In a vector of buffers.
    Vector,
    /// In a `struct msghdr`.
    Message,
    /// In several of them.
    Messages,
    /// Nowhere in user memory: only their number is known.
    None,
}

/// The calls with numbers below 64 that matter.
const LOW: u64 = 1 << number::READ
    | 1 << number::WRITE
    | 1 << number::CLOSE
    | 1 << number::POLL
    | 1 << number::SELECT
    | 1 << number::PAUSE
    | 1 << number::NANOSLEEP
    | 1 << number::MMAP
    | 1 << number::READV
    | 1 << number::WRITEV
    | 1 << number::SENDFILE
    | 1 << number::CONNECT
    | 1 << number::ACCEPT
    | 1 << number::SENDTO
    | 1 << number::RECVFROM
    | 1 << number::SENDMSG
    | 1 << number::RECVMSG;

/// Whether a call with this result matters; two thirds of what a Python service calls does not.
#[inline(always)]
fn matters(number: u64, result: i64) -> bool {
    // Somebody has let go of a lock, or was woken there.
    if number == number::FUTEX && result >= 0 {
        return false;
    }
    if number < 64 {
        return LOW >> number & 1 != 0;
    }
    number >= number::RT_SIGTIMEDWAIT
        && matches!(
            number,
            number::RT_SIGTIMEDWAIT
                | number::FUTEX
                | number::CLOCK_NANOSLEEP
                | number::EPOLL_WAIT
                | number::PSELECT6
                | number::PPOLL
                | number::EPOLL_PWAIT
                | number::SPLICE
                | number::ACCEPT4
                | number::PREADV
                | number::PWRITEV
                | number::RECVMMSG
                | number::SENDMMSG
                | number::PREADV2
                | number::PWRITEV2
        )
}

/// The registers of a call.
trait Registers: Copy {
    /// The register at this offset of the `pt_regs`.
    fn get(self, offset: u64) -> u64;
}

/// A `pt_regs` of which the verifier knows that it is one: fields are loaded as they are.
#[derive(Clone, Copy)]
struct Known(*const u8);

impl Registers for Known {
    #[inline(always)]
    fn get(self, offset: u64) -> u64 {
        unsafe { self.0.add(offset as usize).cast::<u64>().read_volatile() }
    }
}

/// The address of a `pt_regs`: fields are read by helper.
#[derive(Clone, Copy)]
struct Address(u64);

impl Registers for Address {
    #[inline(always)]
    fn get(self, offset: u64) -> u64 {
        kernel(self.0 + offset)
    }
}

/// What is cheapest to know comes first: how the call went, then (where a load is enough) which it was, then whose.
#[inline(always)]
fn on_exit<C: EbpfContext, R: Registers>(
    ctx: &C,
    number_is_cheap: bool,
    registers: impl FnOnce(&C) -> R,
    body: fn(R, i64, &Process),
) {
    let result = argument(ctx, 1) as i64;
    if result < 0 && result != EINPROGRESS && result != ETIMEDOUT && !is_interrupted(result) {
        return;
    }
    let registers = registers(ctx);
    if number_is_cheap && !matters(registers.get(register::ORIG_RAX), result) {
        return;
    }
    let (pid, _) = current();
    if let Some(process) = watched(pid) {
        body(registers, result, process);
    }
}

#[inline(never)]
fn on_known(registers: Known, result: i64, process: &Process) {
    on_watched_exit(registers, result, process);
}

#[inline(never)]
fn on_address(registers: Address, result: i64, process: &Process) {
    on_watched_exit(registers, result, process);
}

#[inline(always)]
fn on_watched_exit(registers: impl Registers, result: i64, process: &Process) {
    let number = registers.get(register::ORIG_RAX);
    if !matters(number, result) {
        return;
    }

    if is_wait(number) {
        on_wait(number, registers, result, process);
        return;
    }
    let (buffer, mut flags) = match number {
        number::READ => (Buffer::Plain, flag::RECEIVED | flag::FILE_CALL),
        number::WRITE => (Buffer::Plain, flag::FILE_CALL),
        number::RECVFROM => (Buffer::Plain, flag::RECEIVED),
        number::SENDTO => (Buffer::Plain, 0),
        number::READV | number::PREADV | number::PREADV2 => {
            (Buffer::Vector, flag::RECEIVED | flag::FILE_CALL)
        }
        number::WRITEV | number::PWRITEV | number::PWRITEV2 => (Buffer::Vector, flag::FILE_CALL),
        number::RECVMSG => (Buffer::Message, flag::RECEIVED),
        number::SENDMSG => (Buffer::Message, 0),
        number::RECVMMSG => (Buffer::Messages, flag::RECEIVED),
        number::SENDMMSG => (Buffer::Messages, 0),
        number::SENDFILE | number::SPLICE => (Buffer::None, 0),
        number::CLOSE => {
            if result == 0 {
                flush_pending(process);
                let fd = registers.get(register::RDI) as i32;
                if process.steps != 0 {
                    loops::closed(fd);
                }
                report_close(current_context(process), fd);
            }
            return;
        }
        number::CONNECT => {
            if result == 0 || result == EINPROGRESS {
                let fd = registers.get(register::RDI);
                on_socket(process, fd as u32, flag::CONNECTED);
            }
            return;
        }
        number::ACCEPT | number::ACCEPT4 => {
            if result >= 0 {
                on_socket(process, result as u32, flag::ACCEPTED);
            }
            return;
        }
        number::MMAP => {
            let protection = registers.get(register::RDX);
            let file = registers.get(register::R8) as i32;
            if protection & PROT_EXEC != 0 && file >= 0 {
                report_head(kind::MAP);
            }
            return;
        }
        _ => return,
    };
    if result <= 0 {
        return;
    }
    // `splice` and `sendfile` name where the bytes went first or last; only what goes into a socket matters here.
    let fd =
        if number == number::SPLICE { registers.get(register::RDX) } else { registers.get(register::RDI) };
    let mut socket = stream_socket(fd as u32);
    let writes = number == number::WRITE || number == number::WRITEV;
    if process.output != 0 && writes && (fd == STDOUT || fd == STDERR) {
        // A Unix socket there is the journal's.
        let is_output = match socket {
            Some(socket) => is_unix(socket),
            None => true,
        };
        if is_output {
            flags |= flag::OUTPUT;
            socket = inode_behind(fd as u32);
        }
    }
    let Some(socket) = socket else {
        if number == number::READ {
            on_file(process, fd as u32, registers.get(register::RSI), result as u64);
        }
        return;
    };
    let second = registers.get(register::RSI);
    let third = registers.get(register::RDX);
    let message_flags: u64 = match number {
        number::RECVFROM | number::SENDTO => registers.get(register::R10),
        number::RECVMSG | number::SENDMSG => third,
        _ => 0,
    };
    if message_flags & MSG_OOB != 0 || (flags & flag::RECEIVED != 0 && message_flags & MSG_PEEK != 0) {
        return;
    }
    flush_pending(process);
    let context = current_context(process);
    // Of what is encrypted it is reported where it was given to a TLS library.
    let has_stack = if flags & flag::RECEIVED != 0 {
        process.stacks & stacks::RECEIVED != 0
    } else {
        let told = process.late != 0 && writes;
        flags & flag::OUTPUT != 0 || !told && !is_accepted(socket)
    };
    let encrypted = process.tls != 0 && matches!(buffer, Buffer::Plain) && begins_application_data(second);
    if has_stack && !encrypted {
        flags |= report_stack(process, context);
    }
    let is_framed = process.amqp != 0 && flags & flag::OUTPUT == 0;
    let (vector, count) = match buffer {
        Buffer::Plain => {
            let packed = pack_for(process, fd as u32, flags);
            if is_framed {
                report_framed(socket, second, result as u64, packed, context);
            } else {
                report_bytes(socket, second, result as u64, packed, context);
            }
            return;
        }
        Buffer::None => {
            report_bytes(socket, 0, result as u64, pack_for(process, fd as u32, flags), context);
            return;
        }
        Buffer::Vector => (second, third),
        // `mmsghdr` begins with a `msghdr`; on a stream socket the messages follow each other, and what is behind the
        // first is known by its length only.
        Buffer::Message | Buffer::Messages => {
            if user::<u64>(second + MSGHDR_CONTROL_LENGTH) != 0
                && user::<u64>(user::<u64>(second + MSGHDR_CONTROL) + CMSGHDR_LEVEL) == RIGHTS
            {
                flags |= flag::RIGHTS;
            }
            (user(second + MSGHDR_VECTOR), user(second + MSGHDR_COUNT))
        }
    };
    let length = if let Buffer::Messages = buffer {
        u64::from(user::<u32>(second + MMSGHDR_LENGTH))
    } else {
        result as u64
    };
    let parts = Parts { vector, count, is_framed };
    report_vector(socket, &parts, length, pack_for(process, fd as u32, flags), context);
    if let Buffer::Messages = buffer {
        let mut behind = 0;
        let mut i = 1;
        while i < MESSAGES_MAX && i < result as u64 {
            behind += u64::from(user::<u32>(second + i * MMSGHDR + MMSGHDR_LENGTH));
            i += 1;
        }
        if behind != 0 {
            report_bytes(socket, 0, behind, pack_for(process, fd as u32, flags), context);
        }
    }
}

/// Whether a call waits, and does nothing else.
#[inline(always)]
fn is_wait(number: u64) -> bool {
    matches!(
        number,
        number::POLL
            | number::SELECT
            | number::PAUSE
            | number::NANOSLEEP
            | number::RT_SIGTIMEDWAIT
            | number::FUTEX
            | number::CLOCK_NANOSLEEP
            | number::EPOLL_WAIT
            | number::PSELECT6
            | number::PPOLL
            | number::EPOLL_PWAIT
    )
}

/// Whether a signal has ended a call.
#[inline(always)]
fn is_interrupted(result: i64) -> bool {
    result == EINTR || (result <= RESTART_FIRST && result >= RESTART_LAST)
}

/// A call that waits is over. What has come before its time was up is seen when it is read.
#[inline(always)]
fn on_wait(number: u64, registers: impl Registers, result: i64, process: &Process) {
    if process.steps != 0 && (number == number::EPOLL_WAIT || number == number::EPOLL_PWAIT) {
        let is_look = registers.get(register::R10) as i32 == 0;
        loops::begin(process, registers.get(register::RDI) as i32, is_look);
    }
    let has_come = number == number::RT_SIGTIMEDWAIT && result > 0;
    let interrupted = is_interrupted(result) || has_come;
    let is_up = match number {
        // With a time of 0 or less they only look, or wait for ever.
        _ if interrupted && number != number::FUTEX => true,
        // That its time is up is an error like any other call's that had nothing to do yet.
        number::RT_SIGTIMEDWAIT => false,
        number::POLL => result == 0 && registers.get(register::RDX) as i32 > 0,
        number::EPOLL_WAIT | number::EPOLL_PWAIT => result == 0 && registers.get(register::R10) as i32 > 0,
        number::FUTEX => {
            let word = registers.get(register::RDI);
            let is_over = result == ETIMEDOUT || interrupted;
            is_over && !(word >= process.runtime && word < process.runtime_end)
        }
        _ => result == 0,
    };
    if is_up && process.context_type != 0 {
        flush_pending(process);
        let context = current_context(process);
        let mut flags = report_stack(process, context);
        if interrupted {
            flags |= flag::INTERRUPTED;
        }
        report_flagged(kind::TIMER, flags, context, number);
    }
}

/// Bytes were read that are no socket's. What a loop does is begun by its callbacks: its reads are not told of, nor those of
/// threads without Python.
#[inline(always)]
fn on_file(process: &Process, fd: u32, buffer: u64, length: u64) {
    let Some(found) = source(fd) else { return };
    let begins = process.context_type != 0 && !loops::is_in_step() && thread_state(process) != 0;
    let is_told = found.is_pipe && process.pipes != 0;
    if !begins && !is_told {
        return;
    }
    flush_pending(process);
    let context = current_context(process);
    if begins {
        // First, so that it is seen how long the thread has rested.
        let flags = flag::FILE | report_stack(process, context);
        report_flagged(kind::TIMER, flags, context, found.id);
    }
    if is_told {
        report_pipe(found.id, buffer, length, fd, context);
    }
}

/// A socket was connected or accepted.
#[inline(always)]
fn on_socket(process: &Process, fd: u32, flags: u16) {
    let Some(socket) = stream_socket(fd) else { return };
    flush_pending(process);
    let context = current_context(process);
    report_socket(socket, pack(fd, flags), context);
}

/// A vector of buffers.
struct Parts {
    /// Its address.
    vector: u64,
    /// How many it has.
    count: u64,
    /// Frames may be in them.
    is_framed: bool,
}

/// Reports `length` bytes that fill the buffers of a vector in order.
#[inline(always)]
fn report_vector(socket: u64, parts: &Parts, length: u64, packed: u64, context: u64) {
    let mut left = length;
    let mut i = 0;
    while i < VECTOR_MAX {
        if i >= parts.count || left == 0 {
            break;
        }
        let part = parts.vector + i * IOVEC;
        let size: u64 = user(part + IOVEC_LENGTH);
        let taken = if size < left { size } else { left };
        if taken != 0 && parts.is_framed {
            report_framed(socket, user(part), taken, packed, context);
        } else if taken != 0 {
            report_bytes(socket, user(part), taken, packed, context);
        }
        left -= taken;
        i += 1;
    }
    if left != 0 {
        report_bytes(socket, 0, left, packed, context);
    }
}

/// The first argument of a traced function, read as memory. A plain load is refused (`btf_ctx_access`,
/// `kernel/bpf/btf.c`: "type FWD is not a struct") where a kernel's types know `struct pt_regs` only as a forward
/// declaration at that function, as Debian's 5.10 does at `__x64_sys_connect`.
#[inline(always)]
fn first_of_function(ctx: &FExitContext) -> Address {
    Address(kernel(ctx.as_ptr() as u64))
}

#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit_btf(ctx: BtfTracePointContext) -> i32 {
    on_exit(&ctx, true, |ctx| Known(argument(ctx, 0) as *const u8), on_known);
    0
}

#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit_raw(ctx: RawTracePointContext) -> i32 {
    on_exit(&ctx, false, |ctx| Address(argument(ctx, 0)), on_address);
    0
}

/// One `fexit` program per system call function: a program of this type belongs to one function. That of `pause` is not in the
/// types of Linux 5.10: what a signal starts there is not seen this way.
macro_rules! fexit_programs {
    ($($name:ident $function:literal)*) => {$(
        #[fexit(function = $function)]
        pub fn $name(ctx: FExitContext) -> i32 {
            on_exit(&ctx, false, first_of_function, on_address);
            0
        }
    )*};
}

fexit_programs! {
    fexit_read "__x64_sys_read"
    fexit_write "__x64_sys_write"
    fexit_close "__x64_sys_close"
    fexit_poll "__x64_sys_poll"
    fexit_select "__x64_sys_select"
    fexit_rt_sigtimedwait "__x64_sys_rt_sigtimedwait"
    fexit_nanosleep "__x64_sys_nanosleep"
    fexit_futex "__x64_sys_futex"
    fexit_clock_nanosleep "__x64_sys_clock_nanosleep"
    fexit_epoll_wait "__x64_sys_epoll_wait"
    fexit_pselect6 "__x64_sys_pselect6"
    fexit_ppoll "__x64_sys_ppoll"
    fexit_epoll_pwait "__x64_sys_epoll_pwait"
    fexit_mmap "__x64_sys_mmap"
    fexit_readv "__x64_sys_readv"
    fexit_writev "__x64_sys_writev"
    fexit_sendfile "__x64_sys_sendfile64"
    fexit_connect "__x64_sys_connect"
    fexit_accept "__x64_sys_accept"
    fexit_sendto "__x64_sys_sendto"
    fexit_recvfrom "__x64_sys_recvfrom"
    fexit_sendmsg "__x64_sys_sendmsg"
    fexit_recvmsg "__x64_sys_recvmsg"
    fexit_splice "__x64_sys_splice"
    fexit_accept4 "__x64_sys_accept4"
    fexit_preadv "__x64_sys_preadv"
    fexit_pwritev "__x64_sys_pwritev"
    fexit_recvmmsg "__x64_sys_recvmmsg"
    fexit_sendmmsg "__x64_sys_sendmmsg"
    fexit_preadv2 "__x64_sys_preadv2"
    fexit_pwritev2 "__x64_sys_pwritev2"
}
