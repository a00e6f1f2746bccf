//! Uprobe programs use less than 64 bytes of stack, and so does each function that they call: from Linux 6.13 a program or
//! function with more may get a private per-CPU stack (`check_max_stack_depth_subprog` asks it of each by itself), and
//! uprobe programs can be preempted while they use it (docs/principles.md).

use std::{fs, ops::Range, path::Path};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

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
    // The kernel rounds up before it compares (`round_up_stack_depth`, kernel/bpf/verifier.c).
    ((-deepest + 15) / 16 * 16, calls)
}

/// The functions that these programs may call, and these functions each other: checked like the programs.
const FUNCTIONS: [&str; 11] = [
    "report_frames",
    "find_mark",
    "report_text",
    "report_stream",
    "descriptor_of",
    "given_bytes",
    "begin_calls",
    "begin_stream",
    "wanted_plaintext",
    "small_frames",
    "memset",
];

#[test]
fn uprobe_programs_keep_to_the_shared_stack() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/adder-programs");
    let Ok(data) = fs::read(&path) else {
        eprintln!("skipped: no kernel side built, run `cargo xtask build-ebpf`");
        return;
    };
    let file = object::File::parse(&*data).expect("an object");
    // A call to a function of the same section has its place in the instruction, or names the function.
    let allowed = |section: &object::Section<'_, '_>, range: Range<u64>| {
        let within = section.relocations().filter(|(at, _)| range.contains(at));
        let calls = within.filter(|(_, relocation)| {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { return false };
            let symbol = file.symbol_by_index(symbol).expect("a symbol of the object");
            FUNCTIONS.contains(&symbol.name().unwrap_or_default())
        });
        calls.count()
    };
    for name in ["uprobe", "uretprobe"] {
        let section = file.section_by_name(name).expect("the section of these programs");
        let (bytes, calls) = stack_use(section.data().expect("code"));
        println!("{name}: {bytes} bytes of stack, {calls} calls");
        assert!(bytes > 0, "the decoder sees the stack at all");
        assert!(bytes < LIMIT, "{name}: {bytes} bytes of stack");
        assert_eq!(calls, allowed(&section, 0..u64::MAX), "{name}: calls of other functions");
    }
    let section = file.section_by_name(".text").expect("the section of functions");
    let text = section.data().expect("code");
    for name in FUNCTIONS {
        let function = file.symbol_by_name(name).expect("a function of the object");
        let range = function.address()..function.address() + function.size();
        let code = &text[range.start as usize..range.end as usize];
        let (bytes, calls) = stack_use(code);
        println!("{name}: {bytes} bytes of stack, {calls} calls");
        assert!(bytes < LIMIT, "{name}: {bytes} bytes of stack");
        assert_eq!(calls, allowed(&section, range), "{name}: calls of other functions");
    }
}
