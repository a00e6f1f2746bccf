//! Uprobe programs use less than 64 bytes of stack and call no function: from Linux 6.13 a program with more may get a
//! private per-CPU stack, and uprobe programs can be preempted while they use it (docs/principles.md).

use std::{fs, path::Path};

use object::{Object as _, ObjectSection as _};

/// Bytes of stack from which on the kernel gives a program a private one (`BPF_PRIV_STACK_MIN_SIZE`,
/// `kernel/bpf/verifier.c`).
const LIMIT: i32 = 64;
const FRAME_POINTER: u8 = 10;

/// Deepest use of the stack, in bytes, and the number of calls to other functions of the object.
fn stack_use(code: &[u8]) -> (i32, usize) {
    let (mut deepest, mut calls) = (0, 0);
    let mut copies = [false; 16];
    for instruction in code.chunks_exact(8) {
        let (opcode, target, source) = (instruction[0], instruction[1] & 15, instruction[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        let immediate = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        match opcode & 7 {
            // Loads from memory; stores to memory.
            1 if source == FRAME_POINTER => deepest = deepest.min(offset),
            2 | 3 if target == FRAME_POINTER => deepest = deepest.min(offset),
            _ => {}
        }
        match opcode {
            // A copy of the frame pointer, and what is taken from it.
            0xbf => copies[usize::from(target)] = source == FRAME_POINTER,
            0x07 if copies[usize::from(target)] => {
                deepest = deepest.min(immediate);
                copies[usize::from(target)] = false;
            }
            0x85 if source == 1 => calls += 1,
            _ => {}
        }
    }
    (-deepest, calls)
}

#[test]
fn uprobe_programs_keep_to_the_shared_stack() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/adder-programs");
    let Ok(data) = fs::read(&path) else {
        eprintln!("skipped: no kernel side built, run `cargo xtask build-ebpf`");
        return;
    };
    let file = object::File::parse(&*data).expect("an object");
    for name in ["uprobe", "uretprobe"] {
        let section = file.section_by_name(name).expect("the section of these programs");
        let (bytes, calls) = stack_use(section.data().expect("code"));
        println!("{name}: {bytes} bytes of stack, {calls} calls");
        assert!(bytes > 0, "the decoder sees the stack at all");
        assert!(bytes < LIMIT, "{name}: {bytes} bytes of stack");
        assert_eq!(calls, 0, "{name}: calls of other functions");
    }
}
