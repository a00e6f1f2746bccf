//! Where in the code things are done: stacks of Python frames, and what they say of calls and of those who handle work.

use std::{hash::Hasher as _, sync::Arc};

use rustc_hash::{FxHashMap, FxHasher};

use adder_ebpf::stacks;

use super::{Engine, Unit, UnitId, unit::Act};
use crate::{
    code::{self, CodeInfo},
    conn::ConnectionId,
    fact::TextInfo,
    protocol::{Detail, postgres},
    signal::Attribute,
};

/// Number of a stack; 0 is none. Never reused in a run.
pub(super) type StackId = u32;

/// Stacks kept at most; then all are forgotten.
const STACKS_MAX: usize = 16_384;
/// Statements kept at most whose text was found in a frame; then all are looked for again.
const PREPARED_MAX: usize = 65_536;
/// How long texts are wanted after one was missed, nanoseconds.
const TEXTS_WANTED: u64 = 60_000_000_000;
/// Code objects kept at most. More are not taken, and what is done in them has no place.
const CODES_MAX: usize = 131_072;

/// Functions of frameworks that call the application's handler: file, and the last part of the name.
const CALLERS: [(&str, &str); 10] = [
    ("fastapi/routing.py", "run_endpoint_function"),
    ("starlette/routing.py", "app"),
    ("starlette/endpoints.py", "dispatch"),
    ("flask/app.py", "dispatch_request"),
    ("django/core/handlers/base.py", "_get_response"),
    ("django/core/handlers/base.py", "_get_response_async"),
    ("aiohttp/web_app.py", "_handle"),
    ("discord/app_commands/commands.py", "_do_call"),
    ("discord/ext/commands/core.py", "wrapped"),
    ("celery/app/trace.py", "__protected_call__"),
];

/// Functions of an event loop from which everything is called: what lies outside of them has only started the loop.
const LOOPS: [(&str, &str); 7] = [
    ("uvloop/__init__.py", "run"),
    ("asyncio/events.py", "_run"),
    ("asyncio/base_events.py", "_run_once"),
    ("asyncio/base_events.py", "run_forever"),
    ("asyncio/base_events.py", "run_until_complete"),
    ("asyncio/runners.py", "run"),
    ("uvicorn/server.py", "run"),
];

/// All stacks, and the code objects in them.
#[derive(Default)]
pub(super) struct Stacks {
    options: code::Options,
    by_hash: FxHashMap<u64, StackId>,
    kept: Vec<Stack>,
    /// Number of the first of them, less one.
    before: StackId,
    codes: FxHashMap<(u32, u64), Code>,
    /// Texts of statements that were prepared unseen, by connection and name.
    prepared: FxHashMap<(ConnectionId, Arc<str>), Arc<TextInfo>>,
    /// Stacks that were forgotten because there were too many, and code objects that were not taken.
    pub(super) forgotten: u64,
    pub(super) unread: u64,
}

struct Stack {
    pid: u32,
    /// Innermost first.
    frames: Arc<[u64]>,
    cut: bool,
    /// What a database driver was called with there.
    text: Option<Arc<TextInfo>>,
}

struct Code {
    info: CodeInfo,
    own: bool,
    is_loop: bool,
    calls_handlers: bool,
}

/// A function that handles a unit of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handler {
    /// How certain that is.
    rank: Rank,
    /// What lies outside of it is not known to be a loop.
    is_open: bool,
    pub(super) name: String,
    file: String,
    line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It handles one after the other itself.
    Loop,
    /// It is the first of the application's own below what has received it.
    First,
    /// A framework calls its handlers so.
    Called,
}

impl Handler {
    pub(super) fn attributes(&self) -> [Attribute; 3] {
        attributes(&self.name, &self.file, self.line)
    }
}

fn attributes(name: &str, file: &str, line: u32) -> [Attribute; 3] {
    [
        Attribute::new("code.function.name", name.to_owned()),
        Attribute::new("code.file.path", file.to_owned()),
        Attribute::new("code.line.number", i64::from(line)),
    ]
}

fn is_among(code: &CodeInfo, functions: &[(&str, &str)]) -> bool {
    let name = code.name.rsplit('.').next().unwrap_or_default();
    functions.iter().any(|(file, function)| name == *function && code.file.ends_with(file))
}

fn code_of(frame: u64) -> u64 {
    frame & ((1 << 48) - 1)
}

