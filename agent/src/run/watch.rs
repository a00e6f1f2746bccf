//! The watched processes: who joins, what is proven of each, which probes it gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use adder_ebpf::{Child, Header, Process, kind, stacks};

use super::{
    Facts,
    attaching::Attaching,
    clock,
    codes::{CodeReader, Wanted},
    loops::{LOOK, LoopWatch, tell_lags},
    monotonic,
    pace::Pace,
    routes::RoutesReader,
};
use crate::{
    config::Config,
    discover,
    fact::{self, Fact, TextInfo},
    probe::Bpf,
    python::Proof,
    status::AttachReport,
    stitch::Engine,
};

/// Pauses before the next look at a process whose interpreter is not proven yet.
pub(super) const RETRIES: [u64; 10] = [30, 60, 120, 250, 500, 1000, 2000, 5000, 10_000, 30_000];
/// Pause after a new mapping, so that the module behind it is there completely.
const AFTER_MAP: Duration = Duration::from_millis(20);
/// Time between two facts at which the engine is told how late it is by then, nanoseconds.
const TICK: u64 = 25_000_000;

/// How long what compressed streams refer back to is recorded: longer than the gateway's heartbeats are apart.
const WINDOWS_RECORDED: Duration = Duration::from_mins(2);

/// One process.
pub(super) struct Watched {
    pub(super) report: AttachReport,
    pub(super) proof: Option<Proof>,
    /// Programs that it needs besides, and those of them that were asked for.
    pub(super) needed: BTreeSet<&'static str>,
    pub(super) asked: BTreeSet<&'static str>,
    /// Functions of which the kernel side knows something.
    marks: BTreeSet<u64>,
    /// When to look again, and how often that was done.
    pub(super) due: Option<Instant>,
    pub(super) tries: usize,
    /// What it has received cannot be read, for these reasons: they are notes in its report, and have been warned of.
    pub(super) unread: Vec<&'static str>,
    /// When it was found.
    since: Instant,
    routes: RoutesReader,
}

impl Watched {
    fn new(report: AttachReport) -> Self {
        Self {
            report,
            proof: None,
            needed: BTreeSet::new(),
            asked: BTreeSet::new(),
            marks: BTreeSet::new(),
            due: None,
            tries: 0,
            unread: Vec::new(),
            since: Instant::now(),
            routes: RoutesReader::default(),
        }
    }
}

/// All of them, and the kernel side.
pub(super) struct Watcher {
    pub(super) bpf: Bpf,
    pub(super) all: bool,
    pub(super) watched: BTreeMap<u32, Watched>,
    /// What is being put on them.
    pub(super) attaching: Vec<Attaching>,
    /// Look for processes by these patterns; none at all for only those that were named, and their children.
    patterns: Option<Vec<String>>,
    extra: Vec<(String, String)>,
    names: BTreeMap<String, String>,
    /// Logs are wanted, but not of these services.
    pub(super) logs: bool,
    pub(super) silent: Vec<String>,
    /// Where in the code things are done is wanted.
    pub(super) code: bool,
    codes: CodeReader,
    loops: LoopWatch,
    pace: Pace,
    /// Up to when the engine was told the time while facts were taken.
    ticked: u64,
    /// Dropped facts of the processes there are.
    dropped: BTreeMap<u32, u64>,
    /// Dropped facts of those that have ended.
    dropped_before: u64,
}

/// What the kernel side has said of processes in one turn.
enum Life {
    Fork(u32, u32),
    Exec(Header),
    Exit(u32),
    Map(u32),
}

impl Watcher {
    /// `all`: attach also what only some processes need, for whoever reads the recording.
    pub(super) fn new(
        bpf: Bpf,
        patterns: Option<Vec<String>>,
        config: &Config,
        logs: bool,
        all: bool,
    ) -> Self {
        Self {
            bpf,
            all,
            watched: BTreeMap::new(),
            attaching: Vec::new(),
            patterns,
            extra: config.resource.clone(),
            names: config.service.names.clone(),
            logs,
            silent: config.logs.exclude.clone(),
            code: config.code.enabled,
            codes: CodeReader::default(),
            loops: LoopWatch::new(config.asyncio),
            pace: Pace::new(Instant::now()),
            ticked: 0,
            dropped: BTreeMap::new(),
            dropped_before: 0,
        }
    }

    pub(super) fn bpf(&self) -> &Bpf {
        &self.bpf
    }

    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    /// Attach reports of all processes.
    pub(super) fn reports(&self) -> Vec<AttachReport> {
        self.watched.values().map(|watched| watched.report.clone()).collect()
    }

    /// Facts that found no room, of all processes there ever were.
    pub(super) fn dropped_total(&self) -> u64 {
        self.dropped_before + self.dropped.values().sum::<u64>()
    }

