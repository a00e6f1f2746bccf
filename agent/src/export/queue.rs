//! The bounded queue between the engine and the collector.
//!
//! [`Queue`] decides and does nothing else: no clock, no lock, no I/O. The worker asks it for the next [`Step`], does
//! it and tells what came of it. One message is under way at a time; what is in it counts against the bounds until
//! their fate is known.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Exported, retry::Backoff, stats::ExportStats};

/// Largest message in bytes, by [`Exported::approximate_size`]. Collectors refuse gRPC messages of more than 4 MiB unless
/// told otherwise; the resources of a batch must fit in the rest.
const BATCH_BYTES: usize = 3 * 1024 * 1024;

/// Bounds of the queue and of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most spans or log records held, those under way included (`OTEL_BSP_MAX_QUEUE_SIZE`,
    /// `OTEL_BLRP_MAX_QUEUE_SIZE`).
    pub max_items: usize,
    /// Most bytes held, by [`Exported::approximate_size`].
    pub max_bytes: usize,
    /// Most in a message; so many are sent at once (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`,
    /// `OTEL_BLRP_MAX_EXPORT_BATCH_SIZE`).
    pub batch_items: usize,
    /// Longest time that one waits for others to fill a message (`OTEL_BSP_SCHEDULE_DELAY`,
    /// `OTEL_BLRP_SCHEDULE_DELAY`).
    pub delay: Duration,
}

impl Default for Limits {
    /// The specification's defaults for batches. The queue is larger than the 2,048 spans of an SDK: it serves all
    /// watched processes of a host.
    fn default() -> Self {
        Self {
            max_items: 16_384,
            max_bytes: 32 * 1024 * 1024,
            batch_items: 512,
            delay: Duration::from_secs(5),
        }
    }
}

/// What the worker has to do next.
#[derive(Debug, PartialEq)]
pub enum Step<T> {
    /// Send these.
    Send(Vec<T>),
    /// Send the last message again.
    Again,
    /// Nothing before this time, if any, unless the queue changes.
    Wait(Option<Instant>),
    /// It is over: each is accounted for.
    Stop,
}

/// What waits, and the state of the message under way.
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    waiting: VecDeque<Waiting<T>>,
    waiting_bytes: usize,
    message: Option<Outstanding>,
    backoff: Backoff,
    /// Once shutting down: when to give up.
    deadline: Option<Instant>,
    stats: Arc<ExportStats>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    size: usize,
    since: Instant,
}

/// A message whose fate is open.
#[derive(Debug)]
struct Outstanding {
    items: usize,
    bytes: usize,
    state: Attempt,
}

#[derive(Clone, Copy, Debug)]
enum Attempt {
    /// The worker is at it.
    UnderWay,
    /// It failed; the next one is due then.
    Due {
        at: Instant,
        /// The collector asked for this wait.
        asked: bool,
    },
}

