//! Process life: fork, exec, exit (`include/trace/events/sched.h`).

use adder_ebpf::{Child, kind};
use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

use crate::{
    kernel::kernel,
    maps::{LOOPS, PENDING, PROCESSES, TLS_CALLS, offset, setting},
    python::{current_context, flush_pending},
    record::{AT_ONCE, current, report_head, reserve, wake_flags, watched, write_header},
};

/// `n`th argument of a tracepoint; both kinds of context are an array of 64-bit words.
#[inline(always)]
pub fn argument(ctx: &impl EbpfContext, n: usize) -> u64 {
    unsafe { *ctx.as_ptr().cast::<u64>().add(n) }
}

/// `sched_process_fork(parent, child)`: a child of a watched process is watched from its first instruction. Threads are
/// children too.
#[inline(always)]
fn fork(ctx: &impl EbpfContext) {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return };
    let task = argument(ctx, 1);
    let tgid: u32 = kernel(task + offset!(task_tgid));
    let child: u32 = kernel(task + offset!(task_pid));
    let (kind, context, wake) = if child == tgid {
        let _ = PROCESSES.insert(child, process, 0);
        (kind::FORK, 0, AT_ONCE)
    } else {
        flush_pending(process);
        (kind::THREAD, current_context(process), wake_flags())
    };
    if let Some(mut entry) = reserve::<Child>() {
        let fact = entry.as_mut_ptr();
        unsafe {
            write_header(&raw mut (*fact).header, kind, 0, context);
            (&raw mut (*fact).child).write(child);
            (&raw mut (*fact).reserved).write(0);
        }
        entry.submit(wake);
    }
}

/// `sched_process_exec(task, old_pid, bprm)`: what was proven of the old program is void, and what the new one writes is
/// nobody's log until it is known to be Python. The thread that calls `exec` takes the id of the main one.
#[inline(always)]
fn exec(ctx: &impl EbpfContext) {
    let (pid, _) = current();
    let before = argument(ctx, 1) as u32;
    forget_thread(before);
    if let Some(process) = PROCESSES.get_ptr_mut(pid) {
        unsafe {
            (&raw mut (*process).context_type).write(0);
            (&raw mut (*process).output).write(0);
            (&raw mut (*process).frame).write(0);
            (&raw mut (*process).steps).write(0);
        }
        report_head(kind::EXEC);
    } else if setting!(report_every_exec) != 0 {
        report_head(kind::EXEC);
    }
}

/// What is kept of a thread goes with it.
#[inline(always)]
fn forget_thread(tid: u32) {
    let _ = LOOPS.remove(tid);
    let _ = PENDING.remove(tid);
    let _ = TLS_CALLS.remove(tid);
}

/// `sched_process_exit(task)`, called for each thread.
#[inline(always)]
fn exit() {
    let (pid, tid) = current();
    // The main thread may have ended before, and with it its process.
    forget_thread(tid);
    if watched(pid).is_none() {
        return;
    }
    if pid == tid {
        report_head(kind::EXIT);
        let _ = PROCESSES.remove(pid);
    }
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn fork_btf(ctx: BtfTracePointContext) -> i32 {
    fork(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn fork_raw(ctx: RawTracePointContext) -> i32 {
    fork(&ctx);
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec_btf(ctx: BtfTracePointContext) -> i32 {
    exec(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn exec_raw(ctx: RawTracePointContext) -> i32 {
    exec(&ctx);
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn exit_btf(_: BtfTracePointContext) -> i32 {
    exit();
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn exit_raw(_: RawTracePointContext) -> i32 {
    exit();
    0
}
