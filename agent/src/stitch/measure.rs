//! What is counted of each process, and exported as metrics.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Engine;
use crate::{
    fact::LagInfo,
    signal::{Attribute, Metric, Points},
};

/// Functions of one process that are counted by name; all others together have the name [`OTHER`].
const NAMES_MAX: usize = 50;
/// As in the semantic conventions, where there are too many values.
const OTHER: &str = "_OTHER";
/// Bounds of the histogram of lags, in seconds.
const LAG_BOUNDS: [f64; adder_ebpf::LAG_BOUNDS.len()] = {
    let mut bounds = [0.0; adder_ebpf::LAG_BOUNDS.len()];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = adder_ebpf::LAG_BOUNDS[at] as f64 / 1e9;
        at += 1;
    }
    bounds
};

/// All processes.
#[derive(Default)]
pub(super) struct Measures {
    processes: FxHashMap<u32, Measured>,
    /// Nanoseconds since the Unix epoch.
    now: u64,
    /// A process has ended of which the last was not told.
    ended: bool,
}

/// What is counted of one, since `since`, in nanoseconds since the Unix epoch.
#[derive(Default)]
struct Measured {
    since: u64,
    lags: Option<LagInfo>,
    blocked: Names,
    idle: Names,
}

/// Counts by function.
#[derive(Default)]
struct Names(Vec<(String, u64)>);

impl Names {
    fn count(&mut self, name: &str) {
        let name = if self.0.len() < NAMES_MAX || self.0.iter().any(|(known, _)| known == name) {
            name
        } else {
            OTHER
        };
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => self.0.push((name.to_owned(), 1)),
        }
    }

    fn points(&self) -> Points {
        let point = |(name, count): &(String, u64)| {
            let attributes = if name.is_empty() {
                Vec::new()
            } else {
                vec![Attribute::new("code.function.name", name.clone())]
            };
            (attributes, *count)
        };
        Points::Sum(self.0.iter().map(point).collect())
    }
}

impl Measures {
    /// Time has passed: it is so many nanoseconds since the Unix epoch.
    pub(super) fn tick(&mut self, now: u64) {
        self.now = now;
    }

    fn process(&mut self, pid: u32) -> &mut Measured {
        let since = self.now;
        self.processes.entry(pid).or_insert_with(|| Measured { since, ..Measured::default() })
    }

    /// How long the steps of its event loops have lasted so far.
    pub(super) fn lags(&mut self, pid: u32, lags: &LagInfo) {
        self.process(pid).lags = Some(lags.clone());
    }

    /// A function has kept an event loop from running.
    pub(super) fn blocked(&mut self, pid: u32, function: &str) {
        self.process(pid).blocked.count(function);
    }

    /// A job has found nothing to do; the name of its function is empty where that is not known.
    pub(super) fn idle(&mut self, pid: u32, function: &str) {
        self.process(pid).idle.count(function);
    }

    /// A process has ended: nothing will follow.
    pub(super) fn end(&mut self, pid: u32) {
        self.ended |= self.processes.contains_key(&pid);
    }

    /// Forgets processes that are forgotten, or have a new program.
    pub(super) fn retain(&mut self, is_known: impl Fn(u32) -> bool) {
        self.processes.retain(|pid, _| is_known(*pid));
    }
}

impl Engine {
    /// Whether a process has ended since metrics were asked for: it is forgotten soon.
    pub fn has_last_metrics(&self) -> bool {
        self.measures.ended
    }

    /// What was counted so far, of each process that there is, or was a moment ago.
    pub fn metrics(&mut self) -> Vec<Metric> {
        self.measures.ended = false;
        let mut pids: Vec<_> = self.measures.processes.keys().copied().collect();
        pids.sort_unstable();
        let mut metrics = Vec::new();
        for pid in pids {
            let (Some(measured), Some(process)) =
                (self.measures.processes.get(&pid), self.processes.get(&pid))
            else {
                continue;
            };
            let mut push = |name, unit, description, points: Points| {
                if points.count() > 0 {
                    metrics.push(Metric {
                        name,
                        unit,
                        description,
                        start: measured.since,
                        time: self.unix(self.now),
                        points,
                        resource: Arc::clone(&process.resource),
                    });
                }
            };
            // Others wait in the same way: the hub of a Celery worker.
            if let Some(lags) = measured.lags.as_ref().filter(|_| process.has_tasks) {
                push(
                    "adder.asyncio.loop.lag",
                    "s",
                    "How long each step of an event loop has kept all others waiting.",
                    Points::Histogram {
                        bounds: &LAG_BOUNDS,
                        buckets: lags.buckets.clone(),
                        sum: lags.sum as f64 / 1e9,
                    },
                );
            }
            push(
                "adder.asyncio.loop.blocked",
                "{step}",
                "Steps of an event loop in which this function has kept it from running for long.",
                measured.blocked.points(),
            );
            push(
                "adder.job.idle",
                "{job}",
                "Jobs that asked whether there is something to do, and found nothing.",
                measured.idle.points(),
            );
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_names_are_one() {
        let mut names = Names::default();
        for number in 0..NAMES_MAX + 10 {
            names.count(&format!("f{number}"));
            names.count("f0");
        }
        let count = |name: &str| names.0.iter().find(|(known, _)| known == name).map(|(_, count)| *count);
        assert_eq!((names.0.len(), count(OTHER)), (NAMES_MAX + 1, Some(10)));
        assert_eq!(count("f0"), Some(NAMES_MAX as u64 + 11));
    }
}
