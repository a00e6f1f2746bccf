//! One trace as a tree of lines.
//!
//! ```text
//! ── 22:13:20.000 ── 3 spans, 2 services ────────────────────────── 4bf92f3577b34da6a3ce929d0e0e4736
//!  web     server  GET /games/{game_id}   12.4 ms  ████████████████  200
//!  web     client  ├─ SELECT games        3.10 ms   ████▊            1 row
//!                  │  SELECT id, name, points FROM games WHERE id = $1
//!  scorer  server  └─ POST /score         5.20 ms         ██████▍    201
//! ```
//!
//! A text that does not fit behind the bar has a line of its own.

use std::collections::{BTreeSet, HashMap};

use super::{
    lines::{SpanLines, shown},
    number_of, service_of,
    text::{self, Paint, Style, clean, cut, left, right, width},
    text_of,
};
use crate::signal::{Kind, Span, Status};

/// Columns of the duration.
const DURATION: usize = 8;

/// Columns of the bar.
const BAR: usize = 16;

/// Columns that the details behind the bar should have; the bar gives way.
const DETAILS: usize = 12;

/// Bounds of the columns of the name with its branches.
const NAME: std::ops::RangeInclusive<usize> = 16..=36;

/// Most columns of a service's name.
const SERVICE: usize = 14;

/// Deepest level that is indented further; deeper spans stay at it.
const DEEPEST: usize = 6;

/// Where the root of a trace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    /// It has no parent: nothing can come before it.
    Here,
    /// Its parent is in another process and has not come.
    Outside,
}

/// Whether more is to be expected below the root: a parent that has not come, or somebody who takes a message.
pub(super) fn waits(spans: &[Span]) -> bool {
    let has = |id: [u8; 8]| spans.iter().any(|span| span.span_id == id);
    let has_child = |id: [u8; 8]| spans.iter().any(|span| span.parent_span_id == Some(id));
    spans.iter().any(|span| {
        span.parent_span_id.is_some_and(|parent| !has(parent))
            || span.kind == Kind::Producer && !has_child(span.span_id)
    })
}

/// The root among these spans, the better one if there are several. `None` while all wait for a parent of their own
/// process.
pub(super) fn root(spans: &[Span]) -> Option<Root> {
    if spans.iter().any(|span| span.parent_span_id.is_none()) {
        return Some(Root::Here);
    }
    let remote = |span: &&Span| span.parent_is_remote;
    let known = |id: [u8; 8]| spans.iter().any(|span| span.span_id == id);
    spans
        .iter()
        .filter(remote)
        .any(|span| span.parent_span_id.is_some_and(|parent| !known(parent)))
        .then_some(Root::Outside)
}

/// A span's place in the tree.
struct Node<'a> {
    span: &'a Span,
    /// The lines of the tree before its name.
    branch: String,
    /// The same for further lines of this span.
    below: String,
    /// Why it stands at the left edge although it has a parent.
    note: &'static str,
}

