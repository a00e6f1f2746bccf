//! Events of perf that do nothing but run a program: they stay disabled, for which aya has no way.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

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
    config1: u64,
    config2: u64,
}

/// Which event it is: the fields of `struct perf_event_attr` of the same names, and its `type`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Event {
    pub(super) of: u32,
    pub(super) config: u64,
    pub(super) config1: u64,
    pub(super) config2: u64,
}

/// `disabled`, the first of the flags.
const DISABLED: u64 = 1;
/// `PERF_FLAG_FD_CLOEXEC`, `_IOW('$', 8, __u32)`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
const SET_BPF: libc::c_ulong = 0x4004_2408;

/// A program that runs at an event; closing it ends that.
pub(super) type Link = OwnedFd;

/// Runs a program at an event of one process.
///
/// # Errors
///
/// Where the kernel refuses the event, or does not know it.
pub(super) fn run_at(program: BorrowedFd<'_>, event: Event, pid: i32) -> io::Result<Link> {
    let Event { of: event_type, config, config1, config2 } = event;
    let attributes = Attributes {
        event_type,
        size: size_of::<Attributes>() as u32,
        config,
        flags: DISABLED,
        config1,
        config2,
        ..Attributes::default()
    };
    let (any_cpu, no_group) = (-1, -1);
    // SAFETY: the attributes are as long as they say.
    let event = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, pid, any_cpu, no_group, CLOSE_ON_EXEC)
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