    /// Watches a process and what it has started.
    pub(super) fn adopt_family(&mut self, pid: u32, facts: &mut Facts<'_>) {
        self.adopt(pid, facts);
        for child in discover::descendants(pid) {
            self.adopt(child, facts);
        }
    }

    /// Watches the processes there are that fit the patterns.
    pub(super) fn look_around(&mut self, facts: &mut Facts<'_>) {
        let Some(patterns) = self.patterns.clone() else { return };
        for pid in discover::processes() {
            if !self.watched.contains_key(&pid) && discover::wanted(pid, &patterns) {
                self.adopt(pid, facts);
            }
        }
    }

    /// Waits until the next turn.
    pub(super) fn wait(&mut self) {
        let dues = self.watched.values().filter_map(|watched| watched.due);
        let mut until = dues.fold(self.pace.next(self.is_reading()), Instant::min);
        let has_steps =
            |watched: &Watched| watched.proof.as_ref().is_some_and(|proof| proof.process.steps != 0);
        let looks = self.code && self.bpf.sees_steps() && self.watched.values().any(has_steps);
        loop {
            let now = Instant::now();
            if now >= until {
                return;
            }
            let left = until - now;
            if self.bpf.wait(if looks { left.min(LOOK) } else { left }) {
                until = until.min(self.pace.announced(Instant::now()));
                thread::sleep(until.saturating_duration_since(Instant::now()));
                return;
            }
            // What is to be looked at is told of by what has come before.
            if looks && self.loops.is_late(&self.bpf) {
                return;
            }
        }
    }

    /// One turn: takes facts, and does what they ask for.
    pub(super) fn turn(&mut self, limit: usize, facts: &mut Facts<'_>) {
        let mut lives = Vec::new();
        let mut is_reading = self.is_reading();
        let patterns = self.patterns.is_some();
        let watched = &self.watched;
        let (codes, ticked) = (&mut self.codes, &mut self.ticked);
        let taken = self.bpf.drain(limit, |bytes| {
            match kind_of(bytes) {
                Some(kind::STACK) => codes.note(bytes),
                Some(kind::TEXT) => return text(bytes, watched, facts),
                _ => {}
            }
            match life(bytes) {
                Some(life @ Life::Exec(Header { pid, .. })) => {
                    lives.push(life);
                    // With patterns the kernel reports everybody's, which is nobody's business in a recording.
                    if !patterns || watched.contains_key(&pid) {
                        facts.raw(bytes);
                    }
                    return;
                }
                Some(life) => lives.push(life),
                None => {}
            }
            facts.raw(bytes);
            // What has piled up is told in its time, as far as nothing has to be read first.
            let is_known = lives.is_empty() && !codes.wants() && !is_reading;
            if is_known && let Some(time) = time_of(bytes).filter(|time| *time >= *ticked + TICK) {
                *ticked = time;
                facts.own(&clock(Header { kind: kind::EXIT, time, ..Header::default() }));
            }
        });
        let mut is_new = !self.attaching.is_empty();
        for life in lives {
            let of = match life {
                Life::Fork(parent, child) => {
                    self.forked(parent, child, facts);
                    child
                }
                Life::Exec(begun) => {
                    self.executed(begun, facts);
                    begun.pid
                }
                Life::Exit(pid) => {
                    self.exited(pid, facts);
                    pid
                }
                Life::Map(pid) => {
                    if let Some(watched) = self.watched.get_mut(&pid) {
                        let due = Instant::now() + AFTER_MAP;
                        watched.due = Some(watched.due.map_or(due, |before| before.min(due)));
                        watched.tries = 0;
                    }
                    pid
                }
            };
            is_new |= self.watched.contains_key(&of);
        }
        self.take_attached(facts);
        if self.code {
            self.loops.look(&self.bpf, &self.watched, &mut self.codes, facts);
        }
        let read = self.codes.count();
        let marks = self.codes.read(
            |pid| match self.watched.get(&pid) {
                Some(Watched { proof: Some(proof), .. }) => proof.codes.map_or(Wanted::No, Wanted::Now),
                Some(_) => Wanted::Later,
                None => Wanted::No,
            },
            facts,
        );
        for (pid, code, mark) in marks {
            self.add_mark(pid, code, mark);
        }
        let now = Instant::now();
        for (pid, watched) in &mut self.watched {
            watched.routes.take(*pid, facts);
            if let Some(proof) = &watched.proof
                && let Some(codes) = &proof.codes
            {
                // One after the other: services run first.
                is_reading = is_reading || watched.routes.look(now, codes, &proof.states);
            }
        }
        let due: Vec<u32> = self
            .watched
            .iter()
            .filter(|(_, w)| w.due.is_some_and(|due| due <= now))
            .map(|(pid, _)| *pid)
            .collect();
        is_new |= !due.is_empty() || self.codes.count() != read;
        for pid in due {
            self.look(pid);
        }
        self.pace.turned(Instant::now(), taken, is_new);
    }

