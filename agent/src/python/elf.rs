//! Finding functions in ELF files, stripped ones too.
//!
//! Static C functions of `CPython`'s modules have no symbol in a stripped file, but the tables that name them are data:
//! a `PyMethodDef` (Include/methodobject.h), `PyType_Spec` or `PyTypeObject` (Include/object.h,
//! Include/cpython/object.h) holds the address of a string and, beside it, the address of the function.

use std::{collections::HashMap, fs, io, path::Path};

use object::{
    Architecture, Object as _, ObjectSegment as _, ObjectSymbol as _, SegmentFlags,
    elf::{PF_W, PF_X, R_X86_64_64, R_X86_64_RELATIVE},
    read::elf::{ElfFile64, FileHeader as _, Rela as _, SectionHeader as _},
};

/// `Py_tp_init` (Include/typeslots.h).
const PY_TP_INIT: u32 = 60;
/// From `PyTypeObject.tp_name` to `PyTypeObject.tp_init`.
const NAME_TO_INIT: u64 = 272;
/// From `PyType_Spec.name` to `PyType_Spec.slots`.
const NAME_TO_SLOTS: u64 = 24;
/// Bytes in a `PyMethodDef`.
const METHOD_DEF: u64 = 32;
/// A file larger than this is no interpreter.
const FILE_MAX: u64 = 512 * 1024 * 1024;

struct Segment {
    address: u64,
    offset: u64,
    bytes: std::ops::Range<usize>,
    executable: bool,
    writable: bool,
}

/// A parsed file.
pub(super) struct Elf {
    data: Vec<u8>,
    segments: Vec<Segment>,
    symbols: HashMap<String, (u64, u64)>,
    /// Words of the data segments that a relocation fills in.
    relocated: HashMap<u64, u64>,
    fixed: bool,
}

