//! Texts of statements that were prepared before the agent came: what the driver was called with when it executed them.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Engine, OperationId, unit::Act};
use crate::{
    conn::ConnectionId,
    fact::TextInfo,
    protocol::{
        Detail,
        postgres::{Kind, Statement},
    },
};

/// Statements kept at most whose text was found in a frame; then all are looked for again.
const PREPARED_MAX: usize = 65_536;
const PREPARED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Statements that the server's tag names by the first word of their text (*Message Formats*, `CommandComplete`).
const VERBS: [&str; 6] = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY"];
/// How long texts are wanted after one was missed, nanoseconds.
const TEXTS_WANTED: u64 = 60_000_000_000;

/// A statement, by its connection and its name there.
type Key = (ConnectionId, Arc<str>);

/// The texts that were found.
#[derive(Default)]
pub(super) struct Prepared {
    /// `None` where it is not clear which it is.
    texts: FxHashMap<Key, Option<Arc<TextInfo>>>,
    bytes: usize,
}

impl Prepared {
    /// Notes a text. Two for one name, or one that cannot be it: then it is none of them.
    fn insert(&mut self, key: Key, text: Arc<TextInfo>, fits: bool) {
        if let Some(before) = self.texts.get_mut(&key) {
            if before.as_ref().is_some_and(|before| *before != text || !fits) {
                self.bytes -= before.take().map_or(0, |before| before.text.len());
            }
            return;
        }
        if self.texts.len() >= PREPARED_MAX || self.bytes + text.text.len() > PREPARED_BYTES_MAX {
            self.texts.clear();
            self.bytes = 0;
        }
        self.bytes += if fits { text.text.len() } else { 0 };
        self.texts.insert(key, fits.then_some(text));
    }

    fn forget(&mut self, key: &Key) {
        if let Some(Some(before)) = self.texts.remove(key) {
            self.bytes -= before.text.len();
        }
    }
}

/// The name of a statement that was prepared before.
fn prepared_name(statement: &Statement) -> Option<&Arc<str>> {
    statement.name.as_ref().filter(|_| matches!(statement.kind, Kind::Extended))
}

impl Engine {
    /// Whether the texts are wanted that database drivers of a process were called with: it executes statements that were
    /// prepared before the agent came.
    pub fn wants_texts(&self, pid: u32) -> bool {
        let untold = self.processes.get(&pid).map_or(0, |process| process.untold);
        untold != 0 && untold + TEXTS_WANTED > self.now
    }

    /// A statement is answered. Where nothing says its text, the next ones are to be read where they are executed: that is
    /// said now, as the span may wait for its owner.
    pub(super) fn misses_text(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get(&id) else { return };
        let Some(Detail::Postgres(statement)) = &operation.detail else { return };
        let Some(name) = prepared_name(statement).filter(|_| statement.text.is_none()) else { return };
        if self.text_where_executed(&operation.act).is_none()
            && !self.prepared.texts.contains_key(&(operation.connection, name.clone()))
            && let Some(process) = self.processes.get_mut(&operation.act.pid)
        {
            process.untold = self.now;
        }
    }

    /// The text that a driver was called with.
    fn text_where_executed(&self, act: &Act) -> Option<Arc<TextInfo>> {
        self.stacks.text(self.stack_of(act)).cloned()
    }

    /// Finds the text of a statement that was prepared unseen: where it was executed, or where it was before. True if it
    /// was found.
    pub(super) fn recall_text(&mut self, act: &Act, connection: ConnectionId, detail: &mut Detail) -> bool {
        let Detail::Postgres(statement) = detail else { return false };
        let Some(name) = prepared_name(statement) else { return false };
        let key = (connection, name.clone());
        if statement.text.is_some() {
            // The name stands for something else now.
            self.prepared.forget(&key);
            return false;
        }
        if let Some(here) = self.text_where_executed(act) {
            // A driver that sends several at a time may send one where it was given another.
            let verb = here.text.split_whitespace().next().unwrap_or_default();
            let tag = statement.tag.as_deref().and_then(|tag| tag.split(' ').next());
            let fits = tag.is_none_or(|tag| tag.eq_ignore_ascii_case(verb) || !VERBS.contains(&tag));
            self.prepared.insert(key.clone(), here, fits);
        }
        let Some(Some(found)) = self.prepared.texts.get(&key) else { return false };
        statement.text = Some(found.text.as_str().into());
        statement.truncated = found.truncated;
        true
    }
}

#[cfg(test)]
mod tests {
    use adder_ebpf::{Item, Lineage, Stack, flag, kind};

