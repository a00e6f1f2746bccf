//! Proving where a `CPython` interpreter keeps what Adder reads.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use adder_ebpf::Process;

use super::{
    code::probe_offset,
    elf::Elf,
    frames::{self, Codes, Objects},
    memory::{Mapping, Memory, mapped_file, read_maps},
    tls,
};

/// Words of `_PyRuntime` searched for interpreters (`pyruntimestate.interpreters.head` is near its front).
const RUNTIME_WORDS: usize = 512;
/// Words of a `PyInterpreterState` searched for thread states (3.13 and 3.14 have `threads` behind 7 kB of `ceval`).
const INTERPRETER_WORDS: usize = 2048;
/// Words of a `PyThreadState` searched for its fields.
const STATE_WORDS: usize = 96;
/// Words behind a thread pointer searched for the slot (glibc's `struct pthread` keeps keys 0–31 inside itself).
const SLOT_WORDS: usize = 160;
/// Words behind a musl thread pointer searched for the pointer to the thread-specific table.
const MUSL_WORDS: usize = 48;
/// Keys in that table (`PTHREAD_KEYS_MAX`).
const MUSL_KEYS: usize = 128;
/// `PyThreadState.next` (Include/cpython/pystate.h: 3.8 to 3.14 begin with `prev`, `next`, `interp`).
const STATE_NEXT: u64 = 8;
/// Threads looked at.
const THREADS_MAX: usize = 64;

/// The last uvloop that writes late (`UVStream._write`, uvloop/handles/stream.pyx: 0.23 tries at once).
const LATE_WRITES: (u32, u32) = (0, 22);
/// `METH_FASTCALL` of `PyMethodDef.ml_flags` (Include/methodobject.h).
const METH_FASTCALL: u32 = 0x80;

/// Hints, by minor version from 3.8 on: `PyThreadState.context` and `TaskObj.task_context`. The kernel side proves
/// them again at each read.
const HINTS: [(u32, u32, u32); 7] = [
    (8, 240, 128),
    (9, 240, 168),
    (10, 240, 176),
    (11, 224, 152),
    (12, 208, 152),
    (13, 208, 136),
    (14, 208, 144),
];

/// Where a uprobe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Name of the program.
    pub program: &'static str,
    /// File, as this process can open it.
    pub file: PathBuf,
    /// Offset in the file.
    pub offset: u64,
}

/// How exactly work is attributed in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribution {
    /// By Python context: exact under asyncio, threads and greenlets.
    Context,
    /// By thread alone.
    Thread,
}

/// What is proven of a process.
#[derive(Clone, Debug)]
pub struct Proof {
    /// For the kernel side.
    pub process: Process,
    /// Probes to attach.
    pub probes: Vec<Probe>,
    /// Probes that only some processes need; see [`Proof::late_writes`] and [`Engine::needs`](crate::stitch::Engine::needs).
    pub more: Vec<Probe>,
    /// `3.13` and the like.
    pub version: String,
    /// The file with the interpreter in it, as the process sees it.
    pub interpreter: String,
    /// uvloop is loaded.
    pub uvloop: bool,
    /// uvloop is one that writes at the end of the tick, in nobody's context: up to 0.22.
    pub late_writes: bool,
    /// `_asyncio` is loaded (or built in).
    pub asyncio: bool,
    /// How exactly work is attributed.
    pub attribution: Attribution,
    /// Reads its code objects, where its frames were found.
    pub codes: Option<Codes>,
    /// Its thread states.
    pub states: Vec<u64>,
    /// What is missing, in words for the attach report.
    pub notes: Vec<String>,
}

impl Proof {
    /// Takes over what was asked of the same process meanwhile.
    pub fn keep_wishes(&mut self, before: &Self) {
        let Process { marks, texts, stacks, amqp, windows, .. } = before.process;
        self.process = Process { marks, texts, stacks, amqp, windows, ..self.process };
    }

