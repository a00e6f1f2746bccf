//! When the routes of web frameworks are looked for.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Facts, watch::head};
use crate::{
    fact::Fact,
    python::{self, Codes},
    signal::{Dialect, RouteTable},
};

/// First pause, where a look has shown none: a server loads its application after it has started.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Pauses grow to this, and are this long once routes were found: an application may add some.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Longest pause where the application is there, but not its routes: Django makes them for its first request.
const PAUSE_EMPTY: Duration = Duration::from_secs(2);

/// The routes of one process. Reading those of a large application on a busy machine takes so long that the buffer of facts may fill up
/// meanwhile: a thread of its own does it.
pub(super) struct RoutesReader {
    due: Instant,
    pause: Duration,
    found: Option<RouteTable>,
    reading: Option<JoinHandle<Option<RouteTable>>>,
}

impl Default for RoutesReader {
    fn default() -> Self {
        Self { due: Instant::now(), pause: PAUSE_MIN, found: None, reading: None }
    }
}

impl RoutesReader {
    /// Begins to look, if it is time; whether it does.
    pub(super) fn look(&mut self, now: Instant, codes: &Codes, states: &[u64]) -> bool {
        if self.reading.is_some() || self.due > now {
            return false;
        }
        let (codes, states) = (*codes, states.to_vec());
        let reader = thread::Builder::new().name("adder-routes".into());
        match reader.spawn(move || python::routes(&codes, &states)) {
            Ok(reading) => self.reading = Some(reading),
            Err(error) => {
                tracing::debug!("no thread to read routes: {error}");
                self.due = now + PAUSE_MAX;
            }
        }
        self.reading.is_some()
    }

    /// Says what is new, if they have been read.
    pub(super) fn take(&mut self, pid: u32, facts: &mut Facts<'_>) {
        if self.reading.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end(pid, facts);
        }
    }

    /// Whether they are being read.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Waits until they have been read; says what is new.
    pub(super) fn end(&mut self, pid: u32, facts: &mut Facts<'_>) {
        let Some(reading) = self.reading.take() else { return };
        // Nothing in it can panic.
        let found = reading.join().unwrap_or_default();
        let longest = match &found {
            Some(table) if table.rules.is_empty() && table.dialect == Dialect::Django => PAUSE_EMPTY,
            _ => PAUSE_MAX,
        };
        // What was found before may not hold any more: Django has a second resolver.
        let found = found.filter(|table| !table.rules.is_empty() || self.found.is_some());
        self.pause = if found.is_some() { PAUSE_MAX } else { (self.pause * 2).min(longest) };
        self.due = Instant::now() + self.pause;
        if let Some(table) = found.filter(|table| self.found.as_ref() != Some(table)) {
            tracing::debug!(pid, rules = table.rules.len(), dialect = ?table.dialect, "routes found");
            facts.own(&Fact::Routes(head(pid), table.clone()));
            self.found = Some(table);
        }
    }
}
