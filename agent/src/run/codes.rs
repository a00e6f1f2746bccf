//! Reading the code objects that stacks name.
//!
//! A code object that is freed may be followed by another at its address. So all of a stack are looked at whenever it
//! is new: with other code in it, it hardly ever is the same in all its addresses and instructions.

use std::hash::Hasher as _;

use adder_ebpf::{MARK_END, MARK_STREAM, code_of};
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use super::{Facts, watch::head};
use crate::{
    code::CodeInfo,
    fact::{self, Fact},
    python::{CodeStamp, Codes},
};

/// Stacks remembered at most; then all are new again.
const STACKS_MAX: usize = 65_536;
/// Code objects read at most.
const CODES_MAX: usize = 131_072;
/// Stacks that wait for their process to be known at most.
const WAITING_MAX: usize = 4096;

/// Functions of database drivers, and the local variable with the text of the statement that they execute: file, last part
/// of the name, variable.
const TEXTS: [(&str, &str, &str); 7] = [
    ("asyncpg/connection.py", "_do_execute", "query"),
    ("dialects/postgresql/asyncpg.py", "_prepare_and_execute", "operation"),
    ("dialects/postgresql/asyncpg.py", "_executemany", "operation"),
    ("psycopg/cursor.py", "execute", "query"),
    ("psycopg/cursor.py", "executemany", "query"),
    ("psycopg/cursor_async.py", "execute", "query"),
    ("psycopg/cursor_async.py", "executemany", "query"),
];

/// What the kernel side is to know of a function.
fn mark_of(code: &CodeInfo, codes: &Codes) -> Option<u32> {
    if code.ends_stack() {
        return Some(MARK_END);
    }
    if code.cares_for_stream() {
        let (of, number) = (codes.local(code.address, "self")?, codes.local(code.address, "stream_id")?);
        let distance = number.checked_sub(of)?;
        return (number <= 0xffff && distance / 8 <= 0xff)
            .then_some(MARK_STREAM | ((distance / 8) << 16) | number);
    }
    let (_, _, variable) = TEXTS.iter().find(|(file, function, _)| code.is(file, function))?;
    codes.local(code.address, variable)
}

/// What has been read, and what is to be.
#[derive(Default)]
pub(super) struct CodeReader {
    stacks: FxHashSet<u64>,
    codes: FxHashMap<(u32, u64), Option<CodeStamp>>,
    /// Of new stacks: process, code object.
    wanted: Vec<(u32, u64)>,
    /// How many code objects have been read.
    count: u64,
}

impl CodeReader {
    /// Looks at a fact as it lies in the ring buffer.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        let Ok(Fact::Stack { stack, frames }) = Fact::parse(bytes) else { return };
        self.note_frames(stack.header.pid, fact::words(frames));
    }

    /// Looks at frames.
    pub(super) fn note_frames(&mut self, pid: u32, words: impl Iterator<Item = u64> + Clone) {
        let mut hasher = FxHasher::default();
        hasher.write_u32(pid);
        words.clone().for_each(|word| hasher.write_u64(word));
        if self.stacks.len() >= STACKS_MAX {
            self.stacks.clear();
        }
        if self.wanted.len() < WAITING_MAX * adder_ebpf::FRAMES_MAX && self.stacks.insert(hasher.finish()) {
            self.wanted.extend(words.map(|word| (pid, code_of(word))));
        }
    }

    /// Whether there is something to be read.
    pub(super) fn wants(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// How many code objects have been read so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Reads what is wanted and not known. Returns what the kernel side is to know of functions among it: process, code object,
    /// mark (0: nothing any more).
    pub(super) fn read(
        &mut self,
        codes_of: impl Fn(u32) -> Wanted,
        facts: &mut Facts<'_>,
    ) -> Vec<(u32, u64, u32)> {
        let mut marks = Vec::new();
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|&(pid, address)| {
            let codes = match codes_of(pid) {
                Wanted::Now(codes) => codes,
                Wanted::Later => return true,
                Wanted::No => return false,
            };
            let stamp = codes.stamp(address);
            let known = self.codes.get(&(pid, address));
            let again = known.is_some();
            if known != Some(&stamp) && (again || self.codes.len() < CODES_MAX) {
                self.codes.insert((pid, address), stamp);
                self.count += 1;
                let code = codes.read(address);
                // Another function may have taken the place of a marked one.
                match mark_of(&code, &codes) {
                    Some(mark) => marks.push((pid, address, mark)),
                    None if again => marks.push((pid, address, 0)),
                    None => {}
                }
                facts.own(&Fact::Code(head(pid), code));
            }
            false
        });
        self.wanted = wanted;
        marks
    }

    /// A process has ended, or has a new program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.codes.retain(|(of, _), _| *of != pid);
        self.wanted.retain(|(of, _)| *of != pid);
        // Which of them are its own is not known.
        self.stacks.clear();
    }
}

/// Whether the code objects of a process can be read.
pub(super) enum Wanted {
    Now(Codes),
    /// It is not proven yet.
    Later,
    No,
}
