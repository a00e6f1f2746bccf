//! Reporting sockets and the bytes that go through them.

use adder_ebpf::{
    Close, Data, HEAD_MAX, PIPE_HEAD, Process, Socket, TAIL_MAX, TLS_HEAD, buffer_of, flag, kind,
};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};

use crate::{
    kernel::{inode_behind, kernel, sock_of, user},
    maps::{FACTS, FRAMES, SOCKETS, Stream, offset, setting},
    record::{count_drop, reserve, wake_flags, write_header},
    tls::current_call,
};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Bit of what [`pack_for`] packs: the plaintext of what the process encrypts is reported.
const ENCRYPTABLE: u64 = 1 << 63;

/// Whether a buffer begins like a TLS record with application data (RFC 8446, section 5.1): content type 23, version 3.0
/// to 3.4. Handshakes are captured whole: they name the server.
#[inline(always)]
pub fn begins_application_data(buffer: u64) -> bool {
    let head: u32 = user(buffer);
    // Little-endian: the type is the lowest byte.
    let (content, version) = (head & 0xff, head >> 8 & 0xffff);
    content == 23 && version & 0xff == 3 && version >> 8 <= 4
}

/// [`pack`], for bytes of a process.
#[inline(always)]
pub fn pack_for(process: &Process, fd: u32, flags: u16) -> u64 {
    let encryptable = if process.tls != 0 { ENCRYPTABLE } else { 0 };
    pack(fd, flags) | encryptable
}

/// Where in what [`pack`] packs it stands how many bytes are captured at most, plus one; 0 leaves that to the settings.
const LIMIT: u64 = 48;
const LIMIT_BITS: u64 = 0x7fff;

/// The same, with at most `keep` bytes of the front captured, and none of the end.
#[inline(always)]
pub fn limited(packed: u64, keep: u64) -> u64 {
    let most = if keep < LIMIT_BITS { keep + 1 } else { LIMIT_BITS };
    packed | most << LIMIT
}

/// Packs a descriptor and [`flag`]s into one argument.
///
/// The two functions below are global to the verifier: it checks them once, by themselves, and not again for each
/// call with all that is known there; that keeps the programs within what old kernels can check. The price is that
/// they take at most five plain numbers.
#[inline(always)]
pub fn pack(fd: u32, flags: u16) -> u64 {
    u64::from(fd) << 16 | u64::from(flags)
}

/// Inode number of a `struct socket`.
#[inline(always)]
pub fn inode_of(socket: u64) -> u64 {
    kernel(socket + offset!(socket_inode) + offset!(inode_ino))
}

/// Whether a socket is a Unix one.
#[inline(always)]
pub fn is_unix(socket: u64) -> bool {
    kernel::<u16>(sock_of(socket) + offset!(sk_family)) == AF_UNIX
}

/// Whether a socket was seen to be accepted: what is sent over it answers somebody.
#[inline(always)]
pub fn is_accepted(socket: u64) -> bool {
    let Some(stream) = SOCKETS.get_ptr(socket) else { return false };
    unsafe { (*stream).accepted != 0 }
}

/// Reports that a descriptor was closed. The place in the ring buffer is taken before the number is looked at: what it
/// stands for by then is reported before, and what it is given to later is reported behind.
#[inline(always)]
pub fn report_close(context: u64, fd: i32) {
    if let Some(mut entry) = reserve::<Close>() {
        let fact = entry.as_mut_ptr();
        unsafe {
            write_header(&raw mut (*fact).header, kind::CLOSE, 0, context);
            (&raw mut (*fact).fd).write(fd);
            let now = match inode_behind(fd as u32) {
                Some(inode) => inode as u32,
                None => 0,
            };
            (&raw mut (*fact).now).write(now);
        }
        entry.submit(wake_flags());
    }
}

