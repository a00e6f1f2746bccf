//! Reading memory, and the way from a file descriptor to its socket.
//!
//! `task_struct.files` → `files_struct.fdt` → `fdtable.fd[n]` → `file` (include/linux/fdtable.h); a socket's file has
//! the `struct socket` in `private_data` and its inode beside it (`struct socket_alloc`, include/net/sock.h), which
//! proves that it is one.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user};

use crate::maps::offset;

const SOCK_STREAM: u16 = 1;

/// The beginning of `struct fdtable`; user space has checked that this kernel's is the same.
#[derive(Clone, Copy)]
#[repr(C)]
struct Descriptors {
    max_fds: u32,
    reserved: u32,
    fd: u64,
}

/// The beginning of `struct socket` (include/linux/net.h), likewise.
#[derive(Clone, Copy)]
#[repr(C)]
struct SocketHead {
    state: u32,
    socket_type: u16,
    reserved: u16,
    flags: u64,
    file: u64,
    sk: u64,
}

/// Reads kernel memory; zero where that fails, which the helper sees to (`bpf_probe_read_kernel_common` in kernel/trace/bpf_trace.c).
#[inline(always)]
pub fn kernel<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        value.assume_init()
    }
}

/// Reads memory of the current process; zero where that fails (`bpf_probe_read_user_common`).
#[inline(always)]
pub fn user<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    unsafe {
        bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        value.assume_init()
    }
}

/// `S_IFMT`, `S_IFIFO` and `S_IFCHR` (include/uapi/linux/stat.h).
const FILE_TYPE: u16 = 0o170_000;
const PIPE: u16 = 0o010_000;
const CHARACTERS: u16 = 0o020_000;
/// `MINORBITS` (include/linux/kdev_t.h), and the major number of `/dev/null`, `/dev/urandom` and their like
/// (Documentation/admin-guide/devices.txt): nobody waits there.
const MINOR_BITS: u32 = 20;
const MEMORY: u32 = 1;
/// `ANON_INODE_FS_MAGIC` (include/uapi/linux/magic.h): where inotify, eventfd and timerfd are.
const ANONYMOUS: u64 = 0x0904_1934;
/// In [`Source::id`].
const NO_PIPE: u64 = 1 << 63;

/// What is not a socket, and may be waited at.
#[derive(Clone, Copy)]
pub struct Source {
    /// The inode number of a pipe; of anything else, where many share an inode, the descriptor, marked as such.
    pub id: u64,
    pub is_pipe: bool,
}

/// The `struct file` behind a descriptor of the current process; 0 where there is none.
#[inline(always)]
fn file(fd: u32) -> u64 {
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = kernel(task + offset!(task_files));
    let fdt: u64 = kernel(files + offset!(files_fdt));
    let descriptors: Descriptors = kernel(fdt);
    if fd >= descriptors.max_fds {
        return 0;
    }
    kernel(descriptors.fd + u64::from(fd) * 8)
}

/// The pipe, terminal, inotify instance or their like behind a descriptor of the current process; `None` for anything else.
#[inline(always)]
pub fn source(fd: u32) -> Option<Source> {
    let file = file(fd);
    if file == 0 {
        return None;
    }
    let inode: u64 = kernel(file + offset!(file_inode));
    let is_waited_at = match kernel::<u16>(inode + offset!(inode_mode)) & FILE_TYPE {
        PIPE => return Some(Source { id: kernel(inode + offset!(inode_ino)), is_pipe: true }),
        CHARACTERS => kernel::<u32>(inode + offset!(inode_rdev)) >> MINOR_BITS != MEMORY,
        _ => kernel::<u64>(kernel::<u64>(inode + offset!(inode_sb)) + offset!(sb_magic)) == ANONYMOUS,
    };
    is_waited_at.then_some(Source { id: NO_PIPE | u64::from(fd), is_pipe: false })
}

/// The inode number of whatever is behind a descriptor of the current process; `None` where nothing is.
#[inline(always)]
pub fn inode_behind(fd: u32) -> Option<u64> {
    let file = file(fd);
    if file == 0 {
        return None;
    }
    let inode: u64 = kernel(file + offset!(file_inode));
    Some(kernel(inode + offset!(inode_ino)))
}

/// The `struct socket` of the stream socket behind a descriptor of the current process; `None` for anything else.
#[inline(always)]
pub fn stream_socket(fd: u32) -> Option<u64> {
    let file = file(fd);
    if file == 0 {
        return None;
    }
    let socket: u64 = kernel(file + offset!(file_private));
    let inode: u64 = kernel(file + offset!(file_inode));
    if socket == 0 || inode != socket + offset!(socket_inode) {
        return None;
    }
    let head: SocketHead = kernel(socket);
    (head.socket_type == SOCK_STREAM && head.sk != 0).then_some(socket)
}

/// The `struct sock` of a `struct socket`.
#[inline(always)]
pub fn sock_of(socket: u64) -> u64 {
    kernel::<SocketHead>(socket).sk
}