impl<T: Exported> Queue<T> {
    /// An empty queue.
    pub fn new(limits: Limits, backoff: Backoff, stats: Arc<ExportStats>) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            message: None,
            backoff,
            deadline: None,
            stats,
        }
    }

    /// Takes as many as far as there is room; the others are counted as dropped. True if the worker should look up from
    /// its wait.
    pub fn offer(&mut self, items: Vec<T>, now: Instant) -> bool {
        ExportStats::add(&self.stats.offered, items.len());
        if self.deadline.is_some() {
            ExportStats::add(&self.stats.dropped_shutdown, items.len());
            return false;
        }
        let before = self.waiting.len();
        let mut dropped = 0;
        for item in items {
            let size = item.approximate_size();
            let fits = self.held() < self.limits.max_items && self.bytes() + size <= self.limits.max_bytes;
            if fits {
                self.waiting_bytes += size;
                self.waiting.push_back(Waiting { item, size, since: now });
            } else {
                dropped += 1;
            }
        }
        ExportStats::add(&self.stats.dropped_queue_full, dropped);
        // The first span starts the clock, a full message ends it; what comes between changes nothing.
        self.message.is_none() && ((before == 0 && !self.waiting.is_empty()) || self.is_full())
    }

    /// What to do now.
    pub fn step(&mut self, now: Instant) -> Step<T> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.abandon();
        }
        match self.message.as_mut().map(|message| (message.state, message)) {
            Some((Attempt::UnderWay, _)) => Step::Wait(self.deadline),
            Some((Attempt::Due { at, .. }, _)) if now < at => Step::Wait(Some(at)),
            Some((Attempt::Due { .. }, message)) => {
                message.state = Attempt::UnderWay;
                ExportStats::add(&self.stats.retries, 1);
                Step::Again
            }
            None => self.next_message(now),
        }
    }

    /// The collector has accepted the message of this encoded length, except `rejected` of what is in it.
    pub fn accepted(&mut self, rejected: u64, length: usize) {
        self.backoff.reset();
        if let Some(message) = self.message.take() {
            let rejected = usize::try_from(rejected).unwrap_or(usize::MAX).min(message.items);
            ExportStats::add(&self.stats.rejected, rejected);
            ExportStats::add(&self.stats.sent, message.items - rejected);
            ExportStats::add(&self.stats.bytes, length);
        }
    }

    /// The collector will never take the message.
    pub fn refused(&mut self) {
        self.backoff.reset();
        if let Some(message) = self.message.take() {
            ExportStats::add(&self.stats.dropped_not_retryable, message.items);
        }
    }

    /// The attempt has failed and may be made again, not before the time that the collector asks for.
    pub fn failed(&mut self, asked: Option<Duration>, now: Instant) {
        let at = now + self.backoff.next(asked);
        if let Some(message) = &mut self.message {
            message.state = Attempt::Due { at, asked: asked.is_some() };
        }
        // Nobody should wait for an end that is known.
        if self.deadline.is_some_and(|deadline| at >= deadline) {
            self.abandon();
        }
    }

    /// No more spans are taken; what is here is sent without delay until the deadline, and dropped then.
    pub fn shut_down(&mut self, now: Instant, deadline: Instant) {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        if let Some(message) = &mut self.message
            && let Attempt::Due { at, asked } = message.state
        {
            if !asked {
                message.state = Attempt::Due { at: now, asked };
            } else if at >= deadline {
                self.abandon();
            }
        }
    }

    /// When to give up, once shutting down.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Drops all that is left.
    pub fn abandon(&mut self) {
        ExportStats::add(&self.stats.dropped_shutdown, self.held());
        self.message = None;
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// How many are held: waiting and under way.
    pub fn held(&self) -> usize {
        self.waiting.len() + self.message.as_ref().map_or(0, |message| message.items)
    }

    /// Their bytes, by [`Exported::approximate_size`].
    pub fn bytes(&self) -> usize {
        self.waiting_bytes + self.message.as_ref().map_or(0, |message| message.bytes)
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= self.limits.batch_items || self.waiting_bytes >= BATCH_BYTES
    }

    fn next_message(&mut self, now: Instant) -> Step<T> {
        let Some(oldest) = self.waiting.front() else {
            return if self.deadline.is_some() { Step::Stop } else { Step::Wait(None) };
        };
        let due = oldest.since + self.limits.delay;
        if now < due && !self.is_full() && self.deadline.is_none() {
            return Step::Wait(Some(due));
        }
        let mut items = Vec::with_capacity(self.waiting.len().min(self.limits.batch_items));
        let mut bytes = 0;
        while items.len() < self.limits.batch_items.max(1)
            && let Some(next) =
                self.waiting.pop_front_if(|next| bytes == 0 || bytes + next.size <= BATCH_BYTES)
        {
            bytes += next.size;
            items.push(next.item);
        }
        self.waiting_bytes -= bytes;
        self.message = Some(Outstanding { items: items.len(), bytes, state: Attempt::UnderWay });
        Step::Send(items)
    }
}

#[cfg(test)]
mod tests;
