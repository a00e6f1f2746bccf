//! The kernel side of Adder: programs that copy bytes, a thread, a socket, a Python context and a time into a ring
//! buffer. They decide nothing.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "atomic addition has no stable form on this target")]
#![allow(missing_docs, reason = "the items here are programs and maps; their modules are documented")]
#![allow(unreachable_pub, reason = "programs and maps are found by name, not by path")]
#![allow(
    clippy::inline_always,
    reason = "a call costs stack, and old verifiers check it again at each place"
)]
#![allow(clippy::undocumented_unsafe_blocks, reason = "the kernel's verifier proves every access")]
#![allow(clippy::cast_ptr_alignment, reason = "records of the ring buffer are aligned to 8 bytes")]
#![allow(clippy::needless_pass_by_value, reason = "the macros of aya pass contexts by value")]

mod amqp;
mod frames;
mod kernel;
mod life;
mod loops;
mod maps;
mod python;
mod record;
mod socket;
mod syscall;
mod tls;
mod zlib;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 4] = *b"GPL\0";
