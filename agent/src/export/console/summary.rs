//! The summary at the end: each operation of each service, how often, how long, how many failures.

use std::collections::{BTreeMap, HashMap};

use super::{
    Evicted, service_of,
    text::{self, Paint, Style, clean, left, right, width},
};
use crate::signal::{Span, Status};

/// Most operations that are told apart; the others are counted together.
const MAX_OPERATIONS: usize = 500;

/// Buckets for each power of two: a duration is known to within 1/128.
const STEPS: u64 = 64;

/// The power of two that [`STEPS`] is.
const STEPS_POWER: u32 = STEPS.ilog2();

/// Columns of the numbers.
const COUNT: usize = 8;
const DURATION: usize = 9;

/// Counts since start.
#[derive(Debug, Default)]
pub(super) struct Summary {
    services: HashMap<String, HashMap<(String, &'static str), Operation>>,
    operations: usize,
    others: Operation,
    spans: u64,
}

/// Counts of one operation.
#[derive(Debug, Default)]
struct Operation {
    count: u64,
    errors: u64,
    /// How many durations fell into each bucket.
    durations: BTreeMap<u16, u64>,
}

impl Summary {
    pub(super) fn add(&mut self, span: &Span) {
        self.spans += 1;
        let service = service_of(&span.resource);
        let key = (span.name.clone(), text::kind(span.kind));
        let known = self.services.get(service).is_some_and(|operations| operations.contains_key(&key));
        if !known && self.operations >= MAX_OPERATIONS {
            self.others.add(span);
            return;
        }
        self.operations += usize::from(!known);
        self.services.entry(service.to_owned()).or_default().entry(key).or_default().add(span);
    }

    /// The table, services by name, operations by count.
    pub(super) fn draw(&self, paint: &mut Paint, columns: usize, evicted: Evicted) -> String {
        let mut out = String::new();
        if self.spans == 0 {
            out.push_str("No spans were seen.\n");
            return out;
        }
        let mut rows: Vec<(String, String, &str, &Operation)> = Vec::new();
        for (service, operations) in &self.services {
            for ((name, kind), operation) in operations {
                rows.push((clean(service), clean(name), kind, operation));
            }
        }
        rows.sort_by(|a, b| (&a.0, b.3.count, &a.1, a.2).cmp(&(&b.0, a.3.count, &b.1, b.2)));
        if self.others.count > 0 {
            rows.push(("others".to_owned(), String::new(), "", &self.others));
        }
        let widest = |texts: &mut dyn Iterator<Item = &str>| texts.map(width).max().unwrap_or(0);
        let service = widest(&mut rows.iter().map(|row| row.0.as_str()).chain(["service"])).min(20);
        let kind = widest(&mut rows.iter().map(|row| row.2).chain(["kind"]));
        let numbers = 2 * COUNT + 2 * DURATION;
        let name = widest(&mut rows.iter().map(|row| row.1.as_str()).chain(["operation"]))
            .min(columns.saturating_sub(1 + service + 2 + kind + 2 + numbers));
        let head = format!(
            " {}  {}  {}{}{}{}{}",
            left("service", service),
            left("kind", kind),
            left("operation", name),
            right("count", COUNT),
            right("errors", COUNT),
            right("p50", DURATION),
            right("p99", DURATION)
        );
        paint.put(&mut out, Style::Bold, &head);
        out.push('\n');
        paint.put(&mut out, Style::Dim, &format!(" {}", "─".repeat(width(&head) - 1)));
        out.push('\n');
        let mut before = None;
        for (service_name, operation_name, kind_name, operation) in &rows {
            // A service's name stands once, above its operations.
            let shown = if before == Some(service_name) { "" } else { service_name };
            before = Some(service_name);
            let color = paint.service(service_name);
            out.push(' ');
            paint.put(&mut out, color, &left(shown, service));
            out.push_str("  ");
            paint.put(&mut out, Style::Dim, &left(kind_name, kind));
            out.push_str("  ");
            out.push_str(&left(operation_name, name));
            out.push_str(&right(&operation.count.to_string(), COUNT));
            let errors = if operation.errors > 0 { Style::Bad } else { Style::Dim };
            paint.put(&mut out, errors, &right(&operation.errors.to_string(), COUNT));
            out.push_str(&right(&text::duration(operation.quantile(50)), DURATION));
            out.push_str(&right(&text::duration(operation.quantile(99)), DURATION));
            out.push('\n');
        }
        out.push('\n');
        out.extend([" ", &text::count(self.spans, "span"), " in all"]);
        if evicted.spans > 0 {
            let (spans, traces) = (text::count(evicted.spans, "span"), text::count(evicted.traces, "trace"));
            out.extend(["; ", &spans, " of ", &traces, " came too fast to be drawn"]);
        }
        out.push('\n');
        out
    }
}

impl Operation {
    fn add(&mut self, span: &Span) {
        self.count += 1;
        self.errors += u64::from(span.status != Status::Unset);
        *self.durations.entry(bucket(span.end.saturating_sub(span.start))).or_default() += 1;
    }

    /// The duration in nanoseconds that so many per cent do not exceed, to within 1/128.
    fn quantile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100);
        let mut below = 0;
        for (bucket, count) in &self.durations {
            below += count;
            if below >= rank {
                return middle(*bucket);
            }
        }
        0
    }
}

/// The bucket of a duration: exact below [`STEPS`], then [`STEPS`] for each power of two.
fn bucket(value: u64) -> u16 {
    if value < STEPS {
        return value as u16;
    }
    let shift = value.ilog2() - STEPS_POWER;
    ((u64::from(shift) + 1) * STEPS + (value >> shift) % STEPS) as u16
}

/// The middle of a bucket.
fn middle(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((STEPS + bucket % STEPS) << shift) + ((1 << shift) >> 1)
}

/// The duration that stands for this one in the summary.
#[cfg(test)]
pub(super) fn middle_of_bucket(value: u64) -> u64 {
    middle(bucket(value))
}
