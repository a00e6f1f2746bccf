//! What became of the spans, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of the export since start, in spans where nothing else is said.
///
/// Every span offered is in exactly one counter in the end:
/// `offered = sent + rejected + dropped_queue_full + dropped_not_retryable + dropped_shutdown + (waiting or under way)`.
#[derive(Debug, Default)]
pub struct ExportStats {
    /// Handed to the export.
    pub offered: AtomicU64,
    /// Accepted by the collector.
    pub sent: AtomicU64,
    /// Rejected by the collector out of a message that it accepted (`partial_success`).
    pub rejected: AtomicU64,
    /// Not taken because the queue was full.
    pub dropped_queue_full: AtomicU64,
    /// In messages that the collector refused for good.
    pub dropped_not_retryable: AtomicU64,
    /// Not delivered when the agent ended. The last message may have arrived all the same, if its answer did not.
    pub dropped_shutdown: AtomicU64,
    /// Attempts, in messages, that were made again.
    pub retries: AtomicU64,
    /// Bytes of the messages that the collector accepted, before compression.
    pub bytes: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the counter of the same name")]
pub struct Snapshot {
    pub offered: u64,
    pub sent: u64,
    pub rejected: u64,
    pub dropped_queue_full: u64,
    pub dropped_not_retryable: u64,
    pub dropped_shutdown: u64,
    pub retries: u64,
    pub bytes: u64,
}

impl ExportStats {
    /// All counters now.
    pub fn snapshot(&self) -> Snapshot {
        let Self {
            offered,
            sent,
            rejected,
            dropped_queue_full,
            dropped_not_retryable,
            dropped_shutdown,
            retries,
            bytes,
        } = self;
        Snapshot {
            offered: offered.load(Relaxed),
            sent: sent.load(Relaxed),
            rejected: rejected.load(Relaxed),
            dropped_queue_full: dropped_queue_full.load(Relaxed),
            dropped_not_retryable: dropped_not_retryable.load(Relaxed),
            dropped_shutdown: dropped_shutdown.load(Relaxed),
            retries: retries.load(Relaxed),
            bytes: bytes.load(Relaxed),
        }
    }

    /// Adds to a counter.
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Relaxed);
    }
}

impl Snapshot {
    /// Spans that will not arrive, whatever the reason.
    pub fn lost(&self) -> u64 {
        self.rejected + self.dropped_queue_full + self.dropped_not_retryable + self.dropped_shutdown
    }
}