/// Reports a socket and its two ends, and starts counting its bytes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_socket(socket: u64, packed: u64, context: u64) -> u32 {
    let inode = inode_of(socket);
    // Its positions begin anew.
    let _ = FRAMES.remove(socket);
    let _ = FRAMES.remove(socket | u64::from(flag::RECEIVED));
    let _ = SOCKETS.insert(
        socket,
        Stream { inode, sent: 0, received: 0, accepted: u64::from(packed as u16 & flag::ACCEPTED != 0) },
        0,
    );
    let sk = sock_of(socket);
    let Some(mut entry) = reserve::<Socket>() else { return 0 };
    let fact = entry.as_mut_ptr();
    unsafe {
        clear(fact);
        write_header(
            &raw mut (*fact).header,
            kind::SOCKET,
            packed as u16 & (flag::CONNECTED | flag::ACCEPTED),
            context,
        );
        let family: u16 = kernel(sk + offset!(sk_family));
        (&raw mut (*fact).socket).write(inode);
        (&raw mut (*fact).fd).write((packed >> 16) as i32);
        (&raw mut (*fact).family).write(family);
        let net: u64 = kernel(sk + offset!(sk_net));
        (&raw mut (*fact).netns).write(kernel(net + offset!(net_inum)));
        if family == AF_INET {
            let local = (&raw mut (*fact).local).cast();
            let remote = (&raw mut (*fact).remote).cast();
            bpf_probe_read_kernel(local, 4, (sk + offset!(sk_rcv_saddr)) as *const _);
            bpf_probe_read_kernel(remote, 4, (sk + offset!(sk_daddr)) as *const _);
        } else if family == AF_INET6 {
            let local = (&raw mut (*fact).local).cast();
            let remote = (&raw mut (*fact).remote).cast();
            bpf_probe_read_kernel(local, 16, (sk + offset!(sk_v6_rcv_saddr)) as *const _);
            bpf_probe_read_kernel(remote, 16, (sk + offset!(sk_v6_daddr)) as *const _);
        }
        if family == AF_INET || family == AF_INET6 {
            (&raw mut (*fact).local_port).write(kernel(sk + offset!(sk_num)));
            (&raw mut (*fact).remote_port).write(u16::from_be(kernel(sk + offset!(sk_dport))));
        } else if family == AF_UNIX {
            write_unix(fact, sk);
        }
    }
    entry.submit(wake_flags());
    0
}

/// Clears what the ring buffer's memory held before. By words: `memset` is a loop over bytes on this target, which
/// old verifiers walk step by step.
#[inline(always)]
unsafe fn clear(fact: *mut Socket) {
    let words: *mut u64 = fact.cast();
    let mut i = 0;
    while i < size_of::<Socket>() / 8 {
        unsafe { words.add(i).write_volatile(0) };
        i += 1;
    }
}

/// The ends of a Unix socket (`include/net/af_unix.h`): the name is the listening end's, which an accepted socket
/// shares and a connected one finds at its peer.
#[inline(always)]
unsafe fn write_unix(fact: *mut Socket, sk: u64) {
    let peer: u64 = kernel(sk + offset!(unix_peer));
    let mut address: u64 = kernel(sk + offset!(unix_addr));
    if peer != 0 {
        unsafe { (&raw mut (*fact).peer).write(inode_of(kernel(peer + offset!(sk_socket)))) };
        if address == 0 {
            address = kernel(peer + offset!(unix_addr));
        }
    }
    if address == 0 {
        return;
    }
    let length: u32 = kernel(address + offset!(unix_address_len));
    // `len` counts `sun_family` too.
    let length = length.saturating_sub(2);
    if length > 0 && length <= 108 {
        unsafe {
            bpf_probe_read_kernel(
                (&raw mut (*fact).path).cast(),
                108,
                (address + offset!(unix_address_name) + 2) as *const _,
            );
            (&raw mut (*fact).path_length).write(length as u16);
        }
    }
}

/// Reports `length` bytes at `buffer` (0 where they cannot be read), and the socket before them where it was not
/// known yet. Of an output, `socket` is the inode number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_bytes(socket: u64, buffer: u64, length: u64, packed: u64, context: u64) -> u32 {
    if packed as u16 & flag::OUTPUT != 0 {
        let wanted = u64::from(setting!(head_sent));
        let head = if buffer == 0 {
            0
        } else if length < wanted {
            length
        } else {
            wanted
        };
        capture_sized(&Call { inode: socket, offset: 0, buffer, length, head, packed, context });
        return 0;
    }
    let inode = inode_of(socket);
    let mut stream = SOCKETS.get_ptr_mut(socket);
    let known = match stream {
        Some(stream) => unsafe { (*stream).inode == inode },
        None => false,
    };
    if !known {
        report_socket(socket, packed, context);
        stream = SOCKETS.get_ptr_mut(socket);
    }
    let Some(stream) = stream else {
        count_drop();
        return 0;
    };
    let encrypted = packed & ENCRYPTABLE != 0;
    if encrypted && let Some(call) = current_call() {
        // The call will report the plaintext, and this socket with it.
        unsafe { (&raw mut (*call).socket).write(inode) };
        return 0;
    }
    let received = packed as u16 & flag::RECEIVED != 0;
    let offset = unsafe {
        let position = if received { &raw mut (*stream).received } else { &raw mut (*stream).sent };
        let before = *position;
        *position = before + length;
        before
    };
    let wanted = u64::from(if received { setting!(head_received) } else { setting!(head_sent) });
    let limit = packed >> LIMIT & LIMIT_BITS;
    let head = if buffer == 0 {
        0
    } else if limit != 0 {
        if limit - 1 < wanted { limit - 1 } else { wanted }
    } else if encrypted && length > TLS_HEAD as u64 && begins_application_data(buffer) {
        let head = TLS_HEAD as u64;
        capture::<TLS_HEAD, 0>(&Call { inode, offset, buffer, length, head, packed, context });
        return 0;
    } else if length < wanted {
        length
    } else {
        wanted
    };
    capture_sized(&Call { inode, offset, buffer, length, head, packed, context });
    0
}

