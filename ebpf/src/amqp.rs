//! Where frames of AMQP 0-9-1 begin in what goes through a socket (*AMQP 0-9-1 specification*, section 4.2.3).
//!
//! Bodies are most of the bytes, and of them only the front matters; but a read or write that is larger than what is captured
//! of one may have other messages behind a body. So it is followed here where each frame ends: one that does not fit into a fact
//! ends it, of a body with its first bytes alone, and what comes behind begins another.

use adder_ebpf::{BODY_HEAD, HEAD_MAX, flag};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::{
    kernel::user,
    maps::{FRAMES, FrameStream, SOCKETS, SocketFrames, TLS_STREAMS, setting},
    socket::{inode_of, limited, report_bytes},
};

/// Octets of a frame before its payload, and with the one behind it.
const HEAD: u64 = 7;
pub const OVERHEAD: u64 = 8;
/// Types of frames.
const METHOD: u64 = 1;
const HEADER: u64 = 2;
const BODY: u64 = 3;
const HEARTBEAT: u64 = 8;
/// `AMQP`, as it lies in a word.
const PREAMBLE: u32 = u32::from_le_bytes(*b"AMQP");
/// Last octet of a frame.
const FRAME_END: u8 = 0xce;
/// Classes of methods, `connection` to `confirm`, and `basic`, whose messages alone have a content header.
const CLASSES: [u16; 7] = [10, 20, 40, 50, 85, 90, BASIC];
const BASIC: u16 = 60;
/// Largest payload that is believed, bytes: there may be no limit (`connection.tune`).
const PAYLOAD_MAX: u64 = 1 << 27;
/// What is wanted of the frame of a body, and of any other, that does not fit whole into a fact, bytes.
const LARGE_BODY: u64 = HEAD + BODY_HEAD as u64;
const LARGE_OTHER: u64 = 1 << 16;
/// Most pieces that a call's bytes are cut into, and most frames of one piece.
const PIECES_MAX: u32 = 64;
const FRAMES_MAX: u32 = 128;
/// The same of a TLS record, and the longest frame that is captured whole out of some.
const RECORD_PIECES: u32 = 8;
const RECORD_MAX: u64 = HEAD_MAX as u64;
/// Value of [`FrameStream::next`]: it is not known.
const LOST: u64 = u64::MAX;

/// Length of the frame that begins with these octets, without anything it does not say; 0 where they are none.
#[inline(always)]
pub fn length_of(head: u64) -> u64 {
    if head as u32 == PREAMBLE {
        return OVERHEAD;
    }
    let size = u64::from(((head >> 24) as u32).swap_bytes());
    match head & 0xff {
        METHOD | HEADER | BODY | HEARTBEAT if size <= PAYLOAD_MAX => size + OVERHEAD,
        _ => 0,
    }
}

/// How many bytes are wanted of a frame that begins with these octets and is longer than `whole`.
#[inline(always)]
fn wanted_of(head: u64, frame: u64) -> u64 {
    let most = if head & 0xff == BODY { LARGE_BODY } else { LARGE_OTHER };
    if frame < most { frame } else { most }
}

/// Whether a frame begins here that cannot be anything else: a method, content header or heartbeat to its end octet, or
/// the protocol header.
#[inline(always)]
fn begins_frame(buffer: u64, length: u64) -> bool {
    let head: u64 = user(buffer);
    let frame = length_of(head);
    if frame == 0 || frame > length {
        return false;
    }
    if head as u32 == PREAMBLE {
        return true;
    }
    let class = user::<u16>(buffer + HEAD).swap_bytes();
    let is_sound = match head & 0xff {
        METHOD => frame >= OVERHEAD + 4 && CLASSES.contains(&class),
        HEADER => frame >= OVERHEAD + 14 && class == BASIC,
        HEARTBEAT => frame == OVERHEAD,
        _ => false,
    };
    is_sound && user::<u8>(buffer + frame - 1) == FRAME_END
}

/// Length of the frames at the beginning of `length` bytes that are not longer than `whole` each and together not than `most`; the
/// last of them may end behind the bytes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn small_frames(buffer: u64, length: u64, whole: u64, most: u64) -> u64 {
    let mut at = 0;
    let mut i = 0;
    while i < FRAMES_MAX {
        // With the octet behind it, or there would be more to read than there is.
        if at + OVERHEAD > length {
            break;
        }
        let frame = length_of(user(buffer + at));
        if frame == 0 || frame > whole || at + frame > most {
            break;
        }
        at += frame;
        i += 1;
    }
    at
}

