//! What compressed streams refer back to: their windows, as zlib keeps them.
//!
//! A stream that began before the agent came cannot be read without what it has said before. zlib has the last 32 KiB of that, and
//! between two messages, of which each ends with an empty stored block (`Z_SYNC_FLUSH`), nothing else is needed to go on from there.

use adder_ebpf::{INFLATED_MIN, WINDOW_SIZE, Window, kind};
use aya_ebpf::{helpers::generated::bpf_probe_read_user, macros::uprobe, programs::ProbeContext};

use crate::{
    kernel::user,
    maps::FACTS,
    record::{count_drop, current, wake_flags, watched, write_header},
};

/// Offsets in `z_stream` (zlib.h): `next_in`, `avail_in`, `state`.
const NEXT_IN: u64 = 0;
const AVAIL_IN: u64 = 8;
const STATE: u64 = 56;
/// Offsets in `struct inflate_state` (inflate.h, since 1.2.11): `strm`, `mode`, `wsize`, `whave`, `wnext`, `window`, `bits`.
const STREAM: u64 = 0;
const MODE: u64 = 8;
const SIZE: u64 = 60;
const HAVE: u64 = 64;
const NEXT: u64 = 68;
const WINDOW: u64 = 72;
const BITS: u64 = 88;
/// `TYPE` in `inflate_mode`: a block begins.
const BLOCK: u32 = 16191;

/// Bytes of [`Window::front`].
const FRONT: u32 = 16;

/// Entry of `inflate(z_streamp strm, int flush)`.
#[uprobe]
pub fn inflate(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    if process.windows == 0 {
        return 0;
    }
    let stream: u64 = ctx.arg(0).unwrap_or(0);
    let state: u64 = user(stream + STATE);
    let is_whole = user::<u32>(stream + AVAIL_IN) >= INFLATED_MIN
        && user::<u64>(state + STREAM) == stream
        && user::<u32>(state + MODE) == BLOCK
        && user::<u32>(state + BITS) == 0
        && user::<u32>(state + SIZE) == WINDOW_SIZE as u32
        && user::<u32>(state + HAVE) != 0;
    if is_whole {
        report_window(stream, state);
    }
    0
}

#[inline(always)]
fn report_window(stream: u64, state: u64) {
    let Some(mut entry) = FACTS.reserve_bytes(size_of::<Window>() + WINDOW_SIZE, 0) else {
        count_drop();
        return;
    };
    let start = entry.as_mut_ptr();
    let fact = start.cast::<Window>();
    unsafe {
        write_header(&raw mut (*fact).header, kind::WINDOW, 0, 0);
        let front: u64 = user(stream + NEXT_IN);
        bpf_probe_read_user((&raw mut (*fact).front).cast(), FRONT, front as *const _);
        (&raw mut (*fact).length).write(user(stream + AVAIL_IN));
        (&raw mut (*fact).next).write(user(state + NEXT));
        (&raw mut (*fact).reserved).write(0);
        let window: u64 = user(state + WINDOW);
        let at = start.add(size_of::<Window>()).cast();
        let have = if bpf_probe_read_user(at, WINDOW_SIZE as u32, window as *const _) == 0 {
            user(state + HAVE)
        } else {
            0
        };
        (&raw mut (*fact).have).write(have);
    }
    entry.submit(wake_flags());
}