    /// Whether routes are being read.
    pub(super) fn is_reading(&self) -> bool {
        self.watched.values().any(|watched| watched.routes.is_reading())
    }

    /// Waits for them.
    pub(super) fn end_reading(&mut self, facts: &mut Facts<'_>) {
        for (pid, watched) in &mut self.watched {
            watched.routes.end(*pid, facts);
        }
    }

    /// Tells the engine how long the steps of event loops have lasted.
    pub(super) fn tell_lags(&self, facts: &mut Facts<'_>) {
        for pid in self.watched.keys() {
            tell_lags(&self.bpf, *pid, facts);
        }
    }

    /// Tells the engine what found no room, and makes up for what of it was about the life of processes.
    pub(super) fn count_drops(&mut self, facts: &mut Facts<'_>) {
        let mut any = false;
        for (pid, count) in self.bpf.dropped() {
            let before = self.dropped.insert(pid, count).unwrap_or(0);
            if count > before {
                any = true;
                let more = count - before;
                tracing::warn!(
                    pid,
                    "the ring buffer was full: {more} facts of this process are lost ({count} in all)"
                );
                facts.own(&Fact::Dropped(head(pid), count));
            }
        }
        if any {
            self.reconcile(facts);
        }
        let ended: Vec<u32> = self.dropped.keys().copied().filter(|pid| !exists(*pid)).collect();
        for pid in ended {
            self.bpf.clear_dropped(pid);
            self.dropped_before += self.dropped.remove(&pid).unwrap_or(0);
        }
    }

    /// Compares the processes known here with those there are.
    fn reconcile(&mut self, facts: &mut Facts<'_>) {
        for pid in self.bpf.watched() {
            if !self.watched.contains_key(&pid) {
                self.adopt(pid, facts);
            }
        }
        let ended: Vec<u32> = self.watched.keys().copied().filter(|pid| !exists(*pid)).collect();
        for pid in ended {
            facts.own(&Fact::Exit(Header { kind: kind::EXIT, ..head(pid) }));
            self.exited(pid, facts);
        }
    }

    /// Begins to watch a process.
    fn adopt(&mut self, pid: u32, facts: &mut Facts<'_>) {
        if self.watched.contains_key(&pid) || !exists(pid) {
            return;
        }
        let service = self.introduce(pid, facts);
        let report = AttachReport {
            pid,
            service,
            python: String::new(),
            interpreter: String::new(),
            r#loop: "",
            attribution: None,
            probes: Vec::new(),
            notes: Vec::new(),
        };
        self.watched.insert(pid, Watched::new(report));
        self.look(pid);
        let proven = self.watched.get(&pid).is_some_and(|watched| watched.proof.is_some());
        if !proven
            && !self.is_attaching(pid)
            && let Err(error) = self.bpf.watch(pid, Process::default())
        {
            tracing::warn!(pid, "cannot watch this process: {error:#}");
            self.watched.remove(&pid);
        }
    }

    /// Tells the engine who a process is; returns its service name.
    fn introduce(&self, pid: u32, facts: &mut Facts<'_>) -> String {
        let mut info = discover::info(pid, &self.extra);
        let mut service = String::new();
        for (key, value) in &mut info.attributes {
            if key == "service.name" {
                if let Some(name) = self.names.get(value) {
                    value.clone_from(name);
                }
                service.clone_from(value);
            }
        }
        facts.own(&Fact::Process(head(pid), info));
        service
    }

    /// Tells the kernel side what is known of a function.
    fn add_mark(&mut self, pid: u32, code: u64, mark: u32) {
        let Some(watched) = self.watched.get_mut(&pid) else { return };
        if mark == 0 {
            if watched.marks.remove(&code) {
                self.bpf.forget_mark(pid, code);
            }
            return;
        }
        match self.bpf.mark(pid, code, mark) {
            Ok(()) => {
                watched.marks.insert(code);
            }
            Err(error) => tracing::debug!(pid, "what is known of its functions is not used: {error:#}"),
        }
    }