/// Reports the front of `length` bytes that were read from a pipe.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_pipe(inode: u64, buffer: u64, length: u64, fd: u32, context: u64) -> u32 {
    let most = PIPE_HEAD as u64;
    let head = if length < most { length } else { most };
    let packed = pack(fd, flag::RECEIVED | flag::FILE_CALL | flag::PIPE);
    capture::<PIPE_HEAD, 0>(&Call { inode, offset: 0, buffer, length, head, packed, context });
    0
}

/// One buffer of one system call.
struct Call {
    inode: u64,
    offset: u64,
    buffer: u64,
    length: u64,
    head: u64,
    packed: u64,
    context: u64,
}

/// Reports bytes. The ring buffer wants constant sizes: the smallest class that holds the head; only the last has room
/// for a tail.
#[inline(always)]
fn capture_sized(call: &Call) {
    let limited = call.packed >> LIMIT & LIMIT_BITS != 0;
    if call.length > call.head && call.buffer != 0 && !limited {
        capture::<HEAD_MAX, TAIL_MAX>(call);
    } else if call.head <= 128 {
        capture::<128, 0>(call);
    } else if call.head <= 512 {
        capture::<512, 0>(call);
    } else if call.head <= 2048 {
        capture::<2048, 0>(call);
    } else {
        capture::<HEAD_MAX, 0>(call);
    }
}

/// Reports bytes with room for `HEAD` bytes of the front and `TAIL` of the end.
#[inline(always)]
fn capture<const HEAD: usize, const TAIL: usize>(call: &Call) {
    let Some(mut entry) = FACTS.reserve_bytes(size_of::<Data>() + HEAD + TAIL, 0) else {
        count_drop();
        return;
    };
    let start = entry.as_mut_ptr();
    let fact = start.cast::<Data>();
    let mut tail = 0;
    unsafe {
        // By way of memory: the compiler knows that it fits, leaves the comparison out, and verifiers do not see why.
        (&raw mut (*fact).head).write_volatile(call.head as u32);
        let mut head = u64::from((&raw const (*fact).head).read_volatile());
        if head > HEAD as u64 {
            head = HEAD as u64;
        }
        write_header(&raw mut (*fact).header, kind::DATA, call.packed as u16, call.context);
        (&raw mut (*fact).header.buffer).write(buffer_of(call.buffer));
        (&raw mut (*fact).socket).write(call.inode);
        (&raw mut (*fact).offset).write(call.offset);
        (&raw mut (*fact).length).write(call.length);
        (&raw mut (*fact).fd).write((call.packed >> 16) as i32);
        (&raw mut (*fact).reserved).write(0);
        if head != 0
            && bpf_probe_read_user(start.add(size_of::<Data>()).cast(), head as u32, call.buffer as *const _)
                != 0
        {
            head = 0;
        }
        if TAIL != 0 && head != 0 {
            tail = call.length - head;
            let most = u64::from(setting!(tail));
            if tail > most {
                tail = most;
            }
            if tail > TAIL as u64 {
                tail = TAIL as u64;
            }
            let from = call.buffer + call.length - tail;
            let at = start.add(size_of::<Data>() + HEAD);
            if tail != 0 && bpf_probe_read_user(at.cast(), tail as u32, from as *const _) != 0 {
                tail = 0;
            }
        }
        (&raw mut (*fact).head).write(head as u32);
        (&raw mut (*fact).tail).write(tail as u32);
    }
    entry.submit(wake_flags());
}
