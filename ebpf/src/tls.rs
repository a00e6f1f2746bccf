//! The plaintext that goes through OpenSSL (1.1 and 3), at its read and write functions.
//!
//! What a call has read, and how much it has written, is known when it returns; the registers of its arguments are lost
//! then, so its entry notes them. The same stack limit applies as in [`crate::python`].
//!
//! Both programs go on `ssl_read_internal` and `ssl_write_internal` (ssl/ssl_lib.c), which `SSL_read` and `SSL_read_ex`
//! share, or where a build has none on the exported functions.

use adder_ebpf::{HEAD_MAX, TAIL_MAX, Tls, buffer_of, flag, kind, stacks};
use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_user},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{
    amqp::{UNKNOWN, wanted_plaintext},
    frames::report_stack,
    kernel::user,
    maps::{FACTS, TLS_CALLS, TLS_STREAMS, TlsCall, TlsStream, setting},
    python::{current_context, flush_pending},
    record::{count_drop, current, report_number, wake_flags, watched, write_header},
};

/// Bit of [`TlsCall::ssl`]: the call reads.
const READS: u64 = 1;
/// Bit of the address of a context, which is free in it: the stack was reported ([`flag::STACKED`], shifted).
const STACKED: u64 = 1;
/// Bit of [`TlsStream::sent`]: the object is a server's. A word of its own is more than [`begin_stream`] has stack for.
const ACCEPTS: u64 = 1 << 63;
/// The bits of [`TlsCall::ssl`] that are no address: `SSL` objects are allocated, and so aligned to 16 bytes.
const BITS: u64 = 15;

/// Notes a call. `out` is where it will leave the number of bytes, 0 where it returns it.
#[inline(always)]
fn enter(ctx: &ProbeContext, reads: u64, out: u64) -> u32 {
    let (pid, _) = current();
    if watched(pid).is_none() {
        return 0;
    }
    let (_, tid) = current();
    let mut call = TLS_CALLS.get_ptr_mut(tid);
    if call.is_none() {
        begin_calls(tid);
        call = TLS_CALLS.get_ptr_mut(tid);
    }
    let Some(call) = call else { return 0 };
    unsafe {
        (&raw mut (*call).ssl).write(ctx.arg::<u64>(0).unwrap_or(0) & !BITS | reads);
        (&raw mut (*call).buffer).write(ctx.arg(1).unwrap_or(0));
        (&raw mut (*call).out).write_volatile(out);
        (&raw mut (*call).socket).write_volatile(0);
        (&raw mut (*call).time).write(bpf_ktime_get_ns());
    }
    0
}

/// Makes room for the calls of a thread. Not inlined: it costs stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_calls(tid: u32) -> u32 {
    let _ = TLS_CALLS.insert(tid, TlsCall { ssl: 0, buffer: 0, out: 0, socket: 0, time: 0 }, 0);
    0
}

/// Entry of `ssl_read_internal` or `SSL_read_ex` `(ssl, buf, num, *readbytes)`.
#[uprobe]
pub fn tls_read_ex(ctx: ProbeContext) -> u32 {
    enter(&ctx, READS, ctx.arg(3).unwrap_or(0))
}

/// Entry of `SSL_read(ssl, buf, num)`.
#[uprobe]
pub fn tls_read(ctx: ProbeContext) -> u32 {
    enter(&ctx, READS, 0)
}

/// Entry of `ssl_write_internal` before OpenSSL 3.3, or `SSL_write_ex` `(ssl, buf, num, *written)`.
#[uprobe]
pub fn tls_write_ex(ctx: ProbeContext) -> u32 {
    enter(&ctx, 0, ctx.arg(3).unwrap_or(0))
}

/// Entry of `ssl_write_internal(ssl, buf, num, flags, *written)` since OpenSSL 3.3.
#[uprobe]
pub fn tls_write_flags(ctx: ProbeContext) -> u32 {
    enter(&ctx, 0, ctx.arg(4).unwrap_or(0))
}

