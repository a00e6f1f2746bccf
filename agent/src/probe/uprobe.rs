//! Uprobes that cost a thread next to nothing when it is switched to.
//!
//! A perf event on a task is put on and taken off the processor with that task: some 6 µs for a switch away and back with the
//! events that Adder needs in a process. A uprobe does not need that. Its instruction is armed as soon as the event exists
//! (`perf_uprobe_event_init` in kernel/events/core.c), and its program runs before anybody asks whether the event is
//! enabled (`__uprobe_perf_func` in `kernel/trace/trace_uprobe.c`). So the event stays disabled, for which aya has no way.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::ProbeKind;

/// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER1` (`include/uapi/linux/perf_event.h`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    event_type: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    /// Address of the path.
    config1: u64,
    /// Offset in the file.
    config2: u64,
}

/// `disabled`, the first of the flags.
const DISABLED: u64 = 1;
/// In `config`: at the return of the function (`PERF_PROBE_CONFIG_IS_RETPROBE` in kernel/events/core.c).
const AT_RETURN: u64 = 1;
/// `PERF_FLAG_FD_CLOEXEC`, `_IOW('$', 8, __u32)`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
const SET_BPF: libc::c_ulong = 0x4004_2408;
/// Where the kernel says which type of event uprobes are.
const TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";

/// A program on an instruction of one process; closing it removes it.
pub(super) type Link = OwnedFd;

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
    let event_type = fs::read_to_string(TYPE)?.trim().parse().map_err(io::Error::other)?;
    let path = CString::new(file.as_os_str().as_bytes())?;
    let attributes = Attributes {
        event_type,
        size: size_of::<Attributes>() as u32,
        config: if matches!(kind, ProbeKind::Return) { AT_RETURN } else { 0 },
        flags: DISABLED,
        config1: path.as_ptr() as u64,
        config2: offset,
        ..Attributes::default()
    };
    let (any_cpu, no_group) = (-1, -1);
    // SAFETY: the attributes are as long as they say, and their path outlives the call.
    let event = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            pid.cast_signed(),
            any_cpu,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that is new and nobody else's.
    let event = unsafe { OwnedFd::from_raw_fd(event as i32) };
    // SAFETY: both descriptors are open.
    if unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(event)
}
