//! Where in the code a thread is: the chain of its Python frames.
//!
//! Frames are linked from the innermost outwards: `PyFrameObject.f_back` up to 3.10, `_PyInterpreterFrame.previous` since
//! (Include/internal/pycore_frame.h). A coroutine that is awaited hangs below the one that awaits it while it runs, so
//! the chain is the whole stack under asyncio too. It is read by the thread itself, in a system call that it has made: it
//! cannot change meanwhile.

use adder_ebpf::{
    FAR, FRAME_BYTES, FRAMES_MAX, MARK_END, MARK_STREAM, MarkKey, Process, Stack, Stream, TEXT_HEAD,
    TEXT_MAX, Text, code_of, flag, kind, mark_bit,
};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::{
    kernel::user,
    maps::{FACTS, MARKS},
    python::thread_state,
    record::{count_drop, current, wake_flags, watched, write_header},
};

/// Where each frame is read, behind the frames, and then the address of a text, or what [`report_stream`] takes: the stack of these
/// programs has no room.
const SCRATCH: usize = size_of::<Stack>() + FRAMES_MAX * 8;
/// `PyASCIIObject.length` and `state` (Include/cpython/unicodeobject.h).
const LENGTH: u64 = 16;
const STATE: u64 = 32;
/// `PyVarObject.ob_size` of an `int` up to 3.11, `_PyLongValue.lv_tag` since (Include/cpython/longintrepr.h), and its digits.
const TAG: u64 = 16;
const DIGITS: u64 = 24;
/// The tag of a positive number with one digit up to 3.11, and since; what 3.14 sets besides in those that are never freed.
const ONE_DIGIT: [u64; 2] = [1, 1 << 3];
const IMMORTAL: u64 = 1 << 2;
/// Keeps an offset in the part of a frame that was read within it.
const IN_FRAME: u64 = FRAME_BYTES as u64 - 8;

/// Reports the frames of this thread, if that is wanted of its process; the flag for the fact that is made there.
#[inline(always)]
pub fn report_stack(process: &Process, context: u64) -> u16 {
    if process.frame != 0 && report_frames(thread_state(process), context) != 0 { flag::STACKED } else { 0 }
}

/// Reads a field of the configuration where it is used: kept in a variable, it would take a place on the stack.
macro_rules! field {
    ($process:ident.$field:ident) => {
        unsafe { u64::from((&raw const $process.$field).read_volatile()) }
    };
}

/// Reports the frames that hang at a thread state: 1 where there were any. Global to the verifier, like
/// [`crate::socket::report_bytes`]; with as little stack as a uprobe program ([`crate::python`]), which may call it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_frames(state: u64, context: u64) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    let mut frame: u64 = user(state + field!(process.frame));
    if process.cframe != 0 {
        frame = user(frame + field!(process.cframe) - 1);
    }
    if frame == 0 {
        return 0;
    }
    let Some(mut entry) = FACTS.reserve_bytes(SCRATCH + FRAME_BYTES + 8, 0) else {
        count_drop();
        return 0;
    };
    let start = entry.as_mut_ptr();
    unsafe { write_header(&raw mut (*start.cast::<Stack>()).header, kind::STACK, 0, context) };
    unsafe { text_at(start).write_volatile(0) };
    let mut count = 0;
    while count < FRAMES_MAX {
        let size = field!(process.frame_size) & (FRAME_BYTES as u64 - 1);
        let from = frame + field!(process.frame_from);
        let scratch = unsafe { start.add(SCRATCH).cast() };
        if frame == 0 || unsafe { bpf_probe_read_user(scratch, size as u32, from as *const _) } != 0 {
            break;
        }
        // 3.14 keeps in the low bits how a reference is counted.
        let code = word(start, field!(process.frame_code)) & !7;
        let mut instruction = word(start, field!(process.frame_instruction));
        let code_start = field!(process.code_start);
        if code_start == 0 {
            instruction &= 0xffff_ffff;
        } else {
            instruction = instruction.wrapping_sub(code + code_start);
        }
        instruction >>= field!(process.frame_shift) & 1;
        if instruction > u64::from(FAR) {
            instruction = u64::from(FAR);
        }
        let at = unsafe { start.add(size_of::<Stack>() + count * 8).cast::<u64>() };
        unsafe { at.write(code_of(code) | instruction << 48) };
        count += 1;
        if field!(process.marks) >> mark_bit(code) & 1 != 0 {
            let mark = find_mark(code);
            if mark & MARK_END != 0 {
                frame = 0;
                break;
            }
            // The innermost is that of what was called last.
            if mark != 0 && unsafe { text_at(start).read_volatile() } == 0 {
                if mark & MARK_STREAM != 0 {
                    let mark = u64::from(mark);
                    let number = frame + (mark & 0xffff) | (mark >> 16 & 0xff) << 56 | 1;
                    unsafe { text_at(start).write_volatile(number) };
                } else if field!(process.texts) != 0 {
                    unsafe { text_at(start).write_volatile(user::<u64>(frame + u64::from(mark)) & !7) };
                }
            }
        }
        frame = word(start, field!(process.frame_previous));
    }
    let fact = start.cast::<Stack>();
    let text = unsafe {
        (&raw mut (*fact).count).write(count as u32);
        (&raw mut (*fact).cut).write(u32::from(frame != 0));
        text_at(start).read_volatile()
    };
    entry.submit(wake_flags());
    if text & 1 != 0 {
        report_stream(text);
    } else if text != 0 {
        report_text(text);
    }
    1
}

