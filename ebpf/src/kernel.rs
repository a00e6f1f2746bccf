//! Reading memory, and the way from a file descriptor to its socket.
//!
//! `task_struct.files` → `files_struct.fdt` → `fdtable.fd[n]` → `file` (include/linux/fdtable.h); a socket's file has
//! the `struct socket` in `private_data` and its inode beside it (`struct socket_alloc`, include/net/sock.h).

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user};

use crate::maps::offset;

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const SOCK_STREAM: u16 = 1;

/// Reads kernel memory; zero where that fails.
#[inline(always)]
pub fn kernel<T: Copy>(address: u64) -> T {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        value.assume_init()
    }
}

/// Reads memory of the current process; zero where that fails.
#[inline(always)]
pub fn user<T: Copy>(address: u64) -> T {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    unsafe {
        bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        value.assume_init()
    }
}

/// The `struct sock` of the stream socket behind a descriptor of the current process; `None` for anything else.
#[inline(always)]
pub fn stream_socket(fd: u32) -> Option<u64> {
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = kernel(task + offset!(task_files));
    let fdt: u64 = kernel(files + offset!(files_fdt));
    let limit: u32 = kernel(fdt + offset!(fdt_max_fds));
    if fd >= limit {
        return None;
    }
    let table: u64 = kernel(fdt + offset!(fdt_fd));
    let file: u64 = kernel(table + u64::from(fd) * 8);
    if file == 0 {
        return None;
    }
    let inode: u64 = kernel(file + offset!(file_inode));
    let mode: u16 = kernel(inode + offset!(inode_mode));
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket: u64 = kernel(file + offset!(file_private));
    let socket_type: u16 = kernel(socket + offset!(socket_type));
    if socket_type != SOCK_STREAM {
        return None;
    }
    Some(kernel(socket + offset!(socket_sk)))
}