impl Stacks {
    pub(super) fn configure(&mut self, options: &code::Options) {
        self.options = options.clone();
    }

    /// Notes a stack; one that is known already has its number.
    pub(super) fn take(&mut self, pid: u32, frames: &[u8], cut: bool) -> StackId {
        let mut hasher = FxHasher::default();
        hasher.write_u32(pid);
        hasher.write(frames);
        let hash = hasher.finish();
        if let Some(id) = self.by_hash.get(&hash) {
            return *id;
        }
        let words =
            frames.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let frames = words.collect();
        self.keep(hash, Stack { pid, frames, cut, text: None })
    }

    /// The number of the same stack with a text in it.
    pub(super) fn with_text(&mut self, id: StackId, text: &TextInfo) -> StackId {
        let Some(stack) = self.get(id) else { return 0 };
        let mut hasher = FxHasher::default();
        hasher.write_u32(stack.pid);
        stack.frames.iter().for_each(|frame| hasher.write_u64(*frame));
        hasher.write(text.text.as_bytes());
        let hash = hasher.finish();
        if let Some(id) = self.by_hash.get(&hash) {
            return *id;
        }
        let text = Some(Arc::new(text.clone()));
        let stack = Stack { pid: stack.pid, frames: stack.frames.clone(), cut: stack.cut, text };
        self.keep(hash, stack)
    }

    fn keep(&mut self, hash: u64, stack: Stack) -> StackId {
        if self.kept.len() >= STACKS_MAX {
            self.before += self.kept.len() as StackId;
            self.forgotten += self.kept.len() as u64;
            self.kept.clear();
            self.by_hash.clear();
        }
        self.kept.push(stack);
        let id = self.before + self.kept.len() as StackId;
        self.by_hash.insert(hash, id);
        id
    }

    /// Notes a code object.
    pub(super) fn code(&mut self, pid: u32, info: &CodeInfo) {
        if self.codes.len() >= CODES_MAX {
            self.unread += 1;
            return;
        }
        let code = Code {
            own: self.options.is_own(info),
            is_loop: is_among(info, &LOOPS),
            calls_handlers: is_among(info, &CALLERS),
            info: info.clone(),
        };
        self.codes.insert((pid, info.address), code);
    }

    /// A process has a new program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.codes.retain(|(of, _), _| *of != pid);
    }

    pub(super) fn retain(&mut self, is_known: impl Fn(u32) -> bool) {
        self.codes.retain(|(pid, _), _| is_known(*pid));
    }

    fn get(&self, id: StackId) -> Option<&Stack> {
        self.kept.get(id.checked_sub(self.before)?.checked_sub(1)? as usize)
    }

    /// The code objects of a stack, up to the loop that has called it all; `None` where one of them is not known.
    fn codes(&self, stack: &Stack) -> Option<Vec<(&Code, u16)>> {
        let mut found = Vec::with_capacity(stack.frames.len());
        for frame in stack.frames.iter() {
            let code = self.codes.get(&(stack.pid, code_of(*frame)))?;
            if code.is_loop {
                break;
            }
            found.push((code, (*frame >> 48) as u16));
        }
        Some(found)
    }

    /// Where the application makes a call: its innermost frame.
    pub(super) fn site(&self, id: StackId) -> Option<[Attribute; 3]> {
        let stack = self.get(id)?;
        for frame in stack.frames.iter() {
            let code = self.codes.get(&(stack.pid, code_of(*frame)))?;
            if code.is_loop {
                return None;
            }
            if code.own {
                let line = code.info.line((*frame >> 48) as u16)?;
                return Some(attributes(&code.info.name, &code.info.file, line));
            }
        }
        None
    }

    /// The function that handles what came at `base`, given where something was done for it.
    fn handler(&self, base: StackId, id: StackId) -> Option<Handler> {
        let stack = self.get(id)?;
        let codes = self.codes(stack)?;
        let handler = |(code, _): &(&Code, u16), rank| Handler {
            rank,
            is_open: rank != Rank::Called && codes.len() == stack.frames.len(),
            name: code.info.name.clone(),
            file: code.info.file.clone(),
            line: code.info.first_line,
        };
        let called = codes.windows(2).find(|pair| pair[0].0.own && pair[1].0.calls_handlers);
        if let Some(pair) = called {
            return Some(handler(&pair[0], Rank::Called));
        }
        let to_loop = codes.len() < stack.frames.len();
        if stack.cut && !to_loop {
            return None;
        }
        // What has received it is still there, outside.
        let common = self.get(base).filter(|base| !base.cut && !stack.cut).map_or(0, |base| {
            let outer = base.frames.iter().rev().zip(stack.frames.iter().rev());
            outer.take_while(|(one, other)| code_of(**one) == code_of(**other)).count()
        });
        let inside = codes.len().min(stack.frames.len() - common);
        let own = |codes: &&(&Code, u16)| codes.0.own;
        let first = codes[..inside].iter().rfind(own).map(|code| handler(code, Rank::First));
        first.or_else(|| codes[inside..].iter().find(own).map(|code| handler(code, Rank::Loop)))
    }
}

