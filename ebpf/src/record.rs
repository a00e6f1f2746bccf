//! The head of a fact, and its way into the ring buffer.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use adder_ebpf::{Header, Lineage, Process, RING_WAKE};
use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_ringbuf_query},
    maps::ring_buf::RingBufEntry,
};

use crate::maps::{DROPPED, FACTS, PROCESSES};

/// Kernel `tgid` and `pid` of the current thread.
#[inline(always)]
pub fn current() -> (u32, u32) {
    let both = unsafe { bpf_get_current_pid_tgid() };
    ((both >> 32) as u32, both as u32)
}

/// The current process, if it is watched.
#[inline(always)]
pub fn watched(pid: u32) -> Option<&'static Process> {
    unsafe { PROCESSES.get(pid) }
}

/// How a fact is submitted that user space is to see at once.
pub const AT_ONCE: u64 = BPF_RB_FORCE_WAKEUP as u64;

/// User space drains the buffer by itself some times a second; it is woken only when much is waiting, so that the
/// watched process hardly ever pays for a wake-up.
#[inline(always)]
pub fn wake_flags() -> u64 {
    let unread = unsafe { bpf_ringbuf_query((&raw const FACTS).cast_mut().cast(), 0) };
    u64::from(if unread > RING_WAKE { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

/// Counts a fact of this process that found no room.
#[inline(always)]
pub fn count_drop() {
    let (pid, _) = current();
    if let Some(count) = DROPPED.get_ptr_mut(pid) {
        // `core::sync::atomic` hides its read-modify-write methods on this target; the instruction exists since 4.x.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, 1) };
    } else {
        let _ = DROPPED.insert(pid, 1u64, 0);
    }
}

/// Reserves room for a fact without payload.
#[inline(always)]
pub fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = FACTS.reserve::<T>(0);
    if entry.is_none() {
        count_drop();
    }
    entry
}

/// Writes the head of a fact into its reserved room. Field by field: a copy on the stack would cost uprobe programs
/// the few bytes of stack they may use (docs/principles.md, "Kernel hazards").
#[inline(always)]
pub unsafe fn write_header(at: *mut Header, kind: u16, flags: u16, context: u64) {
    let both = unsafe { bpf_get_current_pid_tgid() };
    unsafe {
        (&raw mut (*at).time).write(bpf_ktime_get_ns());
        (&raw mut (*at).context).write(context);
        (&raw mut (*at).pid).write((both >> 32) as u32);
        (&raw mut (*at).tid).write(both as u32);
        (&raw mut (*at).kind).write(kind);
        (&raw mut (*at).flags).write(flags);
        (&raw mut (*at).buffer).write(0);
    }
}

/// Reports a fact that is a head and one number behind it ([`Lineage`](adder_ebpf::Lineage) and its like).
#[inline(always)]
pub fn report_number(kind: u16, context: u64, number: u64) {
    report_flagged(kind, 0, context, number);
}

/// The same, with [`adder_ebpf::flag`]s.
#[inline(always)]
pub fn report_flagged(kind: u16, flags: u16, context: u64, number: u64) {
    if let Some(mut entry) = reserve::<Lineage>() {
        let fact = entry.as_mut_ptr();
        unsafe {
            write_header(&raw mut (*fact).header, kind, flags, context);
            (&raw mut (*fact).child).write(number);
        }
        entry.submit(wake_flags());
    }
}

/// Reports a fact that is a head alone. They are of the life of processes: user space has something to do.
#[inline(always)]
pub fn report_head(kind: u16) {
    if let Some(mut entry) = reserve::<Header>() {
        unsafe { write_header(entry.as_mut_ptr(), kind, 0, 0) };
        entry.submit(AT_ONCE);
    }
}
