//! Where a `CPython` keeps its frames and code objects.
//!
//! The layouts are those of Include/cpython/frameobject.h, `Include/internal/pycore_frame.h` and Include/cpython/code.h of
//! each version; that a process follows them is proven on a thread of its own.

use adder_ebpf::Process;

use super::memory::Memory;
use crate::code::{CodeInfo, Format};

/// What calls Python from C has no other name, and no file.
const C: &str = "<C>";
/// `PyObject.ob_type`.
pub(super) const OB_TYPE: u64 = 8;
/// `PyVarObject.ob_size`, which is the length of a `str` and of `bytes`, too.
pub(super) const SIZE: u64 = 16;
/// `PyTupleObject.ob_item`, before which 3.14 keeps a hash.
const ITEMS: u64 = 24;
const ITEMS_3_14: u64 = 32;
/// Addresses of user space are below (`Documentation/arch/x86/x86_64/mm.rst`).
const ADDRESS_MAX: u64 = 1 << 47;
/// `PyTypeObject.tp_basicsize`, which for code objects is where their instructions begin (Objects/codeobject.c).
pub(super) const BASIC_SIZE: u64 = 32;
/// `PyBytesObject.ob_sval`.
const BYTES: u64 = 32;
/// `PyASCIIObject.state`.
const STATE: u64 = 32;
/// How far that is shifted to the right so that its lowest bits are `kind`: two bits say how a string is interned.
const TEXT_SHIFT: u32 = 2;
/// Words of a `PyThreadState` searched for its frame.
const STATE_WORDS: usize = 24;
/// Frames of one thread looked at.
const DEPTH: usize = 512;
/// How often a thread is looked at: one that runs may change its frames meanwhile.
const LOOKS: usize = 64;
/// Most bytes of a name or a path.
const TEXT_MAX: usize = 4096;
/// Bytes of a code object in which its fields are.
const CODE_BYTES: usize = 144;
/// Local variables of one function looked at.
const NAMES_MAX: usize = 256;
/// Most bytes of a line table.
const TABLE_MAX: usize = 256 * 1024;

/// What differs from version to version.
#[derive(Clone, Copy)]
struct Version {
    minor: u32,
    /// Part of a frame that is read, and in it the previous frame, the code object, the instruction.
    from: u32,
    size: u32,
    previous: u32,
    code: u32,
    instruction: u32,
    /// Place of the frame in what the thread state points to, plus one, where that is not the frame.
    cframe: u32,
    /// The instruction is an address; else a number, of bytes or (3.10) of units.
    is_address: bool,
    shift: u32,
    /// In a code object.
    first_line: u64,
    file: u64,
    name: u64,
    lines: u64,
    format: Format,
    /// In a code object: the names of what is behind `locals` in a frame.
    names: u64,
    locals: u32,
}

const VERSIONS: [Version; 7] = [
    // f_back 24, f_code 32, f_lasti 104.
    Version { minor: 8, ..V3_9 },
    V3_9,
    // f_lasti 96.
    Version { minor: 10, size: 80, instruction: 72, shift: 0, format: Format::Pairs, locals: 352, ..V3_9 },
    // f_code 32, previous 48, prev_instr 56.
    Version {
        minor: 11,
        from: 32,
        size: 32,
        previous: 16,
        code: 0,
        instruction: 24,
        cframe: 8 + 1,
        first_line: 72,
        ..V3_13
    },
    Version { minor: 12, cframe: 1, ..V3_13 },
    V3_13,
    // A flag more lies before the locals.
    Version { minor: 14, locals: 80, ..V3_13 },
];

const V3_9: Version = Version {
    minor: 9,
    from: 24,
    size: 88,
    previous: 0,
    code: 8,
    instruction: 80,
    cframe: 0,
    is_address: false,
    shift: 1,
    first_line: 40,
    file: 104,
    name: 112,
    lines: 120,
    format: Format::Notab,
    names: 72,
    locals: 360,
};

/// `f_executable` 0, `previous` 8, `instr_ptr` 56.
const V3_13: Version = Version {
    minor: 13,
    from: 0,
    size: 64,
    previous: 8,
    code: 0,
    instruction: 56,
    cframe: 0,
    is_address: true,
    shift: 1,
    first_line: 68,
    file: 112,
    name: 128,
    lines: 136,
    format: Format::Locations,
    names: 96,
    locals: 72,
};

/// Reads code objects of one process.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    memory: Memory,
    minor: u32,
    objects: Objects,
    /// Where the frame is in a thread state.
    frame: u32,
}