impl Engine {
    /// Where something was done; 0 where the thread that has sent it was not the one that did it.
    pub(super) fn stack_of(&self, act: &Act) -> StackId {
        let writer = || self.contexts.find(act.context).is_some_and(|context| context.writer);
        if act.late || act.woken != 0 || writer() { 0 } else { act.stack }
    }

    /// Where the application has made a call that was begun for `owner`: its innermost frame, or that of whoever has made the
    /// task in which a library has done it. What a task does that is older than the work was not called in it.
    pub(super) fn site_of(&mut self, act: &Act, owner: Option<UnitId>) -> Option<[Attribute; 3]> {
        let stack = self.stack_of(act);
        let here = self.stacks.site(stack);
        if here.is_some() || stack == 0 {
            return here;
        }
        let begun = self.units.get(&owner?)?.start;
        let (mut site, mut unknown) = (None, false);
        for (_, context, _) in self.contexts.line(act.context, act.start) {
            if !context.announced || context.created < begun || site.is_some() {
                break;
            }
            unknown |= context.made_at == 0;
            site = self.stacks.site(context.made_at);
        }
        if site.is_none() && unknown {
            self.want_stacks(act.pid, stacks::TASKS);
        }
        site
    }

    /// Where stacks of a process are wanted besides ([`adder_ebpf::stacks`]): they tell a handler from what has called it, or
    /// whose a library's task is.
    pub fn wants_stacks(&self, pid: u32) -> u32 {
        self.processes.get(&pid).map_or(0, |process| process.stacks_wanted)
    }

    fn want_stacks(&mut self, pid: u32, bit: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.stacks_wanted |= bit;
        }
    }

    /// Whether the texts are wanted that database drivers of a process were called with: it executes statements that were
    /// prepared before the agent came.
    pub fn wants_texts(&self, pid: u32) -> bool {
        let untold = self.processes.get(&pid).map_or(0, |process| process.untold);
        untold != 0 && untold + TEXTS_WANTED > self.now
    }

    /// Finds the text of a statement that was prepared unseen: where it was executed, or where it was before. True if it
    /// was found.
    pub(super) fn recall_text(&mut self, act: &Act, connection: ConnectionId, detail: &mut Detail) -> bool {
        let Detail::Postgres(statement) = detail else { return false };
        let (None, postgres::Kind::Extended, Some(name)) =
            (&statement.text, &statement.kind, &statement.name)
        else {
            return false;
        };
        let key = (connection, name.clone());
        let stack = self.stack_of(act);
        let stacks = &mut self.stacks;
        let here = stacks.get(stack).and_then(|stack| stack.text.clone());
        if let Some(here) = here {
            if stacks.prepared.len() >= PREPARED_MAX {
                stacks.prepared.clear();
            }
            stacks.prepared.insert(key.clone(), here);
        }
        let Some(found) = stacks.prepared.get(&key) else {
            if let Some(process) = self.processes.get_mut(&act.pid) {
                process.untold = self.now;
            }
            return false;
        };
        statement.text = Some(found.text.as_str().into());
        statement.truncated = found.truncated;
        true
    }

    /// Something was done for a unit: who handles it?
    pub(super) fn note_handler(&mut self, unit: UnitId, act: &Act) {
        let stack = self.stack_of(act);
        let Some(unit) = self.units.get_mut(&unit) else { return };
        if stack == 0 || unit.handler.as_ref().is_some_and(|known| known.rank == Rank::Called) {
            return;
        }
        if let Some(handler) = self.stacks.handler(unit.stack, stack)
            && unit.handler.as_ref().is_none_or(|known| known.rank < handler.rank)
            && (handler.rank == Rank::Called || !is_of_another_task(unit, act))
        {
            // What has called what has received it is on the stack, too.
            let (tid, _) = unit.received_by;
            if handler.is_open && unit.stack == 0 && unit.job.is_none() && tid == act.tid {
                self.want_stacks(act.pid, stacks::RECEIVED);
            } else {
                unit.handler = Some(Box::new(handler));
            }
        }
    }
}