    /// Has the kernel side report what costs something of those processes alone of which it is wanted: stacks in more places,
    /// the texts of statements, and where frames begin.
    pub(super) fn want(&mut self, engine: &Engine) {
        for (pid, watched) in &mut self.watched {
            let Some(proof) = &mut watched.proof else { continue };
            let (texts, stacks, amqp, windows) = if self.all {
                let is_new = watched.since.elapsed() < WINDOWS_RECORDED;
                (true, stacks::RECEIVED | stacks::TASKS | stacks::WAKES, true, is_new)
            } else {
                let wants = (engine.wants_texts(*pid), engine.wants_stacks(*pid));
                (wants.0, wants.1, engine.has_amqp(*pid), engine.wants_windows(*pid))
            };
            let marks = watched.marks.iter().fold(0, |marks, code| marks | 1 << adder_ebpf::mark_bit(*code));
            let (texts, amqp, windows) = (u32::from(texts), u32::from(amqp), u32::from(windows));
            let process = Process { texts, amqp, windows, stacks, marks, ..proof.process };
            if process == proof.process {
                continue;
            }
            match self.bpf.watch(*pid, process) {
                Ok(()) => proof.process = process,
                Err(error) => tracing::debug!(pid, "cannot configure this process: {error:#}"),
            }
        }
    }

    fn forget_marks(&mut self, pid: u32) {
        let Some(watched) = self.watched.get_mut(&pid) else { return };
        for code in std::mem::take(&mut watched.marks) {
            self.bpf.forget_mark(pid, code);
        }
    }

    /// A child of a watched process: the kernel side watches it already, with the parent's configuration.
    fn forked(&mut self, parent: u32, child: u32, facts: &mut Facts<'_>) {
        let Some(parent) = self.watched.get(&parent) else { return };
        if self.watched.contains_key(&child) {
            return;
        }
        // Uprobes are this process's own: the child needs new ones.
        let report = AttachReport { pid: child, probes: Vec::new(), ..parent.report.clone() };
        self.watched.insert(child, Watched::new(report));
        self.introduce(child, facts);
        self.look(child);
    }

    fn executed(&mut self, begun: Header, facts: &mut Facts<'_>) {
        let pid = begun.pid;
        if self.watched.contains_key(&pid) {
            self.codes.forget(pid);
            self.forget_marks(pid);
            self.forget_attaching(pid);
            self.bpf.detach(pid);
            self.bpf.forget_steps(pid);
            let service = self.introduce(pid, facts);
            if let Some(watched) = self.watched.get_mut(&pid) {
                watched.proof = None;
                watched.report.probes.clear();
                watched.asked.clear();
                watched.report.service = service;
                watched.routes = RoutesReader::default();
                watched.tries = 0;
                watched.due = Some(Instant::now() + Duration::from_millis(RETRIES[0]));
            }
        } else if let Some(patterns) = &self.patterns
            && discover::wanted(pid, patterns)
        {
            facts.own(&Fact::Exec(begun));
            self.adopt(pid, facts);
        }
    }

    fn exited(&mut self, pid: u32, facts: &mut Facts<'_>) {
        tell_lags(&self.bpf, pid, facts);
        self.forget_marks(pid);
        if let Some(mut watched) = self.watched.remove(&pid) {
            watched.routes.take(pid, facts);
            self.codes.forget(pid);
            self.forget_attaching(pid);
            self.bpf.forget(pid);
        }
    }
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A text out of a frame, which only its process's version of Python tells how to read.
fn text(bytes: &[u8], watched: &BTreeMap<u32, Watched>, facts: &mut Facts<'_>) {
    let Some((header, copied)) = fact::copied_text(bytes) else { return };
    let proof = watched.get(&header.pid).and_then(|watched| watched.proof.as_ref());
    let text = proof.and_then(|proof| proof.codes?.copied(copied));
    if let Some((text, truncated)) = text {
        facts.own(&Fact::Text(header, TextInfo { text, truncated }));
    }
}

/// What a raw fact says of a process's life.
fn life(bytes: &[u8]) -> Option<Life> {
    // Most facts are bytes of sockets; their kind alone says that they are none of these.
    let kind = kind_of(bytes)?;
    if !matches!(kind, kind::FORK | kind::EXEC | kind::EXIT | kind::MAP) {
        return None;
    }
    match Fact::parse(bytes).ok()? {
        Fact::Fork(Child { header, child, .. }) => Some(Life::Fork(header.pid, child)),
        Fact::Exec(header) => Some(Life::Exec(header)),
        Fact::Exit(header) => Some(Life::Exit(header.pid)),
        Fact::Map(header) => Some(Life::Map(header.pid)),
        _ => None,
    }
}

/// The time of a raw fact.
fn time_of(bytes: &[u8]) -> Option<u64> {
    let at = std::mem::offset_of!(Header, time);
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The kind of a raw fact.
fn kind_of(bytes: &[u8]) -> Option<u16> {
    let at = std::mem::offset_of!(Header, kind);
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The head of one of the agent's own facts on a process.
pub(super) fn head(pid: u32) -> Header {
    Header { time: monotonic(), pid, ..Header::default() }
}