/// A stream of which nothing is known.
pub const UNKNOWN: FrameStream = FrameStream { next: LOST, wanted: 0, begun: 0 };

/// Where the next frame begins behind the front of a call's bytes, in [`FrameStream::next`] and [`FrameStream::wanted`], of a
/// socket at a position in its stream. False where that is not known.
#[inline(always)]
unsafe fn find_place(frames: *mut FrameStream, position: u64, buffer: u64, length: u64, whole: u64) -> bool {
    unsafe {
        let next = (&raw const (*frames).next).read_volatile();
        if next >= position && next != LOST {
            return true;
        }
        let split = position - next;
        if next != LOST && split < OVERHEAD && split + length >= OVERHEAD {
            // As many of its octets came before.
            let head = user::<u64>(buffer) << (8 * (split & 7)) | (*frames).begun;
            let frame = length_of(head);
            if frame > split {
                let wanted = if frame > whole { wanted_of(head, frame) } else { frame };
                (&raw mut (*frames).next).write_volatile(next + frame);
                (&raw mut (*frames).wanted).write_volatile(next + wanted);
                return true;
            }
        }
        if !begins_frame(buffer, length) {
            return false;
        }
        (&raw mut (*frames).next).write_volatile(position);
        (&raw mut (*frames).wanted).write_volatile(position);
        true
    }
}

/// [`report_bytes`] for a socket through which AMQP may go: in pieces, each of which ends with a frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_framed(socket: u64, buffer: u64, length: u64, packed: u64, context: u64) -> u32 {
    let mut start = position_of(socket, packed);
    let Some(frames) = frames_of(socket, packed, buffer, length) else {
        report_bytes(socket, buffer, length, packed, context);
        return 0;
    };
    if !unsafe { find_place(frames, start, buffer, length, cap(packed)) } {
        unsafe { (&raw mut (*frames).next).write_volatile(LOST) };
        report_bytes(socket, buffer, length, packed, context);
        return 0;
    }
    // The address of a byte is its position and this.
    let base = buffer.wrapping_sub(start);
    let end = start + length;
    let mut packed = packed;
    let mut i = 0;
    while i < PIECES_MAX {
        let stop = end_of_piece(key_of(socket, packed), base, start, end, packed);
        if stop <= start {
            break;
        }
        let kept = unsafe { (&raw const (*frames).begun).read_volatile() };
        let part = base.wrapping_add(start);
        report_bytes(socket, part, stop - start, limited(packed, kept.wrapping_sub(start)), context);
        packed |= u64::from(flag::CONTINUED);
        if stop >= end {
            unsafe { begin(frames, base, end) };
            return 0;
        }
        start = stop;
        i += 1;
    }
    // What is left is reported as of any other protocol.
    unsafe { (&raw mut (*frames).next).write_volatile(LOST) };
    report_bytes(socket, base.wrapping_add(start), end - start, packed, context);
    0
}

/// Where the piece of a call's bytes ends that begins at position `start`, and in [`FrameStream::begun`], where what is wanted of
/// it ends. 0 where there is no frame.
///
/// By itself, so that the verifier goes through it once and not for each turn of a loop.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_of_piece(key: u64, base: u64, start: u64, end: u64, packed: u64) -> u64 {
    let Some(known) = FRAMES.get_ptr_mut(key) else { return 0 };
    let frames = unsafe { &raw mut (*known).frames };
    let mut next = unsafe { (&raw const (*frames).next).read_volatile() };
    let mut wanted = unsafe { (&raw const (*frames).wanted).read_volatile() };
    if next - start == 1 {
        // The octet at the end of a frame is no piece of its own: who reads it by itself is known by that.
        wanted = next;
    }
    if wanted >= next && next < end {
        let cap = cap(packed);
        next += small_frames(base.wrapping_add(next), end - next, cap, cap.wrapping_sub(next - start));
        wanted = next;
        if next + OVERHEAD <= end {
            let head: u64 = user(base.wrapping_add(next));
            let frame = length_of(head);
            if frame == 0 {
                return 0;
            }
            // What is wanted of it has room behind the others, or it begins the next piece.
            let part = wanted_of(head, frame);
            if frame > cap && (next == start || next - start + part <= cap) {
                wanted = next + part;
                next += frame;
            }
        }
    }
    let is_large = wanted < next;
    let mut stop = end;
    // The octets of a head that is cut have a piece of their own where there is no room for them.
    let is_full = next > start && end - start > cap(packed);
    if next < end && (is_large || next + OVERHEAD <= end || is_full) {
        stop = next;
    }
    let mut kept = if is_large && wanted < stop { wanted } else { stop };
    if kept < start {
        kept = start;
    }
    unsafe {
        (&raw mut (*frames).next).write_volatile(next);
        (&raw mut (*frames).wanted).write_volatile(if next > end { wanted } else { next });
        (&raw mut (*frames).begun).write_volatile(kept);
    }
    stop
}