/// Draws a trace with its log lines; `continued` if spans of it were drawn before.
pub(super) fn draw(
    spans: &[Span],
    lines: &SpanLines,
    continued: bool,
    paint: &mut Paint,
    columns: usize,
) -> String {
    let nodes = nodes(spans, continued);
    let mut out = heading(spans, continued, paint, columns);
    let begin = spans.iter().map(|span| span.start).min().unwrap_or(0);
    let end = spans.iter().map(|span| span.end.max(span.start)).max().unwrap_or(0);

    let services: Vec<String> = nodes.iter().map(|node| clean(service_of(&node.span.resource))).collect();
    let names: Vec<String> = nodes.iter().map(|node| clean(&node.span.name)).collect();
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let service_columns = widest(&mut services.iter().map(|text| width(text))).min(SERVICE);
    let kind_columns = widest(&mut nodes.iter().map(|node| text::kind(node.span.kind).len()));
    let indent = 1 + service_columns + 2 + kind_columns + 2;
    // On a narrow terminal the name gives way before the bar and the details do.
    let most = columns.saturating_sub(indent + 2 + DURATION + 2 + BAR + 2 + DETAILS);
    let name_columns =
        widest(&mut nodes.iter().zip(&names).map(|(node, name)| width(&node.branch) + width(name)))
            .clamp(*NAME.start(), most.clamp(*NAME.start(), *NAME.end()));

    for ((node, service), name) in nodes.iter().zip(&services).zip(&names) {
        let failed = node.span.status != Status::Unset;
        let color = paint.service(service);
        out.push(' ');
        paint.put(&mut out, color, &left(service, service_columns));
        out.push_str("  ");
        paint.put(&mut out, Style::Dim, &left(text::kind(node.span.kind), kind_columns));
        out.push_str("  ");
        paint.put(&mut out, Style::Dim, &node.branch);
        let style = match (failed, node.branch.is_empty()) {
            (true, _) => Style::Bad,
            (false, true) => Style::Bold,
            (false, false) => Style::Plain,
        };
        paint.put(&mut out, style, &left(name, name_columns.saturating_sub(width(&node.branch))));
        out.push_str("  ");
        let duration = text::duration(node.span.end.saturating_sub(node.span.start));
        out.push_str(&right(&duration, DURATION));
        out.push_str("  ");
        let rest = columns.saturating_sub(indent + name_columns + 2 + DURATION + 2);
        let bar_columns = BAR.min(rest.saturating_sub(2 + DETAILS));
        let bar = bar(
            node.span.start - begin,
            node.span.end.max(node.span.start) - begin,
            end - begin,
            bar_columns,
        );
        paint.put(&mut out, if failed { Style::Bad } else { color }, &bar);
        let mut room = rest.saturating_sub(bar_columns);
        let mut below = Vec::new();
        for (style, detail) in details(node, failed) {
            let needed = 2 + width(&detail);
            if needed <= room && below.is_empty() {
                room -= needed;
                out.push_str("  ");
                paint.put(&mut out, style, &detail);
            } else {
                below.push((style, detail));
            }
        }
        if let Some(lines) = lines.get(&node.span.span_id) {
            below.extend(shown(lines));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        for (style, detail) in below {
            out.push_str(&" ".repeat(indent));
            paint.put(&mut out, Style::Dim, &node.below);
            paint.put(&mut out, style, &cut(&detail, columns.saturating_sub(indent + width(&node.below))));
            out.push('\n');
        }
    }
    out.push('\n');
    out
}

fn heading(spans: &[Span], continued: bool, paint: &Paint, columns: usize) -> String {
    let begin = spans.iter().map(|span| span.start).min().unwrap_or(0);
    let services: BTreeSet<&str> = spans.iter().map(|span| service_of(&span.resource)).collect();
    let errors = spans.iter().filter(|span| span.status != Status::Unset).count() as u64;
    let id = spans.first().map_or(0, |span| u128::from_be_bytes(span.trace_id));
    let id = format!("{id:032x}");
    let time = text::clock(begin);
    let mut what = text::count(spans.len() as u64, "span");
    if services.len() > 1 {
        what.extend([", ", &text::count(services.len() as u64, "service")]);
    }
    if continued {
        what += ", continued";
    }
    let failures = if errors > 0 { format!(", {}", text::count(errors, "error")) } else { String::new() };
    let used = 3 + width(&time) + 4 + width(&what) + width(&failures) + 1;
    let id = cut(&id, columns.saturating_sub(used + 1));
    let mut out = String::new();
    paint.put(&mut out, Style::Dim, "── ");
    out.push_str(&time);
    paint.put(&mut out, Style::Dim, " ── ");
    out.push_str(&what);
    paint.put(&mut out, Style::Bad, &failures);
    out.push(' ');
    let rule = "─".repeat(columns.saturating_sub(used + 1 + width(&id)));
    paint.put(&mut out, Style::Dim, &format!("{rule} {id}"));
    out.push('\n');
    out
}

/// The spans in the order of the tree: parents before children, siblings by start.
fn nodes(spans: &[Span], continued: bool) -> Vec<Node<'_>> {
    let index: HashMap<[u8; 8], usize> =
        spans.iter().enumerate().rev().map(|(index, span)| (span.span_id, index)).collect();
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&at| (spans[at].start, std::cmp::Reverse(spans[at].end), spans[at].span_id));
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    let mut roots = Vec::new();
    for &at in &order {
        match spans[at].parent_span_id.and_then(|parent| index.get(&parent)) {
            Some(&parent) if parent != at => children[parent].push(at),
            _ => roots.push(at),
        }
    }
    let mut nodes = Vec::with_capacity(spans.len());
    let mut seen = vec![false; spans.len()];
    // Spans that are each other's ancestors hang below no root; they follow at the end, each circle once.
    for at in roots.into_iter().chain(order) {
        // Prefix of the span's own line, prefix of its children's lines, depth.
        let mut stack = vec![(at, String::new(), String::new(), 0)];
        while let Some((at, branch, below, depth)) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let span = &spans[at];
            let own = format!("{below}{}", if children[at].is_empty() { "   " } else { "│  " });
            let note = if depth == 0 { note(span, continued) } else { "" };
            nodes.push(Node { span, branch, below: own, note });
            for (place, &child) in children[at].iter().enumerate().rev() {
                let last = place + 1 == children[at].len();
                let (fork, line) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                // Too deep to go on to the right: the child stays below its parent's own branch.
                let kept = below.chars().count().min(DEEPEST * 3);
                let below: String = below.chars().take(kept).collect();
                stack.push((child, format!("{below}{fork}"), format!("{below}{line}"), depth + 1));
            }
        }
    }
    nodes
}

