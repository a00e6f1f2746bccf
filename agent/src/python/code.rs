//! Choosing the instruction for a probe.
//!
//! The kernel emulates some instructions at a uprobe (arch/x86/kernel/uprobes.c: push, nop, near call, near and
//! conditional jumps) and must single-step the others, which costs ten times as much. The probe goes on the first
//! emulated instruction that is reached whenever the function is entered and still finds the arguments in registers.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, OpAccess, Register};

/// Registers of the first two arguments (System V ABI), which the programs read.
const ARGUMENTS: [Register; 2] = [Register::RDI, Register::RSI];
/// Instructions looked at.
const DEPTH: usize = 12;

/// Offset from the function's entry to the best instruction for an entry probe.
pub(super) fn probe_offset(code: &[u8]) -> u64 {
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    for _ in 0..DEPTH {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        let at = instruction.ip();
        let emulated = match instruction.flow_control() {
            FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => true,
            FlowControl::Next => is_push(instruction.code()) || instruction.code() == Code::Nopd,
            _ => false,
        };
        if emulated {
            return at;
        }
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
        let clobbers = info.info(&instruction).used_registers().iter().any(|used| {
            ARGUMENTS.contains(&used.register().full_register())
                && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
        });
        if clobbers {
            break;
        }
    }
    0
}

/// Address of the function that the code at `address` calls first, with its own first three arguments still in place.
pub(super) fn first_call(code: &[u8], address: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    for _ in 0..DEPTH {
        let instruction = decoder.can_decode().then(|| decoder.decode())?;
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::Call if instruction.code() == Code::Call_rel32_64 => {
                return Some(instruction.near_branch_target());
            }
            _ => return None,
        }
        let clobbers = info.info(&instruction).used_registers().iter().any(|used| {
            [Register::RDI, Register::RSI, Register::RDX].contains(&used.register().full_register())
                && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None)
        });
        if clobbers {
            return None;
        }
    }
    None
}

/// Whether the kernel emulates the instruction at a function's entry, as a return probe needs it there.
pub(super) fn is_cheap(code: &[u8]) -> bool {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    decoder.can_decode() && is_push(decoder.decode().code())
}

fn is_push(code: Code) -> bool {
    matches!(code, Code::Push_r64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_at_the_entry_is_taken() {
        assert_eq!(probe_offset(&[0x41, 0x57, 0x41, 0x56]), 0);
    }

    #[test]
    fn a_marker_and_a_stack_adjustment_are_passed_over() {
        // endbr64; sub $8,%rsp; call …
        assert_eq!(probe_offset(&[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0]), 8);
    }

    #[test]
    fn nothing_behind_a_lost_argument_is_taken() {
        // mov %rax,%rdi; push %rbx
        assert_eq!(probe_offset(&[0x48, 0x89, 0xc7, 0x53]), 0);
    }

    #[test]
    fn the_first_call_is_found_behind_what_leaves_the_arguments_alone() {
        // sub $8,%rsp; call +0x100
        let code = [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 1, 0, 0];
        assert_eq!(first_call(&code, 0x1000), Some(0x1109));
        // xor %edx,%edx; call
        assert_eq!(first_call(&[0x31, 0xd2, 0xe8, 0, 1, 0, 0], 0x1000), None);
        // ret
        assert_eq!(first_call(&[0xc3], 0x1000), None);
        assert_eq!(first_call(&[], 0x1000), None);
    }

    #[test]
    fn code_that_cannot_be_decoded_is_probed_at_its_entry() {
        assert_eq!(probe_offset(&[0x06, 0x06]), 0);
        assert_eq!(probe_offset(&[]), 0);
    }
}
