//! How long event loops run between two waits.
//!
//! A step begins when `epoll_wait` returns, and is over when it is called again. That it is under way, and whose thread state to
//! look at, user space finds in a map: it looks itself at what lasts long (`agent/src/run/loops.rs`).

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use adder_ebpf::{LAG_BOUNDS, Process, Step, ago_of, kind};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{fentry, raw_tracepoint},
    programs::{FEntryContext, RawTracePointContext},
};

use crate::{
    life::argument,
    maps::{LAGS, LOOPS, setting},
    python::{flush_pending, thread_state},
    record::{current, report_number, watched},
    syscall::number,
};

/// The wait of this thread at an epoll instance is over, or its look, if that was all. Threads without Python wait so, too:
/// they are nothing here.
#[inline(always)]
pub fn begin(process: &Process, epoll: i32, is_look: bool) {
    let (pid, tid) = current();
    let start = unsafe { bpf_ktime_get_ns() };
    if let Some(step) = LOOPS.get_ptr_mut(tid) {
        unsafe {
            (&raw mut (*step).start).write(start);
            (&raw mut (*step).epoll).write(epoll);
            if !is_look {
                (&raw mut (*step).waited).write(start);
            }
        }
        return;
    }
    let state = thread_state(process);
    if state != 0 {
        // Whether it has only looked before is not known: as if it had waited.
        let _ = LOOPS.insert(tid, Step { start, waited: start, state, pid, epoll }, 0);
    }
}

/// [`adder_ebpf::ago_of`] the last wait of this thread's loop; 0 where it has none, or its steps are not seen.
#[inline(always)]
pub fn since_wait() -> u32 {
    let (_, tid) = current();
    let Some(step) = LOOPS.get_ptr(tid) else { return 0 };
    ago_of(unsafe { bpf_ktime_get_ns() }.saturating_sub(unsafe { (*step).waited }))
}

/// Whether this thread is in a step of a loop.
#[inline(always)]
pub fn is_in_step() -> bool {
    let (_, tid) = current();
    LOOPS.get_ptr(tid).is_some()
}

/// A descriptor was closed: if it is the loop's own, what its thread does from now on is no step.
#[inline(always)]
pub fn closed(fd: i32) {
    let (_, tid) = current();
    if let Some(step) = LOOPS.get_ptr_mut(tid)
        && unsafe { (*step).epoll } == fd
    {
        let _ = LOOPS.remove(tid);
    }
}

/// It waits again.
#[inline(always)]
fn end() {
    let (pid, tid) = current();
    let Some(step) = LOOPS.get_ptr_mut(tid) else { return };
    let start = unsafe { (*step).start };
    if start == 0 {
        return;
    }
    unsafe { (&raw mut (*step).start).write(0) };
    let lasted = unsafe { bpf_ktime_get_ns() }.saturating_sub(start);
    if let Some(lags) = LAGS.get_ptr_mut(pid) {
        let mut bucket = 0;
        while bucket < LAG_BOUNDS.len() && lasted > LAG_BOUNDS[bucket] {
            bucket += 1;
        }
        // Two threads of a process may have loops.
        unsafe {
            let count = (&raw mut (*lags).buckets).cast::<u64>().add(bucket);
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, 1);
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*lags).sum, lasted);
        }
    }
    if lasted >= u64::from(setting!(step_min)) * 1000
        && let Some(process) = watched(pid)
    {
        flush_pending(process);
        report_number(kind::STEP, 0, lasted);
    }
}

#[fentry(function = "__x64_sys_epoll_wait")]
pub fn fentry_epoll_wait(_: FEntryContext) -> i32 {
    end();
    0
}

#[fentry(function = "__x64_sys_epoll_pwait")]
pub fn fentry_epoll_pwait(_: FEntryContext) -> i32 {
    end();
    0
}

/// At the entry of every call, where there is no `fentry`: `sys_enter(registers, number)`.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn step_is_over(ctx: RawTracePointContext) -> i32 {
    if matches!(argument(&ctx, 1), number::EPOLL_WAIT | number::EPOLL_PWAIT) {
        end();
    }
    0
}