/// Addresses of objects of the interpreter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Objects {
    /// `PyCode_Type`.
    pub(super) code_type: u64,
    /// `PyUnicode_Type`.
    pub(super) text_type: u64,
    /// `None`, which stands in the place of a code object where C calls Python (since 3.13).
    pub(super) none: u64,
}

/// Fills in where the frames of a process are; `None` where no thread shows it.
pub(super) fn locate(
    memory: Memory,
    minor: u32,
    states: impl Iterator<Item = u64> + Clone,
    objects: Objects,
    process: &mut Process,
) -> Option<Codes> {
    let version = VERSIONS.iter().find(|version| version.minor == minor)?;
    let code_type = objects.code_type;
    let code_start = if version.is_address { memory.word(code_type + BASIC_SIZE)? as u32 } else { 0 };
    let mut frames = states.cycle().take(LOOKS);
    let frame = frames.find_map(|state| {
        let words = memory.words(state, STATE_WORDS);
        (0u32..).zip(words).find(|(_, word)| is_chain(memory, version, code_type, *word)).map(|(i, _)| i * 8)
    })?;
    process.frame = frame;
    process.cframe = version.cframe;
    process.frame_from = version.from;
    process.frame_size = version.size;
    process.frame_previous = version.previous;
    process.frame_code = version.code;
    process.frame_instruction = version.instruction;
    process.code_start = code_start;
    process.frame_shift = version.shift;
    process.text_shift = TEXT_SHIFT;
    Some(Codes { memory, minor, objects, frame })
}

/// Whether a word of a thread state leads to frames: each with a code object, the last without a previous one. The thread
/// may run meanwhile: then another one, or the next look, shows it.
fn is_chain(memory: Memory, version: &Version, code_type: u64, word: u64) -> bool {
    let is_address = |word: u64| word > 0xffff && word.is_multiple_of(8);
    if !is_address(word) {
        return false;
    }
    let frame = match version.cframe {
        0 => Some(word),
        at => memory.word(word + u64::from(at) - 1),
    };
    let Some(mut frame) = frame.filter(|frame| is_address(*frame)) else { return false };
    let mut codes = 0;
    for _ in 0..DEPTH {
        if frame == 0 {
            return codes > 0;
        }
        let field = |at: u32| memory.word(frame + u64::from(version.from + at));
        let (Some(code), Some(previous)) = (field(version.code), field(version.previous)) else {
            return false;
        };
        // A frame in which C calls Python has none (`FRAME_OWNED_BY_CSTACK`).
        if memory.word((code & !7) + OB_TYPE) == Some(code_type) {
            codes += 1;
        } else if codes == 0 {
            return false;
        }
        if previous != 0 && !is_address(previous) {
            return false;
        }
        frame = previous;
    }
    false
}

/// What tells a code object from another one at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeStamp {
    size: u64,
    file: u64,
    name: u64,
    lines: u64,
    first_line: u32,
}

