//! Where in the code a thread is, seen from outside.
//!
//! The same that the kernel side reads of a thread in its own system calls (`ebpf/src/frames.rs`), here of one that may run
//! meanwhile: what lies inside may change while it is read, and what has been there for long does not.

use adder_ebpf::{FAR, FRAME_BYTES, FRAMES_MAX, Process, code_of};

use super::{frames::OB_TYPE, memory::Memory};

/// What a thread was at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Address of the context that was current; 0 where there was none.
    pub context: u64,
    /// Its frames, as in a [`adder_ebpf::Stack`].
    pub frames: Vec<u64>,
    /// There are more.
    pub cut: bool,
}

/// Looks at the thread with this `PyThreadState`; `None` where its frames cannot be read.
pub fn whereabouts(memory: Memory, process: &Process, state: u64) -> Option<Whereabouts> {
    if process.frame == 0 {
        return None;
    }
    let context = memory.word(state.wrapping_add(u64::from(process.context)))?;
    let is_context = |context: &u64| memory.word(context.wrapping_add(OB_TYPE)) == Some(process.context_type);
    let context = Some(context).filter(is_context).unwrap_or_default();
    let mut frame = memory.word(state.wrapping_add(u64::from(process.frame)))?;
    if process.cframe != 0 {
        frame = memory.word(frame.wrapping_add(u64::from(process.cframe) - 1))?;
    }
    let mut frames = Vec::new();
    let mut bytes = [0; FRAME_BYTES];
    let bytes = bytes.get_mut(..process.frame_size as usize)?;
    while frame != 0 && frames.len() < FRAMES_MAX {
        if !memory.read(frame.wrapping_add(u64::from(process.frame_from)), bytes) {
            break;
        }
        let word = |at: u32| bytes.get(at as usize..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        // 3.14 keeps in the low bits how a reference is counted.
        let code = word(process.frame_code)? & !7;
        let instruction = word(process.frame_instruction)?;
        let instruction = match process.code_start {
            0 => instruction & 0xffff_ffff,
            start => instruction.wrapping_sub(code.wrapping_add(u64::from(start))),
        };
        let unit = u16::try_from(instruction >> (process.frame_shift & 1)).unwrap_or(FAR);
        frames.push(code_of(code) | u64::from(unit) << 48);
        frame = word(process.frame_previous)?;
    }
    (!frames.is_empty()).then_some(Whereabouts { context, frames, cut: frame != 0 })
}