/// Entry of `SSL_write(ssl, buf, num)`.
#[uprobe]
pub fn tls_write(ctx: ProbeContext) -> u32 {
    enter(&ctx, 0, 0)
}

/// Return of any of them: positive where bytes went.
#[uretprobe]
pub fn tls_return(ctx: RetProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    let result = ctx.ret::<u64>() as i32;
    let Some(call) = current_call() else { return 0 };
    if result <= 0 {
        unsafe { (&raw mut (*call).ssl).write(0) };
        return 0;
    }
    flush_pending(process);
    let mut context = current_context(process);
    // As of what is not encrypted.
    let ssl = unsafe { (*call).ssl };
    let has_stack = if ssl & READS != 0 { process.stacks & stacks::RECEIVED != 0 } else { !accepts(ssl) };
    if has_stack && report_stack(process, context) != 0 {
        context |= STACKED;
    }
    // Asked for again: what is kept over all of the above lies on the stack.
    let Some(call) = current_call() else { return 0 };
    unsafe {
        let out = (&raw const (*call).out).read();
        let mut length = u64::from(result as u32);
        if out != 0 {
            length = user(out);
        }
        // From here on the noted call holds the position instead: a register less to keep.
        (&raw mut (*call).out).write(position((*call).ssl, length));
        let mut keep = length;
        if (*call).ssl & READS != 0 {
            if process.amqp != 0 {
                keep = wanted_plaintext(stream_key((*call).ssl), (*call).out, (*call).buffer, length);
            }
            (&raw mut (*call).time).write(keep);
        }
        if keep <= 128 {
            capture::<128, 0>(call, length, context);
        } else if keep <= 512 {
            capture::<512, 0>(call, length, context);
        } else if keep <= 2048 {
            capture::<2048, 0>(call, length, context);
        } else {
            capture::<HEAD_MAX, TAIL_MAX>(call, length, context);
        }
        (&raw mut (*call).ssl).write(0);
    }
    0
}

/// Entry of `SSL_do_handshake(ssl)`.
#[uprobe]
pub fn tls_handshake(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let ssl: u64 = ctx.arg(0).unwrap_or(0);
    report_number(kind::TLS_HANDSHAKE, current_context(process), ssl & !BITS);
    0
}

/// Entry of `SSL_set_accept_state(ssl)`: what is written to this object answers somebody.
#[uprobe]
pub fn tls_accept(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    if watched(pid).is_none() {
        return 0;
    }
    let key = stream_key(ctx.arg(0).unwrap_or(0));
    begin_stream(key);
    if let Some(stream) = TLS_STREAMS.get_ptr_mut(key) {
        unsafe { (&raw mut (*stream).sent).write(ACCEPTS) };
    }
    0
}

/// Entry of `SSL_free(ssl)`.
#[uprobe]
pub fn tls_free(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    if watched(pid).is_none() {
        return 0;
    }
    let ssl: u64 = ctx.arg(0).unwrap_or(0);
    let key = stream_key(ssl);
    // Most connections of a process that ends were never used here; a free of what was not seen says nothing.
    if unsafe { TLS_STREAMS.get(key) }.is_some() {
        let _ = TLS_STREAMS.remove(key);
        report_number(kind::TLS_FREE, 0, ssl & !BITS);
    }
    0
}

/// Key of an object of the current process: addresses have 47 bits, of which four are 0, process ids up to 22.
#[inline(always)]
fn stream_key(ssl: u64) -> u64 {
    let (pid, _) = current();
    ssl >> 4 | u64::from(pid) << 43
}

/// The position of `length` bytes in their stream, which they move on.
#[inline(always)]
fn position(ssl: u64, length: u64) -> u64 {
    let key = stream_key(ssl);
    let mut stream = TLS_STREAMS.get_ptr_mut(key);
    if stream.is_none() {
        begin_stream(key);
        stream = TLS_STREAMS.get_ptr_mut(key);
    }
    let Some(stream) = stream else { return 0 };
    unsafe {
        let position = if ssl & READS != 0 { &raw mut (*stream).received } else { &raw mut (*stream).sent };
        let before = *position;
        *position = before + length;
        before & !ACCEPTS
    }
}