    /// Takes over what was proven of the frames of the same interpreter before.
    pub fn keep_frames(&mut self, before: &Self) {
        self.codes = before.codes;
        self.process = Process {
            frame: before.process.frame,
            cframe: before.process.cframe,
            frame_from: before.process.frame_from,
            frame_size: before.process.frame_size,
            frame_previous: before.process.frame_previous,
            frame_code: before.process.frame_code,
            frame_instruction: before.process.frame_instruction,
            code_start: before.process.code_start,
            frame_shift: before.process.frame_shift,
            text_shift: before.process.text_shift,
            ..self.process
        };
        self.notes.retain(|note| note != NO_FRAMES);
    }
}

/// Of a process whose frames were not found.
const NO_FRAMES: &str = "no thread shows its frames: calls have no `code.*`";

/// Why nothing is proven (yet).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofError {
    /// No `CPython` is mapped.
    #[error("no CPython 3.8 to 3.14 in this process")]
    NotPython,
    /// The interpreter has not started yet, or hides what is looked for.
    #[error("{0}")]
    NotYet(String),
    /// Cannot be read.
    #[error("cannot read the process: {0}")]
    Unreadable(String),
}

/// Looks at a process.
pub fn prove(pid: u32) -> Result<Proof, ProofError> {
    let maps = read_maps(pid).map_err(|error| ProofError::Unreadable(error.to_string()))?;
    let (file, elf, version) = interpreter(pid, &maps)?;
    let memory = Memory::of(pid);
    let first = maps
        .iter()
        .find(|mapping| mapping.path == file)
        .ok_or_else(|| ProofError::NotYet("the interpreter is not mapped".into()))?;
    let bias = elf.bias(first.start, first.offset);
    let mut notes = Vec::new();
    let uvloop = maps.iter().any(|mapping| mapping.path.contains("/uvloop/loop."));
    let minor = super::minor(&version);
    let mut proof = Proof {
        process: Process::default(),
        probes: Vec::new(),
        more: Vec::new(),
        version: version.clone(),
        interpreter: file.clone(),
        uvloop,
        late_writes: uvloop_version(pid, &maps).is_some_and(|version| version <= LATE_WRITES),
        asyncio: false,
        attribution: Attribution::Thread,
        codes: None,
        states: Vec::new(),
        notes: Vec::new(),
    };
    if Path::new(&file)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().contains(&format!("{version}t")))
    {
        proof.notes.push("free-threaded build: work is attributed by thread only".into());
        return Ok(proof);
    }
    let Some(hint) = HINTS.iter().find(|hint| hint.0 == minor) else {
        proof.notes.push(format!("CPython {version} is not known: work is attributed by thread only"));
        return Ok(proof);
    };
    let missing = |name: &str| ProofError::NotYet(format!("{file} does not export {name}"));
    let (runtime, runtime_size) = elf.symbol("_PyRuntime").ok_or_else(|| missing("_PyRuntime"))?;
    let (context_type, _) = elf.symbol("PyContext_Type").ok_or_else(|| missing("PyContext_Type"))?;
    let context_type = context_type.wrapping_add(bias);
    let threads = thread_states(memory, &maps, runtime.wrapping_add(bias));
    if threads.is_empty() {
        return Err(ProofError::NotYet("the interpreter has no thread yet".into()));
    }
    let (slot, slot_table) = slot(memory, &threads)
        .ok_or_else(|| ProofError::NotYet("no thread-specific slot holds the thread state".into()))?;
    let context = context_offset(memory, &threads, context_type);
    if context.is_none() {
        notes
            .push("no context in use yet: its place is taken from the table and checked at each read".into());
    }
    proof.process = Process {
        context_type,
        slot,
        slot_table,
        runtime: runtime.wrapping_add(bias),
        runtime_end: runtime.wrapping_add(bias).wrapping_add(runtime_size),
        context: context.unwrap_or(hint.1),
        task_context: hint.2,
        ..Process::default()
    };
    proof.attribution = Attribution::Context;
    let place = |name: &str| Some(elf.symbol(name)?.0.wrapping_add(bias));
    let objects = || {
        Some(Objects {
            code_type: place("PyCode_Type")?,
            text_type: place("PyUnicode_Type")?,
            none: place("_Py_NoneStruct")?,
        })
    };
    proof.states = threads.iter().map(|thread| thread.state).collect();
    proof.codes = objects().and_then(|objects| {
        let states = proof.states.iter().copied();
        frames::locate(memory, minor, states, objects, &mut proof.process)
    });
    if proof.codes.is_none() {
        notes.push(NO_FRAMES.into());
    }
    add_probes(pid, &maps, (&file, &elf), &mut proof, &mut notes);
    let (libraries, unreadable) = tls::probes(pid, &maps, (&file, &elf));
    proof.process.tls = u32::from(!libraries.is_empty());
    proof.probes.extend(libraries);
    notes.extend(unreadable);
    proof.notes = notes;
    Ok(proof)
}