/// Most bytes of a piece that are captured, so the length of the longest frame that is captured whole.
#[inline(always)]
fn cap(packed: u64) -> u64 {
    let received = packed as u16 & flag::RECEIVED != 0;
    u64::from(if received { setting!(head_received) } else { setting!(head_sent) })
}

/// Key of [`FRAMES`].
#[inline(always)]
fn key_of(socket: u64, packed: u64) -> u64 {
    socket | packed & u64::from(flag::RECEIVED)
}

/// The position of what is moved in a socket's stream, if the socket is known.
#[inline(always)]
fn position_of(socket: u64, packed: u64) -> u64 {
    let Some(stream) = SOCKETS.get_ptr(socket) else { return 0 };
    unsafe { if packed as u16 & flag::RECEIVED != 0 { (*stream).received } else { (*stream).sent } }
}

/// What is known of the frames in one direction of a socket. `None` where none have begun in it so far.
#[inline(always)]
fn frames_of(socket: u64, packed: u64, buffer: u64, length: u64) -> Option<*mut FrameStream> {
    let inode = inode_of(socket);
    let stream = SOCKETS.get_ptr(socket)?;
    if unsafe { (*stream).inode } != inode {
        return None;
    }
    let key = key_of(socket, packed);
    if let Some(known) = FRAMES.get_ptr_mut(key)
        && unsafe { (*known).inode } == inode
    {
        return Some(unsafe { &raw mut (*known).frames });
    }
    if !begins_frame(buffer, length) {
        return None;
    }
    follow(key, inode);
    FRAMES.get_ptr_mut(key).map(|known| unsafe { &raw mut (*known).frames })
}

/// From now on it is followed where frames begin in one direction of a socket. Not inlined: it costs stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn follow(key: u64, inode: u64) -> u32 {
    let _ = FRAMES.insert(key, SocketFrames { inode, frames: UNKNOWN }, 0);
    0
}

/// How many of `length` bytes of plaintext that an `SSL` object has received, at this position, are captured: where they end in a large
/// frame, those before the rest of it. A library reads no more at once than a record has (RFC 8446, section 5.1), so what comes behind
/// a large frame is always captured.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn wanted_plaintext(stream: u64, position: u64, buffer: u64, length: u64) -> u64 {
    let Some(stream) = TLS_STREAMS.get_ptr_mut(stream) else { return length };
    let frames = unsafe { &raw mut (*stream).frames };
    let base = buffer.wrapping_sub(position);
    let end = position + length;
    let is_known = unsafe { find_place(frames, position, buffer, length, RECORD_MAX) };
    let mut i = 0;
    while is_known && i < RECORD_PIECES {
        let mut next = unsafe { (&raw const (*frames).next).read_volatile() };
        if next >= end {
            let wanted = unsafe { (&raw const (*frames).wanted).read_volatile() };
            if wanted >= next || wanted >= end {
                return length;
            }
            return if wanted > position { wanted - position } else { 0 };
        }
        next += small_frames(base.wrapping_add(next), end - next, RECORD_MAX, u64::MAX);
        let mut wanted = next;
        if next + OVERHEAD <= end {
            let head: u64 = user(base.wrapping_add(next));
            let frame = length_of(head);
            if frame == 0 {
                break;
            }
            if frame > RECORD_MAX {
                wanted = next + wanted_of(head, frame);
                next += frame;
            }
        }
        unsafe {
            (&raw mut (*frames).next).write_volatile(next);
            (&raw mut (*frames).wanted).write_volatile(wanted);
        }
        if next < end && next + OVERHEAD > end {
            unsafe { begin(frames, base, end) };
            return length;
        }
        i += 1;
    }
    unsafe { (&raw mut (*frames).next).write_volatile(LOST) };
    length
}

/// Notes the octets of the next frame's head, if it is cut where a call's bytes end.
#[inline(always)]
unsafe fn begin(frames: *mut FrameStream, base: u64, end: u64) {
    unsafe {
        let next = (&raw const (*frames).next).read_volatile();
        if next < end {
            let begun = &raw mut (*frames).begun;
            begun.write_volatile(0);
            bpf_probe_read_user(begun.cast(), (end - next & 7) as u32, base.wrapping_add(next) as *const _);
        }
    }
}
