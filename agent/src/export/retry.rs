//! When to try again: what the OTLP specification calls retryable, and how long to wait.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// First wait.
const FIRST: Duration = Duration::from_secs(1);

/// Longest wait of our own choice.
const LONGEST: Duration = Duration::from_secs(30);

/// Longest wait that a collector can ask for; a slip of the pen there must not stop the export for a day.
const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// Whether a message that got this gRPC status may be sent again (OTLP specification, "OTLP/gRPC Response",
/// "Failures"). `RESOURCE_EXHAUSTED` counts only where the collector says with a `RetryInfo` that it will recover.
pub fn grpc_code(code: tonic::Code, has_retry_info: bool) -> bool {
    use tonic::Code;
    match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => has_retry_info,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => false,
    }
}

/// Whether a message that got this HTTP status may be sent again (OTLP specification, "Retryable Response Codes").
pub fn http_status(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// Exponential back-off with jitter.
#[derive(Debug)]
pub struct Backoff {
    attempts: u32,
    random: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        // The hasher's keys are the standard library's own source of randomness; spreading retries needs no better.
        Self::seeded(RandomState::new().hash_one(FIRST))
    }
}

impl Backoff {
    /// A back-off whose jitter follows from the seed.
    pub fn seeded(seed: u64) -> Self {
        Self { attempts: 0, random: seed }
    }

    /// The wait before the next attempt: between half of 1 s, 2 s, 4 s… 30 s and all of it. Where the collector has
    /// asked for a wait, never less than that.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempts.min(5)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        let half = whole / 2;
        let jitter = half.mul_f64(self.fraction());
        match asked.map(|asked| asked.min(LONGEST_ASKED)) {
            // Many agents get the same answer at once: they must not all come back at once.
            Some(asked) if asked >= half => asked + asked.min(FIRST).mul_f64(self.fraction()),
            _ => half + jitter,
        }
    }

    /// An attempt has succeeded.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// A number from 0 to 1 (splitmix64).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