fn note(span: &Span, continued: bool) -> &'static str {
    match (span.parent_span_id, span.parent_is_remote) {
        (None, _) => "",
        (Some(_), _) if continued => "↑ belongs above",
        (Some(_), true) => "← from outside",
        (Some(_), false) => "? parent not seen",
    }
}

/// A bar from `start` to `end` of `whole`, in eighths of a column where the terminal's characters allow.
fn bar(start: u64, end: u64, whole: u64, columns: usize) -> String {
    const FROM_LEFT: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    let eighths = columns as u64 * 8;
    let place = |time: u64| {
        (u128::from(time) * u128::from(eighths)).checked_div(u128::from(whole)).unwrap_or(u128::from(eighths))
            as u64
    };
    // Every span is seen, however short.
    let from = place(start).min(eighths.saturating_sub(1));
    let to = place(end).clamp(from + 1, eighths.max(from + 1));
    (0..columns as u64)
        .map(|column| {
            let a = from.clamp(column * 8, column * 8 + 8) - column * 8;
            let b = to.clamp(column * 8, column * 8 + 8) - column * 8;
            match (a, b) {
                _ if b <= a => ' ',
                (0 | 1, _) => FROM_LEFT[(b as usize).min(8)],
                // Only a half and an eighth can be drawn at the right edge.
                (_, 8) if a <= 2 => '█',
                (_, 8) if a <= 5 => '▐',
                (_, 8) => '▕',
                (_, _) if a + b >= 8 => '▕',
                _ => FROM_LEFT[((b - a) as usize).min(8)],
            }
        })
        .collect()
}

/// What is worth knowing of this span, the short things first.
fn details(node: &Node<'_>, failed: bool) -> Vec<(Style, String)> {
    let span = node.span;
    let text = |key: &str| text_of(&span.attributes, key).map(clean).filter(|text| !text.is_empty());
    let number = |key: &str| number_of(&span.attributes, key);
    let code = number("http.response.status_code")
        .map(|code| code.to_string())
        .or_else(|| text("db.response.status_code"));
    let mut details = Vec::new();
    let mut description = None;
    if failed {
        description = match &span.status {
            Status::Error(description) if !description.is_empty() => Some(clean(description)),
            _ => text("error.type").filter(|kind| Some(kind) != code.as_ref()),
        };
        let mark = code.map_or_else(|| "✗".to_owned(), |code| format!("✗ {code}"));
        details.push((Style::Bad, mark));
    } else if let Some(code) = code {
        details.push((Style::Plain, code));
    }
    if !node.note.is_empty() {
        details.push((Style::Dim, node.note.to_owned()));
    }
    if let Some(rows) = number("db.response.returned_rows") {
        details.push((Style::Plain, text::count(rows.max(0) as u64, "row")));
    }
    details.extend(description.map(|description| (Style::Bad, description)));
    // The route says it already where a path has no variable part.
    let more = ["db.query.text", "url.full", "url.path", "messaging.destination.name"];
    let more = more.iter().find_map(|key| text(key)).filter(|more| !span.name.ends_with(more.as_str()));
    details.extend(more.map(|more| (Style::Dim, more)));
    details
}