impl Codes {
    /// What tells the code object at an address from others; `None` where there is none.
    pub fn stamp(&self, address: u64) -> Option<CodeStamp> {
        let version = VERSIONS.iter().find(|version| version.minor == self.minor)?;
        let mut bytes = [0; CODE_BYTES];
        if !self.memory.read(address, &mut bytes) {
            return None;
        }
        let word = |at: u64| bytes.get(at as usize..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        (word(OB_TYPE)? == self.objects.code_type).then_some(CodeStamp {
            size: word(SIZE)?,
            file: word(version.file)?,
            name: word(version.name)?,
            lines: word(version.lines)?,
            first_line: word(version.first_line)? as u32,
        })
    }

    /// Reads the code object at an address. What is none has no name.
    pub fn read(&self, address: u64) -> CodeInfo {
        self.try_read(address).unwrap_or(CodeInfo { address, ..CodeInfo::default() })
    }

    fn try_read(&self, address: u64) -> Option<CodeInfo> {
        let version = VERSIONS.iter().find(|version| version.minor == self.minor)?;
        let memory = self.memory;
        let word = |at: u64| memory.word(address + at);
        if address == self.objects.none {
            return Some(CodeInfo { address, name: C.into(), file: C.into(), ..CodeInfo::default() });
        }
        if word(OB_TYPE)? != self.objects.code_type {
            return None;
        }
        Some(CodeInfo {
            address,
            name: self.text(word(version.name)?)?,
            file: self.text(word(version.file)?)?,
            first_line: word(version.first_line)? as u32,
            format: version.format,
            lines: self.bytes(word(version.lines)?)?,
        })
    }

    fn bytes(&self, address: u64) -> Option<Vec<u8>> {
        let length = usize::try_from(self.memory.word(address + SIZE)?).ok()?;
        let mut bytes = vec![0; Some(length).filter(|length| *length <= TABLE_MAX)?];
        self.memory.read(address + BYTES, &mut bytes).then_some(bytes)
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    /// The minor version.
    pub(super) fn minor(&self) -> u32 {
        self.minor
    }

    /// The frames of a thread, innermost first: each with its code object. The thread may run meanwhile; those that are
    /// there for long are found all the same.
    pub(super) fn frames(&self, state: u64) -> Vec<(u64, u64)> {
        let mut frames = Vec::new();
        let Some(version) = VERSIONS.iter().find(|version| version.minor == self.minor) else {
            return frames;
        };
        let first = self.memory.word(state + u64::from(self.frame)).and_then(proper);
        let mut next = match version.cframe {
            0 => first,
            at => first.and_then(|cframe| self.memory.word(cframe + u64::from(at) - 1)),
        };
        while let Some(frame) = next.and_then(proper).filter(|frame| *frame != 0 && frames.len() < DEPTH) {
            let field = |at: u32| self.memory.word(frame + u64::from(version.from + at));
            frames.push((frame, field(version.code).unwrap_or_default() & !7));
            next = field(version.previous);
        }
        frames
    }

    /// File and name of a function, by its code object.
    pub(super) fn function(&self, code: u64) -> Option<(String, String)> {
        let version = VERSIONS.iter().find(|version| version.minor == self.minor)?;
        let word = |at| self.memory.word(proper(code)? + at);
        if word(OB_TYPE)? != self.objects.code_type {
            return None;
        }
        Some((self.text(word(version.file)?)?, self.text(word(version.name)?)?))
    }

    /// The object that a local variable of a frame refers to.
    pub(super) fn local_value(&self, frame: u64, code: u64, name: &str) -> Option<u64> {
        // 3.14 keeps in the low bits how a reference is counted.
        self.memory.word(frame + u64::from(self.local(code, name)?)).map(|object| object & !7)
    }

    /// Offset in a frame of a local variable.
    pub fn local(&self, address: u64, name: &str) -> Option<u32> {
        let version = VERSIONS.iter().find(|version| version.minor == self.minor)?;
        let names = self.memory.word(address + version.names)?;
        let count = usize::try_from(self.memory.word(names + SIZE)?).ok()?.min(NAMES_MAX);
        let items = if self.minor >= 14 { ITEMS_3_14 } else { ITEMS };
        let names = self.memory.words(names + items, count);
        let index = names.into_iter().position(|at| self.text(at).is_some_and(|found| found == name))?;
        Some(version.locals + 8 * u32::try_from(index).ok()?)
    }

    /// Reads a `str` that was copied from its beginning on; whether not all of it was.
    pub fn copied(&self, bytes: &[u8]) -> Option<(String, bool)> {
        let word = |at: u64| bytes.get(at as usize..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        if word(OB_TYPE)? != self.objects.text_type {
            return None;
        }
        let length = usize::try_from(word(SIZE)?).ok()?;
        let (at, width) = self.characters(word(STATE)? as u32)?;
        let all = bytes.get(at as usize..)?;
        let kept = all.get(..length.checked_mul(width)?).unwrap_or(all);
        Some((decode(kept, width), kept.len() < length * width))
    }

    /// Reads a `str` in its compact form (Include/cpython/unicodeobject.h).
    pub(super) fn text(&self, address: u64) -> Option<String> {
        let address = proper(address)?;
        let length = usize::try_from(self.memory.word(address + SIZE)?).ok()?;
        let (at, width) = self.characters(self.memory.word(address + STATE)? as u32)?;
        let mut bytes = vec![0; length.checked_mul(width).filter(|size| *size <= TEXT_MAX)?];
        self.memory.read(address + at, &mut bytes).then(|| decode(&bytes, width))
    }

    /// Where the characters of a `str` are, and how many bytes each has.
    fn characters(&self, state: u32) -> Option<(u64, usize)> {
        let state = state >> TEXT_SHIFT;
        let (width, compact, ascii) = (state & 7, state >> 3 & 1 == 1, state >> 4 & 1 == 1);
        // 3.12 has dropped `wstr` and its length.
        let at = match (ascii, self.minor >= 12) {
            (true, true) => 40,
            (true, false) => 48,
            (false, true) => 56,
            (false, false) => 72,
        };
        (compact && matches!(width, 1 | 2 | 4)).then_some((at, width as usize))
    }
}

/// An address that may be one of user space: to which, whatever was read there, an offset can be added.
pub(super) fn proper(address: u64) -> Option<u64> {
    Some(address).filter(|address| *address < ADDRESS_MAX)
}

fn decode(bytes: &[u8], width: usize) -> String {
    let characters = bytes.chunks_exact(width).map(|unit| {
        let number = unit.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
    });
    characters.collect()
}
