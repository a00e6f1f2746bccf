//! Where frames of AMQP 0-9-1 begin in what goes through a socket (*AMQP 0-9-1 specification*, section 4.2.3).
//!
//! Bodies are most of the bytes, and of them only the front matters; but a read or write that is larger than what is captured
//! of one may have other messages behind a body. So it is followed here where each frame ends: a large body becomes a fact
//! of its own with its first bytes alone, and what comes behind it begins another.

use adder_ebpf::{BODY_HEAD, HEAD_MAX, flag};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::{
    kernel::user,
    maps::{FRAMES, FrameStream, SOCKETS, setting},
    socket::{inode_of, limited, report_bytes},
};

/// Octets of a frame before its payload, and with the one behind it.
const HEAD: u64 = 7;
const OVERHEAD: u64 = 8;
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
/// Frames up to this length are captured whole, bytes.
const WHOLE_MAX: u64 = 8192;
/// What is captured of one that is longer, bytes.
const LARGE_HEAD: u64 = HEAD + BODY_HEAD as u64;
/// Most pieces that a call's bytes are cut into, and most frames of one piece.
const PIECES_MAX: u32 = 64;
const FRAMES_MAX: u32 = 128;
/// Value of [`FrameStream::next`]: it is not known.
const LOST: u64 = u64::MAX;

/// Length of the frame that begins with these octets, without anything it does not say; 0 where they are none.
#[inline(always)]
fn length_of(head: u64) -> u64 {
    if head as u32 == PREAMBLE {
        return OVERHEAD;
    }
    let size = u64::from(((head >> 24) as u32).swap_bytes());
    match head & 0xff {
        METHOD | HEADER | BODY | HEARTBEAT if size <= PAYLOAD_MAX => size + OVERHEAD,
        _ => 0,
    }
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
                let wanted = if frame > whole { LARGE_HEAD } else { frame };
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
    let received = packed as u16 & flag::RECEIVED != 0;
    let cap = u64::from(if received { setting!(head_received) } else { setting!(head_sent) }) - LARGE_HEAD;
    let whole = if cap < WHOLE_MAX { cap } else { WHOLE_MAX };
    let Some((frames, position)) = frames_of(socket, received, buffer, length) else {
        report_bytes(socket, buffer, length, packed, context);
        return 0;
    };
    if !unsafe { find_place(frames, position, buffer, length, whole) } {
        unsafe { (&raw mut (*frames).next).write_volatile(LOST) };
        report_bytes(socket, buffer, length, packed, context);
        return 0;
    }
    let end = position + length;
    let mut packed = packed;
    let mut start = position;
    let mut i = 0;
    // Its state is kept in memory, of which the verifier knows nothing: so it sees at once that one turn is like the other.
    while i < PIECES_MAX {
        let mut next = unsafe { (&raw const (*frames).next).read_volatile() };
        let mut wanted = unsafe { (&raw const (*frames).wanted).read_volatile() };
        if wanted >= next && next < end {
            next += small_frames(buffer + (next - position), end - next, whole, cap - (next - start));
            wanted = next;
            if next + OVERHEAD <= end {
                let frame = length_of(user(buffer + (next - position)));
                if frame == 0 {
                    break;
                }
                if frame > whole {
                    wanted = next + LARGE_HEAD;
                    next += frame;
                }
            }
        }
        let is_large = wanted < next;
        let mut stop = end;
        if next < end && (is_large || next + OVERHEAD <= end) {
            stop = next;
        }
        let kept = if is_large && wanted < stop { wanted } else { stop };
        unsafe {
            (&raw mut (*frames).next).write_volatile(next);
            (&raw mut (*frames).wanted).write_volatile(if stop < end { next } else { wanted });
        }
        let keep = if kept > start { kept - start } else { 0 };
        report_bytes(socket, buffer + (start - position), stop - start, limited(packed, keep), context);
        packed |= u64::from(flag::CONTINUED);
        if stop >= end {
            if next < end {
                unsafe { begin(frames, buffer + (next - position), end - next) };
            }
            return 0;
        }
        start = stop;
        i += 1;
    }
    // What is left is reported as of any other protocol.
    unsafe { (&raw mut (*frames).next).write_volatile(LOST) };
    report_bytes(socket, buffer + (start - position), end - start, packed, context);
    0
}

/// What is known of the frames in one direction of a socket, and the position of the call's bytes in it. `None` where none have
/// begun in it so far.
#[inline(always)]
fn frames_of(socket: u64, received: bool, buffer: u64, length: u64) -> Option<(*mut FrameStream, u64)> {
    let inode = inode_of(socket);
    let stream = SOCKETS.get_ptr(socket)?;
    let position = unsafe {
        if (*stream).inode != inode {
            return None;
        }
        if received { (*stream).received } else { (*stream).sent }
    };
    let key = socket | u64::from(received);
    if let Some(frames) = FRAMES.get_ptr_mut(key)
        && unsafe { (*frames).inode } == inode
    {
        return Some((frames, position));
    }
    if !begins_frame(buffer, length) {
        return None;
    }
    let _ = FRAMES.insert(key, FrameStream { inode, next: position, wanted: position, begun: 0 }, 0);
    FRAMES.get_ptr_mut(key).map(|frames| (frames, position))
}

/// Notes the octets of a head that is cut.
#[inline(always)]
unsafe fn begin(frames: *mut FrameStream, from: u64, octets: u64) {
    let begun = unsafe { &raw mut (*frames).begun };
    unsafe {
        begun.write_volatile(0);
        bpf_probe_read_user(begun.cast(), (octets & 7) as u32, from as *const _);
    }
}

const _: () = assert!((WHOLE_MAX + LARGE_HEAD) as usize <= HEAD_MAX, "a fact holds a whole frame");
