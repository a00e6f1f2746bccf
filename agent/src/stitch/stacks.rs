//! Where in the code things are done: stacks of Python frames, and what they say of calls and of those who handle work.

use std::{hash::Hasher as _, sync::Arc};

use rustc_hash::{FxHashMap, FxHasher};

use adder_ebpf::{Header, Stream, code_of, stacks};

use super::{
    Engine, Unit, UnitId,
    context::ContextId,
    site::{Handler, Rank, Site, attributes},
    unit::{Act, Shared},
};
use crate::{
    code::{self, CodeInfo, Sharers},
    fact::TextInfo,
    signal::Attribute,
};

/// Number of a stack; 0 is none. Never reused in a run.
pub(super) type StackId = u32;

/// Stacks kept at most; then all are forgotten.
const STACKS_MAX: usize = 16_384;
/// Bytes of stacks, with the texts in them, and of line tables, likewise.
const STACK_BYTES_MAX: usize = 8 * 1024 * 1024;
const CODE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Code objects kept at most. More are not taken, and what is done in them has no place.
const CODES_MAX: usize = 131_072;

/// All stacks, and the code objects in them.
#[derive(Default)]
pub(super) struct Stacks {
    options: code::Options,
    by_hash: FxHashMap<u64, StackId>,
    kept: Vec<Stack>,
    /// Number of the first of them, less one.
    before: StackId,
    codes: FxHashMap<(u32, u64), Code>,
    /// There is code that sends what others have left.
    has_flushers: bool,
    /// One of them sends what tasks have gathered on a connection.
    has_sharers: bool,
    /// Code of `grpc.aio` is among them.
    has_stubs: bool,
    /// Bytes of stacks, and of line tables.
    bytes: usize,
    code_bytes: usize,
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
    ends: bool,
    own: bool,
    is_loop: bool,
    calls_handlers: bool,
    flushes: bool,
    sends_rest: bool,
    makes_room: bool,
    shares_writes: Option<Sharers>,
    in_stubs: bool,
    makes_call: bool,
}

impl Stacks {
    pub(super) fn configure(&mut self, options: &code::Options) {
        self.options = options.clone();
    }

    /// Notes a stack; one that is known already has its number.
    pub(super) fn take(&mut self, pid: u32, words: impl Iterator<Item = u64> + Clone, cut: bool) -> StackId {
        let mut hasher = FxHasher::default();
        hasher.write_u32(pid);
        words.clone().for_each(|word| hasher.write_u64(word));
        let hash = hasher.finish();
        let same = |stack: &Stack| {
            (stack.pid, stack.cut) == (pid, cut)
                && stack.text.is_none()
                && words.clone().eq(stack.frames.iter().copied())
        };
        self.known(hash, same).unwrap_or_else(|| {
            let frames = words.collect();
            self.keep(hash, Stack { pid, frames, cut, text: None })
        })
    }

    /// The number of the same stack with a text in it.
    pub(super) fn with_text(&mut self, id: StackId, text: &TextInfo) -> StackId {
        let Some(stack) = self.get(id) else { return 0 };
        let (pid, frames, cut) = (stack.pid, stack.frames.clone(), stack.cut);
        let mut hasher = FxHasher::default();
        hasher.write_u32(id);
        hasher.write(text.text.as_bytes());
        let hash = hasher.finish();
        let same = |stack: &Stack| {
            stack.pid == pid && stack.text.as_deref() == Some(text) && Arc::ptr_eq(&stack.frames, &frames)
        };
        if let Some(id) = self.known(hash, same) {
            return id;
        }
        self.keep(hash, Stack { pid, frames, cut, text: Some(Arc::new(text.clone())) })
    }

    fn known(&self, hash: u64, same: impl FnOnce(&Stack) -> bool) -> Option<StackId> {
        let id = *self.by_hash.get(&hash)?;
        self.get(id).is_some_and(same).then_some(id)
    }