/// Version of the uvloop that is loaded, by the folder that its installer has left beside it.
fn uvloop_version(pid: u32, maps: &[Mapping]) -> Option<(u32, u32)> {
    let path = maps.iter().map(|mapping| &mapping.path).find(|path| path.contains("/uvloop/loop."))?;
    let packages = Path::new(path).parent()?.parent()?;
    let inside = PathBuf::from(format!("/proc/{pid}/root{}", packages.display()));
    // Without a mount namespace of its own the path is the same for all.
    let mut names =
        [inside.as_path(), packages].into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let names = names.next()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let version = names
        .into_iter()
        .find_map(|name| name.strip_prefix("uvloop-")?.strip_suffix(".dist-info").map(str::to_owned))?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The file with the interpreter, and its version as `3.N`.
fn interpreter(pid: u32, maps: &[Mapping]) -> Result<(String, Elf, String), ProofError> {
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let executable = executable.to_string_lossy().into_owned();
    let library =
        maps.iter().map(|mapping| &mapping.path).find(|path| base_name(path).starts_with("libpython3."));
    let mut candidates: Vec<&str> = library.into_iter().map(String::as_str).collect();
    if !executable.is_empty() {
        candidates.push(&executable);
    }
    for path in candidates {
        let name = base_name(path);
        let looks = name.contains("python") || name.contains("pypy") || name.contains("uwsgi");
        if !looks {
            continue;
        }
        let Ok(elf) = Elf::read(&mapped_file(pid, maps, path)) else { continue };
        if elf.symbol("_PyRuntime").is_none() {
            continue;
        }
        let version = version_in_name(name)
            .or_else(|| version_in_memory(pid, &elf, maps, path))
            .ok_or(ProofError::NotPython)?;
        return Ok((path.to_owned(), elf, version));
    }
    Err(ProofError::NotPython)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// `3.11` from `libpython3.11.so.1.0` or `python3.11`.
fn version_in_name(name: &str) -> Option<String> {
    let rest = &name[name.find("python3.")? + "python3.".len()..];
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then(|| format!("3.{digits}"))
}

/// `Py_Version` is exported from 3.11 on: `PY_VERSION_HEX`.
fn version_in_memory(pid: u32, elf: &Elf, maps: &[Mapping], path: &str) -> Option<String> {
    let first = maps.iter().find(|mapping| mapping.path == path)?;
    let (at, _) = elf.symbol("Py_Version")?;
    let hex = Memory::of(pid).word(at.wrapping_add(elf.bias(first.start, first.offset)))? as u32;
    (hex >> 24 == 3).then(|| format!("3.{}", (hex >> 16) & 0xff))
}

/// A thread that the interpreter knows.
struct Thread {
    /// Address of its `PyThreadState`.
    state: u64,
    /// Its thread pointer: `pthread_self()`, which `CPython` stores as `thread_id`.
    pointer: u64,
}

/// Thread states, proven: they name their interpreter, and hold a thread pointer, which on `x86_64` points to itself
/// (System V ABI, thread-local storage).
fn thread_states(memory: Memory, maps: &[Mapping], runtime: u64) -> Vec<Thread> {
    let writable = |address: u64| {
        address.is_multiple_of(8)
            && maps.iter().any(|m| m.writable && m.readable && m.start <= address && address < m.end)
    };
    let mut seen = Vec::new();
    for interpreter in memory.words(runtime, RUNTIME_WORDS) {
        if !writable(interpreter) || seen.contains(&interpreter) {
            continue;
        }
        seen.push(interpreter);
        for state in memory.words(interpreter, INTERPRETER_WORDS) {
            if !writable(state) {
                continue;
            }
            if let Some(first) = thread(memory, interpreter, state) {
                return all_threads(memory, interpreter, first);
            }
        }
    }
    Vec::new()
}

fn thread(memory: Memory, interpreter: u64, state: u64) -> Option<Thread> {
    let words = memory.words(state, STATE_WORDS);
    // `prev`, `next`, `interp` come first on every version.
    if words.get(2) != Some(&interpreter) {
        return None;
    }
    let pointer = words.iter().skip(3).find(|word| **word > 0xffff && memory.word(**word) == Some(**word))?;
    Some(Thread { state, pointer: *pointer })
}

fn all_threads(memory: Memory, interpreter: u64, first: Thread) -> Vec<Thread> {
    let mut threads = vec![first];
    while threads.len() < THREADS_MAX {
        let Some(last) = threads.last() else { break };
        let Some(next) = memory.word(last.state + STATE_NEXT) else { break };
        if next == 0 || threads.iter().any(|known| known.state == next) {
            break;
        }
        let Some(next) = thread(memory, interpreter, next) else { break };
        threads.push(next);
    }
    threads
}

/// The slot that holds the thread state in every thread: offset from the thread pointer, or (musl) offset in the
/// table to which another word of the thread points.
fn slot(memory: Memory, threads: &[Thread]) -> Option<(i64, i64)> {
    let common = |offsets: &dyn Fn(&Thread) -> Vec<(i64, i64)>| {
        let mut common: Option<Vec<(i64, i64)>> = None;
        for thread in threads {
            let found = offsets(thread);
            if found.is_empty() {
                // A thread that is starting or ending; the others decide.
                continue;
            }
            common = Some(match common {
                None => found,
                Some(before) => before.into_iter().filter(|offset| found.contains(offset)).collect(),
            });
        }
        common.and_then(|offsets| offsets.first().copied())
    };
    common(&|thread| {
        let words = memory.words(thread.pointer, SLOT_WORDS);
        (0..)
            .zip(words)
            .filter(|(_, word)| *word == thread.state)
            .map(|(i, _): (i64, u64)| (i * 8, 0))
            .collect()
    })
    .or_else(|| {
        common(&|thread| {
            let mut found = Vec::new();
            for (i, table) in (0i64..).zip(memory.words(thread.pointer, MUSL_WORDS)).skip(1) {
                if table < 0x1_0000 || table & 7 != 0 {
                    continue;
                }
                let keys = memory.words(table, MUSL_KEYS);
                found.extend(
                    (0i64..).zip(keys).filter(|(_, word)| *word == thread.state).map(|(k, _)| (k * 8, i * 8)),
                );
            }
            found
        })
    })
}

/// The word of a thread state that points to a context.
fn context_offset(memory: Memory, threads: &[Thread], context_type: u64) -> Option<u32> {
    threads.iter().find_map(|thread| {
        let words = memory.words(thread.state, STATE_WORDS);
        (0u32..)
            .zip(words)
            .find(|(_, word)| *word > 0xffff && memory.word(*word + 8) == Some(context_type))
            .map(|(i, _)| i * 8)
    })
}

/// Finds the functions for the probes, in the modules that are mapped or in the interpreter itself.
fn add_probes(pid: u32, maps: &[Mapping], main: (&str, &Elf), proof: &mut Proof, notes: &mut Vec<String>) {
    let module = |name: &str| {
        let path = maps.iter().map(|m| &m.path).find(|path| base_name(path).starts_with(name))?;
        Some((path.as_str(), Elf::read(&mapped_file(pid, maps, path)).ok()?))
    };
    let probe = |program: &'static str, path: &str, elf: &Elf, address: u64, entry: bool| {
        let skip = if entry { probe_offset(elf.code(address, 64)) } else { 0 };
        let offset = elf.code_offset(address)?;
        Some(Probe { program, file: mapped_file(pid, maps, path), offset: offset + skip })
    };
    let asyncio = module("_asyncio.");
    let (path, elf) = asyncio.as_ref().map_or(main, |(path, elf)| (*path, elf));
    match elf.task_init() {
        Some(address) => {
            proof.asyncio = true;
            proof.probes.extend(probe("task_init", path, elf, address, true));
            // The table of `Future`; that of `Task` has methods of the same names that only refuse.
            let wake = elf.method("set_result", &["set_result", "set_exception", "add_done_callback"]);
            proof.more.extend(wake.and_then(|address| probe("set_result", path, elf, address, true)));
        }
        None if asyncio.is_some() => {
            notes.push("`_asyncio.Task.__init__` was not found: tasks have no lineage".into());
        }
        None => {}
    }
    if proof.asyncio {
        // `deque.append`; its module is part of the interpreter.
        let (path, elf) = main;
        let append = elf.method("append", &["append", "appendleft"]);
        proof.more.extend(append.and_then(|address| probe("buffer_append", path, elf, address, true)));
    }
    // zlib: the system's, a copy in a wheel, inside its module, or inside the interpreter.
    let is_zlib =
        |path: &&str| ["libz.so", "libz-", "zlib."].iter().any(|name| base_name(path).starts_with(name));
    let paths: BTreeSet<_> = maps.iter().map(|m| m.path.as_str()).filter(is_zlib).collect();
    let libraries =
        paths.into_iter().filter_map(|path| Some((path, Elf::read(&mapped_file(pid, maps, path)).ok()?)));
    for (path, elf) in libraries {
        let inflate =
            elf.symbol("inflate").and_then(|(address, _)| probe("inflate", path, &elf, address, true));
        proof.more.extend(inflate);
    }
    let (path, elf) = main;
    let inside = elf.symbol("inflate").and_then(|(address, _)| probe("inflate", path, elf, address, true));
    proof.more.extend(inside);
    let contextvars = module("_contextvars.");
    let (path, elf) = contextvars.as_ref().map_or(main, |(path, elf)| (*path, elf));
    if let Some(address) = elf.method("copy_context", &["copy_context"]) {
        proof.probes.extend(probe("copy_context", path, elf, address, false));
    }
    let queue = module("_queue.");
    let (path, elf) = queue.as_ref().map_or(main, |(path, elf)| (*path, elf));
    let names = ["empty", "get", "get_nowait", "put", "put_nowait"];
    // `put_nowait` is what a `logging.handlers.QueueHandler` calls.
    for address in ["put", "put_nowait"].into_iter().filter_map(|name| elf.method(name, &names)) {
        proof.probes.extend(probe("queue_put", path, elf, address, true));
    }
    for name in ["get", "get_nowait"] {
        if let Some(address) = elf.method(name, &names) {
            proof.probes.extend(probe("queue_get", path, elf, address, false));
        }
    }
    if proof.late_writes
        && let Some((path, elf)) = module("loop.").filter(|(path, _)| path.contains("/uvloop/"))
    {
        // The table of `UVStream`; those of its TLS transports begin otherwise.
        let names = ["write", "writelines", "write_eof", "can_write_eof", "is_reading"];
        let found: Vec<_> =
            names[..2].iter().filter_map(|name| elf.method_with_flags(name, &names)).collect();
        let addresses = found.iter().map(|(address, _)| *address);
        let probes: Vec<_> =
            addresses.filter_map(|address| probe("stream_write", path, &elf, address, true)).collect();
        if probes.len() == 2 {
            let is_fast = |(_, flags): &(u64, u32)| flags & METH_FASTCALL != 0;
            proof.process.late = if found.iter().any(is_fast) { adder_ebpf::LATE_FAST } else { 1 };
            proof.probes.extend(probes);
        } else {
            notes.push(
                "`UVStream.write` of uvloop was not found: whose it is what it sends is not known".into(),
            );
        }
    }
}
