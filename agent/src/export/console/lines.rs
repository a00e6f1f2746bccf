//! Log records that wait for the trace in which they are shown.

use std::collections::{BTreeMap, HashMap};

use super::text::{Style, clean, count};
use crate::signal::{LogRecord, Severity};

/// Most records kept.
const MAX_RECORDS: usize = 20_000;

/// Most lines shown with one span.
const MAX_SHOWN: usize = 8;

/// The records of traces that are not drawn yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// By trace, and then by span.
    traces: HashMap<[u8; 16], Traced>,
    count: usize,
}

#[derive(Debug, Default)]
struct Traced {
    /// The last tick before the first of them, nanoseconds.
    since: u64,
    spans: SpanLines,
}

/// Lines by their span.
pub(super) type SpanLines = BTreeMap<[u8; 8], Vec<(u64, Style, String)>>;

impl Lines {
    /// Takes records; those without a span have no place in a tree.
    pub(super) fn add(&mut self, records: &[LogRecord], now: u64) {
        for record in records {
            let Some((trace, span)) = record.span else { continue };
            if self.count >= MAX_RECORDS {
                return;
            }
            self.count += 1;
            let traced = self.traces.entry(trace).or_insert(Traced { since: now, spans: SpanLines::new() });
            traced.spans.entry(span).or_default().push((record.time, style(record), line(record)));
        }
    }

    /// The lines of a trace, which is drawn now.
    pub(super) fn take(&mut self, trace: [u8; 16]) -> SpanLines {
        let spans = self.traces.remove(&trace).map(|traced| traced.spans).unwrap_or_default();
        self.count -= spans.values().map(Vec::len).sum::<usize>();
        spans
    }

    /// Forgets those whose trace has not come since that time.
    pub(super) fn forget(&mut self, before: u64) {
        self.traces.retain(|_, traced| traced.since >= before);
        self.count = self.traces.values().flat_map(|traced| traced.spans.values()).map(Vec::len).sum();
    }
}

/// What is shown with one span, in order.
pub(super) fn shown(lines: &[(u64, Style, String)]) -> Vec<(Style, String)> {
    let mut lines: Vec<_> = lines.iter().collect();
    lines.sort_by_key(|(time, ..)| *time);
    let more = lines.len().saturating_sub(MAX_SHOWN);
    let mut shown: Vec<_> =
        lines.into_iter().take(MAX_SHOWN).map(|(_, style, line)| (*style, line.clone())).collect();
    if more > 0 {
        shown.push((Style::Dim, format!("… {} more", count(more as u64, "line"))));
    }
    shown
}

fn style(record: &LogRecord) -> Style {
    match &record.severity {
        Some((severity, _)) if *severity >= Severity::ERROR => Style::Bad,
        _ => Style::Dim,
    }
}

/// `» INFO app.games: created 5`, on one line.
fn line(record: &LogRecord) -> String {
    let mut line = "»".to_owned();
    if let Some((_, word)) = &record.severity {
        line.extend([" ", word]);
    }
    if let Some(logger) = &record.logger {
        line.extend([" ", logger]);
    }
    if line.len() > "»".len() {
        line.push(':');
    }
    line.push(' ');
    line.push_str(&record.body);
    clean(&line)
}
