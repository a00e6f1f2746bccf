//! The Python context of the current thread, and where contexts come from.
//!
//! Uprobe programs keep their stack under 64 bytes: from Linux 6.13 a program with more of it may get a private
//! per-CPU stack, and uprobe programs can be preempted while they use it.

use adder_ebpf::{Item, LATE_FAST, Lineage, Process, buffer_of, flag, kind, stacks};
use aya_ebpf::{
    helpers::generated::bpf_get_current_task,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{
    amqp::{OVERHEAD, length_of},
    frames::report_stack,
    kernel::{kernel, stream_socket, user},
    loops,
    maps::{PENDING, Pending, offset},
    record::{
        count_drop, current, report_flagged, report_number, reserve, wake_flags, watched, write_header,
    },
    socket::is_accepted,
};

/// Offset of `PyObject.ob_type` (Include/object.h; the same on every build with the GIL).
const OB_TYPE: u64 = 8;
/// Offsets of `FutureObj.fut_context0`, and of `fut_callbacks`, a list of pairs (function, context) of those that
/// registered after the first (Modules/_asynciomodule.c; the same from 3.8 to 3.14).
const FUT_CONTEXT0: u64 = 32;
const FUT_CALLBACKS: u64 = 40;
/// Offset of `PyVarObject.ob_size` (Include/object.h).
const OB_SIZE: u64 = 16;
/// Offset of `PyTypeObject.tp_flags` (Include/cpython/object.h), and `Py_TPFLAGS_BYTES_SUBCLASS`.
const TYPE_FLAGS: u64 = 168;
const BYTES_SUBCLASS: u64 = 1 << 27;
/// What [`given_bytes`] says of an empty object.
const NOTHING: u64 = u32::MAX as u64;
/// Offset of `PyBytesObject.ob_sval` (Include/cpython/bytesobject.h).
const BYTES: u64 = 32;
/// Offset of `PyListObject.ob_item` (Include/cpython/listobject.h).
const LIST_ITEMS: u64 = 24;
/// Offset of the second item of a `PyTupleObject`.
const TUPLE_SECOND: u64 = 32;
/// Offset of `UVHandle._handle` (uvloop/handles/handle.pxd: the first field, behind `PyObject_HEAD` and Cython's table of
/// functions), and of `io_watcher.fd` in the `uv_stream_t` to which it points (libuv, include/uv.h and include/uv/unix.h).
/// The same from uvloop 0.19 to 0.22.
const STREAM_HANDLE: u64 = 24;
const HANDLE_FD: u64 = 184;
/// What [`descriptor_of`] says besides: there is a stream socket, and it was accepted.
const STREAM: u64 = 1 << 32;
const TO_CLIENT: u64 = 1 << 33;
/// Bit of [`Pending::parent`], which is free in addresses of objects: the stack was reported where the task was made.
const STACKED: u64 = 1;
/// The bits of an address of user space (`Documentation/arch/x86/x86_64/mm.rst`, four-level page tables).
const ADDRESS: u64 = (1 << 48) - 1;

/// Address of the context that is current on this thread, 0 where there is none.
///
/// The slot is the one of `PyGILState_GetThisThreadState`: it holds this thread's state even while the GIL is
/// released, as it is in every blocking call. The type of what is found is checked each time.
#[inline(always)]
pub fn current_context(process: &Process) -> u64 {
    if process.context_type == 0 {
        return 0;
    }
    let state = thread_state(process);
    if state == 0 {
        return 0;
    }
    let context: u64 = user(state + u64::from(process.context));
    proven_context(process, context)
}

/// Address of the `PyThreadState` of this thread, 0 where it has none.
#[inline(always)]
pub fn thread_state(process: &Process) -> u64 {
    let task = unsafe { bpf_get_current_task() };
    let mut base: u64 = kernel(task + offset!(task_fsbase));
    if process.slot_table != 0 {
        base = user(base.wrapping_add(process.slot_table as u64));
    }
    user(base.wrapping_add(process.slot as u64))
}

/// `context` if it is the address of a `contextvars.Context`, else 0.
#[inline(always)]
fn proven_context(process: &Process, context: u64) -> u64 {
    if context != 0 && user::<u64>(context + OB_TYPE) == process.context_type { context } else { 0 }
}

/// The address of a task, with the low bits of its type in the bits that addresses leave free. Two words instead of
/// three in a pending task are what keeps [`task_init`] within its stack.
#[inline(always)]
fn tagged(task: u64) -> u64 {
    // Types are aligned to 16 bytes.
    task & ADDRESS | user::<u64>(task + OB_TYPE) >> 4 << 48
}

/// Reports the task that this thread has created, now that its `__init__` has run. Every program calls this before
/// it reports anything, so that facts keep their order.
#[inline(always)]
pub fn flush_pending(process: &Process) {
    let (_, tid) = current();
    let Some(pending) = PENDING.get_ptr_mut(tid) else { return };
    let tagged_task = unsafe { (*pending).task };
    if tagged_task == 0 {
        return;
    }
    unsafe { (&raw mut (*pending).task).write(0) };
    let task = tagged_task & ADDRESS;
    let alive = tagged(task) == tagged_task;
    let child = proven_context(process, user(task + u64::from(process.task_context)));
    if alive
        && child != 0
        && let Some(mut entry) = reserve::<Lineage>()
    {
        let fact = entry.as_mut_ptr();
        unsafe {
            let parent = (*pending).parent;
            let flags = if parent & STACKED != 0 { flag::STACKED } else { 0 };
            write_header(&raw mut (*fact).header, kind::TASK, flags, parent & !STACKED);
            (&raw mut (*fact).child).write(child);
        }
        entry.submit(wake_flags());
    }
}

/// Entry of `_asyncio.Task.__init__(self, …)`.
#[uprobe]
pub fn task_init(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let task: u64 = ctx.arg(0).unwrap_or(0);
    let mut pending = Pending { task: tagged(task), parent: current_context(process) };
    // Where it is made: what a task does on behalf of a library is the call of whoever has it made.
    if process.stacks & stacks::TASKS != 0 && report_stack(process, pending.parent) != 0 {
        pending.parent |= STACKED;
    }
    // Asked for here: what is kept over all of the above lies on the stack.
    let (_, tid) = current();
    if let Some(place) = PENDING.get_ptr_mut(tid) {
        unsafe { place.write(pending) };
    } else if PENDING.insert(tid, pending, 0).is_err() {
        count_drop();
    }
    0
}

/// Return of `contextvars.copy_context()`, which `asyncio.to_thread` and anyio call for work in another thread.
#[uretprobe]
pub fn copy_context(ctx: RetProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let child = proven_context(process, ctx.ret());
    if child != 0 {
        report_number(kind::COPY, current_context(process), child);
    }
    0
}

/// Entry of `_asyncio.Future.set_result(self, …)`: whoever waits for the future will run because of the current context.
///
/// Who waits is the last to have registered: others (a store of futures that wants to know when one is done) do so
/// when it is made, in a copy of the context that nobody has announced.
#[uprobe]
pub fn set_result(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let future: u64 = ctx.arg(0).unwrap_or(0);
    let mut waiting: u64 = user(future + FUT_CONTEXT0);
    let callbacks: u64 = user(future + FUT_CALLBACKS);
    if callbacks != 0 {
        let count: u64 = user(callbacks + OB_SIZE);
        let items: u64 = user(callbacks + LIST_ITEMS);
        if count != 0 {
            let pair: u64 = user(items + (count - 1) * 8);
            waiting = user(pair + TUPLE_SECOND);
        }
    }
    waiting = proven_context(process, waiting);
    if waiting != 0 {
        let context = current_context(process);
        let mut flags = 0;
        if process.stacks & stacks::WAKES != 0 {
            flags = report_stack(process, context);
        }
        if let Some(mut entry) = reserve::<Lineage>() {
            let fact = entry.as_mut_ptr();
            unsafe {
                write_header(&raw mut (*fact).header, kind::WAKE, flags, context);
                (&raw mut (*fact).header.buffer).write(loops::since_wait());
                (&raw mut (*fact).child).write(waiting);
            }
            entry.submit(wake_flags());
        }
    }
    0
}

/// Entry of `uvloop.loop.UVStream.write(self, …)` and `writelines`, up to uvloop 0.22: what is given to them is sent when
/// the turn of the loop ends, in nobody's context.
#[uprobe]
pub fn stream_write(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let stream: u64 = ctx.arg(0).unwrap_or(0);
    let known = descriptor_of(stream);
    let mut given: u64 = ctx.arg(1).unwrap_or(0);
    if process.late == LATE_FAST {
        given = user(given);
    }
    let size = given_bytes(given);
    if known != 0 && size != NOTHING {
        let context = current_context(process);
        // What a server answers is its handler's.
        let flags = if known & TO_CLIENT != 0 { 0 } else { report_stack(process, context) };
        report_flagged(kind::GIVEN, flags, context, known as u32 as u64 | size << 32);
    }
    0
}

/// Entry of `collections.deque.append(self, item)`: pika keeps there what its loop sends when the socket can take it, in the
/// context of whoever came first. Frames alone are told of: asyncio puts each callback into such a queue.
#[uprobe]
pub fn buffer_append(ctx: ProbeContext) -> u32 {
    let item: u64 = ctx.arg(1).unwrap_or(0);
    let size = given_bytes(item);
    if size < OVERHEAD || size != length_of(user(item + BYTES)) {
        return 0;
    }
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let context = current_context(process);
    let flags = report_stack(process, context);
    if let Some(mut entry) = reserve::<Item>() {
        let fact = entry.as_mut_ptr();
        let item: u64 = ctx.arg(1).unwrap_or(0);
        unsafe {
            write_header(&raw mut (*fact).header, kind::BUFFERED, flags, context);
            (&raw mut (*fact).header.buffer).write(buffer_of(item + BYTES));
            (&raw mut (*fact).item).write(user(item + OB_SIZE));
        }
        entry.submit(wake_flags());
    }
    0
}

/// How many bytes a `bytes` object has; 0 where it is something else, as what `writelines` is given, or has very many.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn given_bytes(object: u64) -> u64 {
    let kind: u64 = user(object + OB_TYPE);
    if user::<u64>(kind + TYPE_FLAGS) & BYTES_SUBCLASS == 0 {
        return 0;
    }
    match user::<u64>(object + OB_SIZE) {
        0 => NOTHING,
        size if size < NOTHING => size,
        _ => 0,
    }
}

/// Descriptor of a `UVStream` and, in the bits above, [`STREAM`] and [`TO_CLIENT`]; 0 where it has no stream socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn descriptor_of(stream: u64) -> u64 {
    let handle: u64 = user(stream + STREAM_HANDLE);
    let fd: u32 = user(handle + HANDLE_FD);
    let Some(socket) = stream_socket(fd) else { return 0 };
    u64::from(fd) | STREAM | if is_accepted(socket) { TO_CLIENT } else { 0 }
}

/// Entry of `queue.SimpleQueue.put(self, args, …)` and `put_nowait`: a fast call, the item is the first of `args`.
#[uprobe]
pub fn queue_put(ctx: ProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let arguments: u64 = ctx.arg(1).unwrap_or(0);
    report_number(kind::PUT, current_context(process), user(arguments));
    0
}

/// Return of `queue.SimpleQueue.get` and `get_nowait`.
#[uretprobe]
pub fn queue_get(ctx: RetProbeContext) -> u32 {
    let (pid, _) = current();
    let Some(process) = watched(pid) else { return 0 };
    flush_pending(process);
    let item: u64 = ctx.ret();
    if item != 0 {
        report_number(kind::GET, current_context(process), item);
    }
    0
}
