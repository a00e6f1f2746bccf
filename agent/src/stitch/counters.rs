//! What the engine counts.

use serde::Serialize;

use super::output::LogCounters;

/// Counts of what the engine has seen and could not use.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Facts taken.
    pub facts: u64,
    /// Facts that could not be read.
    pub bad_facts: u64,
    /// Facts that found no room in the ring buffer, as the kernel side counts them.
    pub dropped_facts: u64,
    /// Spans made.
    pub spans: u64,
    /// Client spans without a parent.
    pub roots: u64,
    /// Spans made after waiting in vain for evidence.
    pub unsettled: u64,
    /// Claims that a response has refuted.
    pub refuted: u64,
    /// Requests joined with the operation of another watched process.
    pub joined: u64,
    /// Joins taken back because the two sides differ.
    pub unjoined: u64,
    /// Operations forgotten before they ended, because their connection was lost.
    pub abandoned: u64,
    /// What a server sent unasked and was no message.
    pub pushed: u64,
    /// Messages of channels, lists and notifications for which nothing was done.
    pub idle: u64,
    /// Jobs that asked whether there is something to do, and found nothing.
    pub idle_jobs: u64,
    /// Commands that waited for an element of a list, outside any unit of work.
    pub waits: u64,
    /// Work items whose origin was not kept because too many lay in queues, or tasks in pools; likewise of what was given to a
    /// connection or put on its streams.
    pub unqueued: u64,
    /// Steps of event loops that have lasted long (`asyncio.blocked_after`).
    pub blocked_loops: u64,
    /// Of these, those of which it is not known where the thread was; and what was too much to be told of.
    pub unseen_steps: u64,
    /// Stacks that were forgotten because there were too many: what was done there has no `code.*`.
    pub forgotten_stacks: u64,
    /// Code objects that were not looked at because there were too many, likewise.
    pub unread_codes: u64,
    /// Contexts forgotten because there were too many.
    pub forgotten_contexts: u64,
    /// Log records.
    pub logs: LogCounters,
}
