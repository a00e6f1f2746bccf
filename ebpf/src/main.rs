//! The kernel side of Adder: programs that copy bytes, a thread, a socket, a Python context and a time into a ring
//! buffer. They decide nothing.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "atomic addition has no stable form on this target")]
#![allow(missing_docs, reason = "the items of this binary are programs and maps; their modules are documented")]

mod kernel;
mod life;
mod maps;
mod python;
mod record;
mod socket;
mod syscall;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 4] = *b"GPL\0";