impl Elf {
    /// Reads and parses a file; of its symbols only those that begin with `Py`, `_` or `SSL_`, and `inflate`, are kept.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        if fs::metadata(path)?.len() > FILE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file too large for an interpreter"));
        }
        let data = fs::read(path)?;
        Self::parse(data).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn parse(data: Vec<u8>) -> Result<Self, object::Error> {
        let file = ElfFile64::<object::Endianness>::parse(&*data)?;
        if file.architecture() != Architecture::X86_64 {
            return Ok(Self::empty());
        }
        let mut segments = Vec::new();
        for segment in file.segments() {
            let (offset, size) = segment.file_range();
            let SegmentFlags::Elf { p_flags, .. } = segment.flags() else { continue };
            let end = offset.saturating_add(size).min(data.len() as u64);
            segments.push(Segment {
                address: segment.address(),
                offset,
                bytes: offset.min(end) as usize..end as usize,
                executable: p_flags.0 & PF_X.0 != 0,
                writable: p_flags.0 & PF_W.0 != 0,
            });
        }
        let mut symbols = HashMap::new();
        for symbol in file.dynamic_symbols().chain(file.symbols()) {
            if symbol.address() != 0
                && let Ok(name) = symbol.name()
                && (["Py", "_", "SSL_"].iter().any(|front| name.starts_with(front)) || name == "inflate")
            {
                symbols.entry(name.to_owned()).or_insert((symbol.address(), symbol.size()));
            }
        }
        let endian = file.endian();
        let mut relocated = HashMap::new();
        let dynamic: HashMap<usize, u64> =
            file.dynamic_symbols().map(|symbol| (symbol.index().0, symbol.address())).collect();
        for section in file.elf_section_table().iter() {
            if let Ok(Some((entries, _))) = section.rela(endian, &*data) {
                for entry in entries {
                    let kind = entry.r_type(endian, false);
                    let addend = entry.r_addend(endian).cast_unsigned();
                    let at = entry.r_offset(endian);
                    if kind == R_X86_64_RELATIVE {
                        relocated.insert(at, addend);
                    } else if kind == R_X86_64_64
                        && let Some(base) = dynamic.get(&(entry.r_sym(endian, false) as usize))
                    {
                        relocated.insert(at, base.wrapping_add(addend));
                    }
                }
            }
        }
        let fixed = file.elf_header().e_type(endian) == object::elf::ET_EXEC;
        Ok(Self { data, segments, symbols, relocated, fixed })
    }

    fn empty() -> Self {
        Self {
            data: Vec::new(),
            segments: Vec::new(),
            symbols: HashMap::new(),
            relocated: HashMap::new(),
            fixed: false,
        }
    }

    /// Address (in the file's own terms) and size of a symbol.
    pub(super) fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        self.symbols.get(name).copied()
    }

    /// What to add to the file's addresses in a process that mapped the byte at `offset` at `address`.
    pub(super) fn bias(&self, address: u64, offset: u64) -> u64 {
        if self.fixed {
            return 0;
        }
        let segment =
            self.segments.iter().find(|s| s.offset <= offset && offset < s.offset + s.bytes.len() as u64);
        let base = segment.map_or(offset, |s| s.address + (offset - s.offset));
        address.wrapping_sub(base)
    }

    /// Offset in the file of an address of code.
    pub(super) fn code_offset(&self, address: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| s.executable && s.holds(address))?;
        Some(segment.offset + (address - segment.address))
    }

    /// The bytes at an address of code.
    pub(super) fn code(&self, address: u64, length: usize) -> &[u8] {
        let Some(start) = self.code_offset(address) else { return &[] };
        let start = start as usize;
        self.data.get(start..(start + length).min(self.data.len())).unwrap_or_default()
    }

    /// Whether this text is in the file.
    pub(super) fn contains(&self, text: &[u8]) -> bool {
        memchr::memmem::find(&self.data, text).is_some()
    }

    /// Address of `_asyncio.Task.__init__`.
    pub(super) fn task_init(&self) -> Option<u64> {
        for name in self.words_naming(b"_asyncio.Task") {
            if let Some(slots) = self.word(name + NAME_TO_SLOTS).filter(|slots| self.is_data(*slots))
                && let Some(init) = self.slot(slots, PY_TP_INIT)
            {
                return Some(init);
            }
            if let Some(init) =
                self.word(name + NAME_TO_INIT).filter(|init| self.code_offset(*init).is_some())
            {
                return Some(init);
            }
        }
        None
    }

    /// Address of a function in the method table in which all of `names` stand in a row.
    pub(super) fn method(&self, wanted: &str, names: &[&str]) -> Option<u64> {
        self.method_with_flags(wanted, names).map(|(function, _)| function)
    }

    /// The same, with `PyMethodDef.ml_flags`: how it is called.
    pub(super) fn method_with_flags(&self, wanted: &str, names: &[&str]) -> Option<(u64, u32)> {
        let first = names.first()?;
        let row = names.iter().position(|name| *name == wanted)? as u64;
        for start in self.words_naming(first.as_bytes()) {
            let fits = names.iter().enumerate().all(|(i, name)| {
                self.word(start + i as u64 * METHOD_DEF).is_some_and(|at| self.text_is(at, name.as_bytes()))
            });
            if fits {
                let at = start + row * METHOD_DEF;
                let function = self.word(at + 8)?;
                return self.code_offset(function).and(Some((function, self.word(at + 16)? as u32)));
            }
        }
        None
    }

    /// Pointer of a slot in a `PyType_Slot` array.
    fn slot(&self, mut at: u64, wanted: u32) -> Option<u64> {
        for _ in 0..100 {
            let id = self.word(at)? as u32;
            if id == 0 {
                return None;
            }
            if id == wanted {
                return self.word(at + 8).filter(|function| self.code_offset(*function).is_some());
            }
            at += 16;
        }
        None
    }

    /// Addresses of data words that point to this zero-terminated text.
    fn words_naming(&self, text: &[u8]) -> Vec<u64> {
        let mut found = Vec::new();
        for (at, value) in &self.relocated {
            if self.text_is(*value, text) {
                found.push(*at);
            }
        }
        if found.is_empty() {
            // No relocation points there: a file that is not position independent, or one with packed relocations;
            // either way the word itself is in the file.
            for segment in self.segments.iter().filter(|s| s.writable) {
                let bytes = self.data.get(segment.bytes.clone()).unwrap_or_default();
                for (i, word) in bytes.chunks_exact(8).enumerate() {
                    let value = u64::from_le_bytes(word.try_into().unwrap_or_default());
                    if value != 0 && self.text_is(value, text) {
                        found.push(segment.address + i as u64 * 8);
                    }
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Whether this zero-terminated text is at an address.
    fn text_is(&self, address: u64, text: &[u8]) -> bool {
        let Some(segment) = self.segments.iter().find(|s| s.holds(address)) else { return false };
        let start = segment.bytes.start + (address - segment.address) as usize;
        self.data.get(start..start + text.len()).is_some_and(|found| found == text)
            && self.data.get(start + text.len()) == Some(&0)
    }

    /// The word at an address, relocated.
    fn word(&self, address: u64) -> Option<u64> {
        if let Some(value) = self.relocated.get(&address) {
            return Some(*value);
        }
        let segment = self.segments.iter().find(|s| s.holds(address))?;
        let start = segment.bytes.start + (address - segment.address) as usize;
        let bytes = self.data.get(start..start + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn is_data(&self, address: u64) -> bool {
        self.segments.iter().any(|s| !s.executable && s.holds(address))
    }
}

impl Segment {
    fn holds(&self, address: u64) -> bool {
        address >= self.address && address - self.address < self.bytes.len() as u64
    }
}