/// Reports the stream whose number is in the variable at an address, in the low 48 bits; the upper eight are how many variables
/// behind `self` that is, and the lowest is set. Global, likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_stream(place: u64) -> u32 {
    let variable = code_of(place) & !7;
    let number = user::<u64>(variable) & !7;
    let tag = user::<u64>(number + TAG) & !IMMORTAL;
    if tag != ONE_DIGIT[0] && tag != ONE_DIGIT[1] {
        return 0;
    }
    let Some(mut entry) = FACTS.reserve_bytes(size_of::<Stream>(), 0) else {
        count_drop();
        return 0;
    };
    let fact = entry.as_mut_ptr().cast::<Stream>();
    unsafe {
        write_header(&raw mut (*fact).header, kind::STREAM, 0, 0);
        (&raw mut (*fact).object).write(user::<u64>(variable - (place >> 56) * 8) & !7);
        (&raw mut (*fact).number).write(user(number + DIGITS));
        (&raw mut (*fact).reserved).write(0);
    }
    entry.submit(wake_flags());
    0
}

/// Where the address of a text is kept.
#[inline(always)]
unsafe fn text_at(start: *mut u8) -> *mut u64 {
    unsafe { start.add(SCRATCH + FRAME_BYTES).cast() }
}

/// A word of the frame that was read.
#[inline(always)]
fn word(start: *const u8, at: u64) -> u64 {
    unsafe { start.add(SCRATCH + (at & IN_FRAME) as usize).cast::<u64>().read_volatile() }
}

/// What is known of a function; 0 for nothing. Global, likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_mark(code: u64) -> u32 {
    let (pid, _) = current();
    let key = MarkKey { code, pid, reserved: 0 };
    match unsafe { MARKS.get(key) } {
        Some(mark) => *mark,
        None => 0,
    }
}

/// Reports the `str` at an address, as much of it as there is room for. Global, likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_text(text: u64) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    let state: u32 = user(text + STATE);
    let width = u64::from(state) >> field!(process.text_shift) & 7;
    let mut size = user::<u64>(text + LENGTH).wrapping_mul(width).wrapping_add(TEXT_HEAD as u64);
    if size > TEXT_MAX as u64 {
        size = TEXT_MAX as u64;
    }
    if size <= 512 {
        capture_text::<512>(text, size);
    } else {
        capture_text::<TEXT_MAX>(text, size);
    }
    0
}

#[inline(always)]
fn capture_text<const SIZE: usize>(text: u64, size: u64) {
    let Some(mut entry) = FACTS.reserve_bytes(size_of::<Text>() + SIZE, 0) else {
        count_drop();
        return;
    };
    let start = entry.as_mut_ptr();
    let fact = start.cast::<Text>();
    unsafe {
        write_header(&raw mut (*fact).header, kind::TEXT, 0, 0);
        // By way of memory: the compiler knows that it fits, leaves the comparison out, and old verifiers do not see why.
        (&raw mut (*fact).length).write_volatile(size as u32);
        let mut size = (&raw const (*fact).length).read_volatile();
        if size > SIZE as u32 {
            size = SIZE as u32;
        }
        let at = start.add(size_of::<Text>()).cast();
        if bpf_probe_read_user(at, size, text as *const _) != 0 {
            size = 0;
        }
        (&raw mut (*fact).length).write(size);
        (&raw mut (*fact).reserved).write(0);
    }
    entry.submit(wake_flags());
}
