//! Tracepoints at the entry of single system calls.
//!
//! A program there runs for that call alone: for every other one the kernel looks at a bit (`perf_syscall_enter`,
//! `kernel/trace/trace_syscalls.c`). That the event stays disabled does not matter to it, nor on which CPU the event is.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use super::perf::{self, Event, Link};

/// `PERF_TYPE_TRACEPOINT` (`include/uapi/linux/perf_event.h`).
const TRACEPOINT: u32 = 2;
/// Where tracefs is, if it is mounted.
const MOUNTED: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// `FSCONFIG_CMD_CREATE`, `FSMOUNT_CLOEXEC` (`include/uapi/linux/mount.h`).
const CREATE: libc::c_uint = 6;
const CLOSE_ON_EXEC: libc::c_uint = 1;

/// Runs a program whenever a thread of the machine calls this.
///
/// # Errors
///
/// Where the kernel has no such tracepoint, or does not say its number.
pub(super) fn attach_to_call(program: BorrowedFd<'_>, call: &str) -> io::Result<Link> {
    let file = format!("events/syscalls/sys_enter_{call}/id");
    let mounted = MOUNTED.iter().find_map(|folder| fs::read_to_string(format!("{folder}/{file}")).ok());
    let number = mounted.map_or_else(|| read_unmounted(&file), Ok)?;
    let config = number.trim().parse().map_err(io::Error::other)?;
    perf::run_at(program, Event { of: TRACEPOINT, config, ..Event::default() }, -1)
}

/// Reads a file of tracefs where that is not mounted, as in most containers: by a mount that has no place in the file system, and
/// is gone with its descriptor (`fsmount(2)`).
fn read_unmounted(file: &str) -> io::Result<String> {
    let context = owned(|| {
        // SAFETY: the name ends with a zero.
        unsafe { libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), CLOSE_ON_EXEC) }
    })?;
    let no_text: *const libc::c_char = std::ptr::null();
    // SAFETY: this command takes neither key nor value.
    let made = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, no_text, no_text, 0 as libc::c_int)
    };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    let mount = owned(|| {
        // SAFETY: a descriptor and two numbers.
        unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOSE_ON_EXEC, 0 as libc::c_uint) }
    })?;
    let name = std::ffi::CString::new(file)?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let opened = owned(|| {
        // SAFETY: the name ends with a zero.
        libc::c_long::from(unsafe { libc::openat(mount.as_raw_fd(), name.as_ptr(), flags) })
    })?;
    let mut text = String::new();
    File::from(opened).read_to_string(&mut text)?;
    Ok(text)
}

/// The descriptor that a system call gives.
fn owned(call: impl FnOnce() -> libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = call();
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_same_with_and_without_a_mount() {
        let file = "events/syscalls/sys_enter_epoll_wait/id";
        match (fs::read_to_string(format!("{}/{file}", MOUNTED[0])), read_unmounted(file)) {
            (Ok(mounted), Ok(unmounted)) => assert_eq!(mounted, unmounted),
            (Err(_), Ok(unmounted)) => assert!(unmounted.trim().parse::<u64>().is_ok(), "{unmounted:?}"),
            (_, Err(error)) => eprintln!("skipped: tracefs cannot be mounted here: {error}"),
        }
    }
}
