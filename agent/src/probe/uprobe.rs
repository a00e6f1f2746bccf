//! Uprobes that cost a thread next to nothing when it is switched to.
//!
//! A perf event on a task is put on and taken off the processor with that task: some 6 µs for a switch away and back with the
//! events that Adder needs in a process. A uprobe does not need that. Its instruction is armed as soon as the event exists
//! (`perf_uprobe_event_init` in kernel/events/core.c), and its program runs before anybody asks whether the event is
//! enabled (`__uprobe_perf_func` in `kernel/trace/trace_uprobe.c`). So the event stays disabled.

use std::{
    ffi::CString,
    fs, io,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use aya::programs::ProbeKind;

use super::perf::{self, Event, Link};

/// In `config`: at the return of the function (`PERF_PROBE_CONFIG_IS_RETPROBE` in kernel/events/core.c).
const AT_RETURN: u64 = 1;
/// Where the kernel says which type of event uprobes are.
const TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";

/// Puts a program on the instruction at an offset in a file, or on the return of the function that begins there, for one
/// process.
///
/// # Errors
///
/// Where the kernel has no uprobes, refuses them, or the process or file is gone.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    kind: ProbeKind,
    pid: u32,
    file: &Path,
    offset: u64,
) -> io::Result<Link> {
    let of = fs::read_to_string(TYPE)?.trim().parse().map_err(io::Error::other)?;
    let path = CString::new(file.as_os_str().as_bytes())?;
    let event = Event {
        of,
        config: if matches!(kind, ProbeKind::Return) { AT_RETURN } else { 0 },
        // The address of the path, which outlives the call, and the offset in the file.
        config1: path.as_ptr() as u64,
        config2: offset,
    };
    perf::run_at(program, event, pid.cast_signed())
}
