//! A closed-loop HTTP load: a fixed number of connections, each with one request under way at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use rustls::ClientConfig;

use crate::http;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Games in the demo schema, numbered from 1.
const GAMES: usize = 500;

/// Memory that a connection's thread needs.
const STACK: usize = 256 << 10;

/// What to send.
#[derive(Clone, Debug)]
pub struct Load {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Connections, each kept alive for its whole share.
    pub connections: usize,
    /// Requests over all connections.
    pub requests: usize,
    /// Paths, taken in turn. `{n}` stands for a number from 1 to 500 (the games of the demo schema), another for each
    /// request; `rid=…` is added to the query.
    pub paths: Vec<String>,
    /// For a service that speaks TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The id planted in the query.
    pub rid: String,
    /// The path with its query, as sent.
    pub path: String,
    /// Status of the response; none where the connection failed.
    pub status: Option<u16>,
    /// From before the request's write to after the response's last byte.
    pub latency: Duration,
}

/// What became of all.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each request, by connection.
    pub outcomes: Vec<Outcome>,
    /// Wall time of the whole.
    pub elapsed: Duration,
}

impl Load {
    /// Sends it all and waits for the last response.
    pub fn run(&self) -> Result<Report> {
        ensure!(!self.paths.is_empty() && self.connections > 0, "a load needs paths and connections");
        let prefix = rid_prefix();
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        let outcomes = thread::scope(|scope| {
            let connection = || self.connection(&prefix, &next);
            let threads: Vec<_> = (0..self.connections)
                .map(|_| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, connection))
                .collect::<Result<_, _>>()?;
            let outcomes = threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default());
            anyhow::Ok(outcomes.collect::<Vec<_>>())
        })?;
        Ok(Report { outcomes, elapsed: start.elapsed() })
    }

    fn connection(&self, prefix: &str, next: &AtomicUsize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut stream = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return outcomes;
            }
            let rid = format!("{prefix}{number}");
            let path =
                self.paths[number % self.paths.len()].replace("{n}", &(number % GAMES + 1).to_string());
            let joint = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{joint}rid={rid}");
            let start = Instant::now();
            let open = stream.take().map_or_else(|| http::connect(self.port, TIMEOUT, self.tls.as_ref()), Ok);
            let answer = open.and_then(|mut open| Ok((http::get(&mut open, "127.0.0.1", &path)?, open)));
            let latency = start.elapsed();
            let status = match answer {
                Ok((answer, open)) => {
                    if answer
                        .headers
                        .get("connection")
                        .is_none_or(|value| !value.eq_ignore_ascii_case("close"))
                    {
                        stream = Some(open);
                    }
                    answer.status()
                }
                Err(_) => None,
            };
            outcomes.push(Outcome { rid, path, status, latency });
        }
    }
}

impl Report {
    /// How many responses had this status.
    pub fn count(&self, status: u16) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.status == Some(status)).count()
    }

    /// How many requests got no response.
    pub fn failed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.status.is_none()).count()
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.outcomes.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that the share `quantile` (0 to 1) of the requests did not exceed; zero of none.
    pub fn latency(&self, quantile: f64) -> Duration {
        let mut latencies: Vec<Duration> = self.outcomes.iter().map(|outcome| outcome.latency).collect();
        latencies.sort_unstable();
        percentile(&latencies, quantile).unwrap_or_default()
    }
}

/// The element of a sorted list below or at which the share `quantile` (0 to 1) of its elements lie (nearest rank).
pub fn percentile<T: Copy>(sorted: &[T], quantile: f64) -> Option<T> {
    let rank = (quantile.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The start of ids that no other load has used: letters and digits only, so that they survive every quoting.
pub(crate) fn rid_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("r{:x}x{:x}x", now.as_micros(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests;