    use super::*;
    use crate::{
        fact::{Clock, Fact},
        signal::Kind as SpanKind,
        stitch::late::tests::{LOOP, PID, Rig, TASKS},
    };

    /// A connection that was there before.
    const SESSION: u64 = 22;
    const EXECUTES: &[u8] = b"B\0\0\0\x0e\0s1\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
    const NOTHING: &[u8] = b"2\0\0\0\x04C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I";
    const ANSWER: &[u8] = b"2\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";

    /// A task executes a statement; where it is told, its text is in a frame.
    fn executes(rig: &mut Rig, task: u64, told: bool, answer: &[u8]) {
        let mut flags = 0;
        if told {
            let stack = Stack { header: rig.header(kind::STACK, task, 0), count: 1, cut: 0 };
            rig.engine.fact(&Fact::Stack { stack, frames: &[0; 8] });
            let text = TextInfo { text: "SELECT 1".into(), truncated: false };
            let header = rig.header(kind::TEXT, task, 0);
            rig.engine.fact(&Fact::Text(header, text));
            flags = flag::STACKED;
        }
        rig.data(SESSION, flags, task, EXECUTES);
        rig.data(SESSION, flag::RECEIVED, task, answer);
    }

    fn passes(rig: &mut Rig, time: u64) {
        let mut header = rig.header(0, 0, 0);
        header.time += time;
        rig.engine.fact(&Fact::Clock(header, Clock { offset: 0 }));
    }

    #[test]
    fn texts_are_wanted_as_soon_as_one_is_missed() {
        let mut rig = Rig::of_newest();
        rig.socket(SESSION, 0);
        rig.data(SESSION, 0, TASKS[0], EXECUTES);
        assert!(!rig.engine.wants_texts(PID));
        rig.data(SESSION, flag::RECEIVED, TASKS[0], ANSWER);
        passes(&mut rig, 0);
        assert!(rig.engine.spans().is_empty(), "its owner is not known yet");
        assert!(rig.engine.wants_texts(PID));
        assert_eq!(rig.places(SpanKind::Client, 1), [Some(0)]);
    }

    #[test]
    fn texts_are_wanted_no_more_where_they_are_known() {
        let mut rig = Rig::of_newest();
        rig.socket(SESSION, 0);
        executes(&mut rig, TASKS[0], true, ANSWER);
        assert!(!rig.engine.wants_texts(PID), "it was read");
        passes(&mut rig, TEXTS_WANTED);
        executes(&mut rig, TASKS[0], false, ANSWER);
        assert!(!rig.engine.wants_texts(PID), "it was read before");
        assert_eq!(rig.engine.prepared.texts.len(), 1);
    }

    #[test]
    fn the_text_of_what_finds_nothing_is_known_the_next_time() {
        const TASK: u64 = 0x400;
        const HANDLE: u64 = 0x500;
        let mut rig = Rig::of_newest();
        let header = rig.header(kind::TASK, LOOP, 0);
        rig.engine.fact(&Fact::Task(Lineage { header, child: TASK }));
        rig.socket(SESSION, 0);
        // A job is over when the next one begins.
        for told in [true, true, false] {
            rig.rests(TEXTS_WANTED);
            let header = rig.header(kind::TIMER, LOOP, 0);
            rig.engine.fact(&Fact::Timer(Item { header, item: 0 }));
            let header = rig.header(kind::WAKE, HANDLE, 0);
            rig.engine.fact(&Fact::Wake(Lineage { header, child: TASK }));
            executes(&mut rig, TASK, told, NOTHING);
            assert!(!rig.engine.wants_texts(PID));
            passes(&mut rig, TEXTS_WANTED / 2);
        }
        assert_eq!(rig.engine.counters().idle_jobs, 2);
    }

    #[test]
    fn a_statement_with_two_texts_has_none() {
        let mut prepared = Prepared::default();
        let key = (ConnectionId::default(), Arc::from("s1"));
        let text = |text: &str| Arc::new(TextInfo { text: text.into(), truncated: false });
        prepared.insert(key.clone(), text("SELECT 1"), true);
        prepared.insert(key.clone(), text("SELECT 1"), true);
        assert_eq!(prepared.texts[&key], Some(text("SELECT 1")));
        prepared.insert(key.clone(), text("SELECT 2"), true);
        assert_eq!((&prepared.texts[&key], prepared.bytes), (&None, 0));
        prepared.insert(key.clone(), text("SELECT 1"), true);
        assert_eq!(prepared.texts[&key], None, "it stays unclear");
        prepared.forget(&key);
        prepared.insert(key.clone(), text("DELETE"), false);
        assert_eq!(prepared.texts[&key], None);
    }
}