/// Whether an object was seen to be a server's.
#[inline(always)]
fn accepts(ssl: u64) -> bool {
    let Some(stream) = TLS_STREAMS.get_ptr(stream_key(ssl)) else { return false };
    unsafe { (*stream).sent & ACCEPTS != 0 }
}

/// Starts counting the bytes of an object. Not inlined: it costs stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_stream(key: u64) -> u32 {
    let _ = TLS_STREAMS.insert(key, TlsStream { sent: 0, received: 0, frames: UNKNOWN }, 0);
    0
}

/// Reports plaintext with room for `HEAD` bytes of the front and `TAIL` of the end.
#[inline(always)]
unsafe fn capture<const HEAD: usize, const TAIL: usize>(call: *mut TlsCall, length: u64, context: u64) {
    let Some(mut entry) = FACTS.reserve_bytes(size_of::<Tls>() + HEAD + TAIL, 0) else {
        count_drop();
        return;
    };
    let start = entry.as_mut_ptr();
    let fact = start.cast::<Tls>();
    unsafe {
        write_header(&raw mut (*fact).header, kind::TLS, 0, context);
        // By way of memory, or there are too many variables at a time.
        let marked = (&raw const (*fact).header.context).read_volatile();
        (&raw mut (*fact).header.context).write(marked & !STACKED);
        (&raw mut (*fact).header.buffer).write(buffer_of((*call).buffer));
        let reads = if (*call).ssl & READS != 0 { flag::RECEIVED } else { 0 };
        let detached = if (*call).socket == 0 { flag::DETACHED } else { 0 };
        (&raw mut (*fact).header.flags).write(reads | detached | ((marked & STACKED) as u16) << 8);
        if reads | detached == 0 {
            // The bytes have left within the call, and the other side may have answered before it returned.
            (&raw mut (*fact).header.time).write((*call).time);
        }
        (&raw mut (*fact).ssl).write((*call).ssl & !BITS);
        (&raw mut (*fact).socket).write((*call).socket);
        (&raw mut (*fact).offset).write((*call).out);
        (&raw mut (*fact).length).write(length);
        let mut head = if (*call).ssl & READS != 0 { (*call).time } else { length };
        let most =
            u64::from(if (*call).ssl & READS != 0 { setting!(head_received) } else { setting!(head_sent) });
        if head > most {
            head = most;
        }
        // By way of memory: the compiler knows that it fits, leaves the comparison out, and old verifiers do not see why.
        (&raw mut (*fact).head).write_volatile(head as u32);
        head = u64::from((&raw const (*fact).head).read_volatile());
        if head > HEAD as u64 {
            head = HEAD as u64;
        }
        let at = start.add(size_of::<Tls>()).cast();
        if head != 0 && bpf_probe_read_user(at, head as u32, (*call).buffer as *const _) != 0 {
            head = 0;
        }
        (&raw mut (*fact).head).write(head as u32);
        let mut tail = 0;
        if TAIL != 0 && head != 0 {
            tail = length - head;
            let most = u64::from(setting!(tail));
            if tail > most {
                tail = most;
            }
            if tail > TAIL as u64 {
                tail = TAIL as u64;
            }
            let at = start.add(size_of::<Tls>() + HEAD).cast();
            let from = (*call).buffer + length - tail;
            if tail != 0 && bpf_probe_read_user(at, tail as u32, from as *const _) != 0 {
                tail = 0;
            }
        }
        (&raw mut (*fact).tail).write(tail as u32);
    }
    entry.submit(wake_flags());
}

/// The call of a TLS library in which the current thread is.
#[inline(always)]
pub fn current_call() -> Option<*mut TlsCall> {
    let (_, tid) = current();
    let call = TLS_CALLS.get_ptr_mut(tid)?;
    (unsafe { (*call).ssl } != 0).then_some(call)
}