    fn keep(&mut self, hash: u64, stack: Stack) -> StackId {
        let size = stack.frames.len() * 8 + stack.text.as_ref().map_or(0, |text| text.text.len());
        if self.kept.len() >= STACKS_MAX || self.bytes + size > STACK_BYTES_MAX {
            self.before += self.kept.len() as StackId;
            self.forgotten += self.kept.len() as u64;
            self.bytes = 0;
            self.kept.clear();
            self.by_hash.clear();
        }
        self.bytes += size;
        self.kept.push(stack);
        let id = self.before + self.kept.len() as StackId;
        self.by_hash.insert(hash, id);
        id
    }

    /// How many stacks and code objects there are.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.kept.len(), self.codes.len())
    }

    /// Notes a code object.
    pub(super) fn code(&mut self, pid: u32, info: &CodeInfo) {
        let key = (pid, info.address);
        if let Some(before) = self.codes.remove(&key) {
            self.code_bytes -= before.info.lines.len();
        }
        if self.codes.len() >= CODES_MAX || self.code_bytes + info.lines.len() > CODE_BYTES_MAX {
            self.unread += 1;
            return;
        }
        self.code_bytes += info.lines.len();
        let code = Code {
            own: self.options.is_own(info),
            is_loop: info.is_loop(),
            calls_handlers: info.calls_handlers(),
            flushes: info.flushes(),
            sends_rest: info.sends_rest(),
            makes_room: info.makes_room(),
            shares_writes: info.shares_writes(),
            in_stubs: info.is_in_stubs(),
            makes_call: info.makes_call(),
            ends: info.ends_stack(),
            info: info.clone(),
        };
        self.has_flushers |= code.flushes;
        self.has_sharers |= code.shares_writes.is_some();
        self.has_stubs |= code.in_stubs;
        self.codes.insert(key, code);
    }

    /// Whether what is sent there was left by others: by a callback of the loop, in a copy of the context of who has asked for it
    /// first.
    pub(super) fn flushes(&self, id: StackId) -> bool {
        self.has_flushers && self.innermost(id, |code| code.flushes).is_some()
    }

    /// Whether a loop itself sends there what a socket did not take before: asyncio's in a function for that, uvloop's in none.
    pub(super) fn is_sent_by_loop(&self, id: StackId) -> bool {
        let innermost = self.get(id).and_then(|stack| self.code_at(stack.pid, *stack.frames.first()?));
        innermost.is_some_and(|code| code.sends_rest || code.is_loop)
    }

    /// Whether who is woken there waits for room in a queue.
    pub(super) fn makes_room(&self, id: StackId) -> bool {
        self.innermost(id, |code| code.makes_room).is_some()
    }

    /// Whether what is sent there has gathered on a connection, by whomever; if so, who share it.
    pub(super) fn shares_writes(&self, id: StackId) -> Option<Sharers> {
        self.has_sharers.then(|| self.innermost(id, |code| code.shares_writes.is_some()))??.shares_writes
    }

    /// Whether what is sent there is a call through `grpc.aio`.
    pub(super) fn is_in_stubs(&self, id: StackId) -> bool {
        self.has_stubs && self.innermost(id, |code| code.in_stubs).is_some()
    }

    /// Whether the task of such a call is made there.
    pub(super) fn makes_call(&self, id: StackId) -> bool {
        self.has_stubs && self.innermost(id, |code| code.in_stubs).is_some_and(|code| code.makes_call)
    }

    /// The innermost such code.
    fn innermost(&self, id: StackId, is_it: impl Fn(&Code) -> bool) -> Option<&Code> {
        let stack = self.get(id)?;
        stack.frames.iter().filter_map(|frame| self.code_at(stack.pid, *frame)).find(|code| is_it(code))
    }

    /// A process has a new program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.retain(|of| of != pid);
    }

    pub(super) fn retain(&mut self, is_known: impl Fn(u32) -> bool) {
        self.codes.retain(|(pid, _), _| is_known(*pid));
        self.code_bytes = self.codes.values().map(|code| code.info.lines.len()).sum();
    }

    /// What is known of a frame's code object. One that could not be read may be anybody's.
    fn code_at(&self, pid: u32, frame: u64) -> Option<&Code> {
        self.codes.get(&(pid, code_of(frame))).filter(|code| !code.info.name.is_empty())
    }

    /// The text that a driver was called with there.
    pub(super) fn text(&self, id: StackId) -> Option<&Arc<TextInfo>> {
        self.get(id)?.text.as_ref()
    }

    fn get(&self, id: StackId) -> Option<&Stack> {
        self.kept.get(id.checked_sub(self.before)?.checked_sub(1)? as usize)
    }

    /// The code objects of a stack, up to the loop that has called it all; `None` where one of them is not known.
    fn codes(&self, stack: &Stack) -> Option<Vec<(&Code, u16)>> {
        let mut found = Vec::with_capacity(stack.frames.len());
        for frame in stack.frames.iter() {
            let code = self.code_at(stack.pid, *frame)?;
            if code.is_loop {
                break;
            }
            found.push((code, (*frame >> 48) as u16));
        }
        Some(found)
    }

    /// Where the application makes a call: its innermost frame.
    pub(super) fn site(&self, id: StackId) -> Site {
        let Some(stack) = self.get(id) else { return Site::Unknown };
        for frame in stack.frames.iter() {
            let Some(code) = self.code_at(stack.pid, *frame) else { return Site::Unknown };
            if code.is_loop {
                return Site::Nowhere;
            }
            if code.own {
                let line = code.info.line((*frame >> 48) as u16);
                return line.map_or(Site::Unknown, |line| {
                    Site::Here(attributes(&code.info.name, &code.info.file, line))
                });
            }
        }
        if stack.cut { Site::Unknown } else { Site::Nowhere }
    }

    /// The function that handles what came at `base`, given where something was done for it.
    fn handler(&self, base: StackId, id: StackId) -> Option<Handler> {
        let stack = self.get(id)?;
        let codes = self.codes(stack)?;
        let handler = |(code, _): &(&Code, u16), rank| Handler {
            rank,
            is_open: codes.len() == stack.frames.len() && codes.last().is_some_and(|(last, _)| !last.ends),
            name: code.info.name.clone(),
            file: code.info.file.clone(),
            line: code.info.first_line,
        };
        let callers = codes.iter().skip(1);
        let called = codes.iter().zip(callers).find(|(code, caller)| code.0.own && caller.0.calls_handlers);
        if let Some((code, _)) = called {
            return Some(handler(code, Rank::Called));
        }
        let to_loop = codes.len() < stack.frames.len();
        if stack.cut && !to_loop {
            return None;
        }
        if base != 0 && !to_loop && self.get(base).is_none_or(|base| base.cut) {
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
    /// Where a thread makes its next fact. It is no sign of life by itself: that fact follows.
    pub(super) fn is_at(&mut self, header: &Header, frames: impl Iterator<Item = u64> + Clone, cut: bool) {
        let stack = self.stacks.take(header.pid, frames, cut);
        let thread = self.threads.entry((header.pid, header.tid)).or_default();
        (thread.stack, thread.stack_at, thread.stream) = (stack, header.time, None);
        thread.stacks.0 += 1;
        if let Some(process) = self.processes.get_mut(&header.pid) {
            process.has_stacks = true;
        }
    }

    /// What a database driver was called with there.
    pub(super) fn has_text(&mut self, header: &Header, text: &TextInfo) {
        if let Some(thread) = self.threads.get_mut(&(header.pid, header.tid)) {
            thread.stack = self.stacks.with_text(thread.stack, text);
        }
    }

    /// For which stream of HTTP/2 it is there.
    pub(super) fn has_stream(&mut self, stream: &Stream) {
        if let Some(thread) = self.threads.get_mut(&(stream.header.pid, stream.header.tid)) {
            thread.stream = Some((stream.object, stream.number));
        }
    }

    /// Whether a thread is none of Python's: it runs no code there, and has no context.
    pub(super) fn is_foreign(&self, thread: (u32, u32), context: ContextId) -> bool {
        context == 0
            && self.threads.get(&thread).is_none_or(|thread| thread.stacks.0 == 0)
            && self.processes.get(&thread.0).is_some_and(|process| process.has_stacks)
    }

    /// Where something was done; 0 where the thread that has sent it was not the one that did it.
    pub(super) fn stack_of(&self, act: &Act) -> StackId {
        let writer = || self.contexts.find(act.context).is_some_and(|context| context.writer.is_some());
        let is_anothers = match act.shared {
            Shared::No | Shared::Own => act.late || act.woken != 0 || writer(),
            Shared::Open | Shared::Closed => act.woken == 0,
        };
        if is_anothers { 0 } else { act.stack }
    }

    /// Where the application has made a call that was begun for `owner`: its innermost frame, or that of whoever has made the
    /// task in which a library has done it. What a task does that is older than the work was not called in it.
    pub(super) fn site_of(&mut self, act: &Act, owner: Option<UnitId>) -> Option<[Attribute; 3]> {
        match self.stacks.site(self.stack_of(act)) {
            Site::Here(place) => return Some(place),
            Site::Unknown => return None,
            Site::Nowhere => {}
        }
        let begun = self.units.get(&owner?)?.start;
        let (mut site, mut unknown) = (None, false);
        for (_, context, _) in self.contexts.line(act.context, act.start) {
            if !context.announced || context.created < begun || site.is_some() {
                break;
            }
            unknown |= context.made_at == 0;
            site = self.stacks.site(context.made_at).here();
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

    pub(super) fn want_stacks(&mut self, pid: u32, bit: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.stacks_wanted |= bit;
        }
    }

    /// Something was done for a unit: who handles it? With `certain_only` only what a framework has called counts.
    pub(super) fn note_handler(&mut self, unit: UnitId, act: &Act, certain_only: bool) {
        let stack = self.stack_of(act);
        let Some(unit) = self.units.get_mut(&unit) else { return };
        if stack == 0 || unit.handler.as_ref().is_some_and(|known| known.rank == Rank::Called) {
            return;
        }
        let Some(handler) = self.stacks.handler(unit.stack, stack) else { return };
        let is_called = handler.rank == Rank::Called;
        if !is_called && (certain_only || is_of_another_task(unit, act)) {
            return;
        }
        let (tid, _) = unit.received_by;
        if handler.is_open && unit.stack == 0 && unit.job.is_none() && tid == act.tid {
            // What has called what has received it is on the stack, too.
            return self.want_stacks(act.pid, stacks::RECEIVED);
        }
        match &mut unit.handler {
            Some(known) if known.rank < handler.rank => **known = handler,
            // A dependency and an endpoint, each in a thread of its own: which is the handler does not show.
            Some(known) if known.rank == handler.rank && !known.is_same(&handler) => known.name.clear(),
            Some(_) => {}
            None => unit.handler = Some(Box::new(handler)),
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
        stacks.take(PID, frames.iter().copied(), false)
    }

    fn handler(stacks: &Stacks, base: StackId, id: StackId) -> Option<(String, Rank)> {
        stacks.handler(base, id).map(|handler| (handler.name, handler.rank))
    }

    #[test]
    fn a_call_is_made_by_the_innermost_frame_of_the_application() {
        let mut stacks = stacks();
        let id = take(&mut stacks, &[80, 64 | 3 << 48, 48, 112, 96, 16]);
        let expected = attributes("query", "/srv/db.py", 65);
        assert_eq!(stacks.site(id), Site::Here(expected));
        let by_loop = take(&mut stacks, &[80, 96, 16]);
        assert_eq!(stacks.site(by_loop), Site::Nowhere, "what has started the loop calls nothing");
        let unknown = take(&mut stacks, &[80, 1024, 48]);
        assert_eq!(stacks.site(unknown), Site::Unknown, "it may be the application's");
        assert_eq!(stacks.site(0), Site::Unknown);
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
    fn a_stack_with_another_text_has_another_number() {
        let mut stacks = stacks();
        let id = take(&mut stacks, &[80, 64]);
        let text = |text: &str| TextInfo { text: text.into(), truncated: false };
        let (one, two) = (stacks.with_text(id, &text("SELECT 1")), stacks.with_text(id, &text("SELECT 2")));
        assert_eq!(stacks.with_text(id, &text("SELECT 1")), one);
        assert!(one != two && one != id && two != id);
        assert_eq!(stacks.site(one), stacks.site(id));
    }

    #[test]
    fn what_a_framework_calls_is_the_handler_under_the_applications_middleware() {
        let mut stacks = stacks();
        let id = take(&mut stacks, &[80, 64, 48, 112, 128, 96, 16]);
        assert_eq!(handler(&stacks, 0, id), Some(("list_games".into(), Rank::Called)));
    }
}