/// Whether something was done in another task than the one that was made for a unit: its stack begins with a function that
/// the handler has started.
fn is_of_another_task(unit: &Unit, act: &Act) -> bool {
    let (tid, context) = unit.received_by;
    let own = if unit.job.is_some() { context } else { unit.claimed_by };
    own != 0 && act.context != own && act.tid == tid
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 7;

    /// Stacks with one code object for each function, by its number.
    fn stacks() -> Stacks {
        let mut stacks = Stacks::default();
        let library = "/usr/lib/python3.13/";
        let functions = [
            (16, "main", "/srv/main.py".to_owned()),
            (32, "serve", format!("{library}socketserver.py")),
            (48, "list_games", "/srv/games.py".to_owned()),
            (64, "query", "/srv/db.py".to_owned()),
            (80, "Connection.fetch", format!("{library}site-packages/asyncpg/connection.py")),
            (96, "Handle._run", format!("{library}asyncio/events.py")),
            (112, "run_endpoint_function", format!("{library}site-packages/fastapi/routing.py")),
            (128, "Middleware.__call__", "/srv/middleware.py".to_owned()),
        ];
        for (address, name, file) in functions {
            let (name, first_line) = (name.to_owned(), address as u32);
            // Twenty units on one line, one on from the first.
            let lines = vec![0xdf, 2, 0xdf, 0];
            let format = code::Format::Locations;
            stacks.code(PID, &CodeInfo { address, name, file, first_line, format, lines });
        }
        stacks
    }

    fn take(stacks: &mut Stacks, frames: &[u64]) -> StackId {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        stacks.take(PID, &bytes, false)
    }

    fn handler(stacks: &Stacks, base: StackId, id: StackId) -> Option<(String, Rank)> {
        stacks.handler(base, id).map(|handler| (handler.name, handler.rank))
    }

    #[test]
    fn a_call_is_made_by_the_innermost_frame_of_the_application() {
        let mut stacks = stacks();
        let id = take(&mut stacks, &[80, 64 | 3 << 48, 48, 112, 96, 16]);
        let expected = attributes("query", "/srv/db.py", 65);
        assert_eq!(stacks.site(id), Some(expected));
        let by_loop = take(&mut stacks, &[80, 96, 16]);
        assert_eq!(stacks.site(by_loop), None, "what has started the loop calls nothing");
        let unknown = take(&mut stacks, &[80, 1024, 48]);
        assert_eq!(stacks.site(unknown), None, "it may be the application's");
        assert_eq!(stacks.site(0), None);
    }

    #[test]
    fn the_same_stack_has_the_same_number() {
        let mut stacks = stacks();
        let id = take(&mut stacks, &[80, 64]);
        assert_ne!(take(&mut stacks, &[80, 48]), id);
        assert_eq!(take(&mut stacks, &[80, 64]), id);
    }

    #[test]
    fn the_handler_is_the_first_below_what_has_received_the_request() {
        let mut stacks = stacks();
        let base = take(&mut stacks, &[32, 16]);
        let id = take(&mut stacks, &[80, 64, 48, 32, 16]);
        assert_eq!(handler(&stacks, base, id), Some(("list_games".into(), Rank::First)));
        // It reads and handles.
        let own = take(&mut stacks, &[80, 16]);
        assert_eq!(handler(&stacks, base, own), Some(("main".into(), Rank::Loop)));
        let under_loop = take(&mut stacks, &[80, 64, 48, 96, 16]);
        assert_eq!(handler(&stacks, 0, under_loop), Some(("list_games".into(), Rank::First)));
        let nobody = take(&mut stacks, &[80, 96, 16]);
        assert_eq!(handler(&stacks, 0, nobody), None);
    }

    #[test]
    fn what_a_framework_calls_is_the_handler_under_the_applications_middleware() {
        let mut stacks = stacks();
        let id = take(&mut stacks, &[80, 64, 48, 112, 128, 96, 16]);
        assert_eq!(handler(&stacks, 0, id), Some(("list_games".into(), Rank::Called)));
    }
}
