//! Whether the spans hang under the requests that caused them.
//!
//! A client span carries the id of its request (`rid`) in its own text; the nearest server span above it carries the
//! id that came in. Both are equal or the trace is wrong. A consumer span whose message cannot carry an id in a
//! place that is shown stands for the calls that it comes of.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::{collector::CollectedSpan, python::Counts};

/// How many bad spans a verdict tells of.
const DETAILS: usize = 20;

/// Where a client span's text may be: current names, then those of older instrumentations.
const CLIENT_TEXT: &[&str] =
    &["db.query.text", "url.full", "db.statement", "http.url", ROUTING_KEY, RPC_METHOD];

/// Where a message carries its id.
const ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";

/// Where a gRPC call does.
const RPC_METHOD: &str = "rpc.method";

/// Where a server span's query may be, likewise.
const SERVER_TEXT: &[&str] = &["url.query", "url.full", "http.target", "http.url", ROUTING_KEY, RPC_METHOD];

/// Statements that belong to a driver's book-keeping and that no service counts: transaction control, and what
/// asyncpg sends when a connection goes back to its pool or is prepared.
const BOOK_KEEPING: &[&str] = &[
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "START TRANSACTION",
    "SAVEPOINT",
    "RELEASE",
    "SELECT pg_advisory_unlock_all",
    "SET ",
    "SHOW ",
    "DEALLOCATE",
    "DISCARD",
    "RESET",
    ";",
];

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Client spans under a server span with the same id.
    pub right: usize,
    /// Client spans under a server span with another id, and server spans under a client span with another.
    pub wrong: usize,
    /// Client spans with an id and no server span above them.
    pub orphan: usize,
    /// Client spans without an id in their text.
    pub unmarked: usize,
    /// Server and consumer spans with an id.
    pub servers: usize,
    /// Consumer spans among them.
    pub consumers: usize,
    /// Those of them whose parent is a collected client span: another watched service made the request.
    pub linked: usize,
    /// Spans whose parent was not collected.
    pub lost_parent: usize,
    /// Server spans beyond the first of a service with the same id: a service called twice for one request, or a span
    /// sent twice.
    pub repeated: usize,
    /// Up to 20 wrong spans and orphans, in words.
    pub bad: Vec<String>,
    /// What hangs under the server spans: by service and id.
    pub found: BTreeMap<(String, String), Counts>,
}

/// Judges spans.
pub fn judge(spans: &[CollectedSpan]) -> Verdict {
    let forest = Forest::new(spans);
    let mut verdict = Verdict::default();
    let mut seen = HashSet::new();
    for span in spans {
        if !span.span.parent_span_id.is_empty() && forest.parent(span).is_none() {
            verdict.lost_parent += 1;
        }
        match span.span.kind() {
            kind @ (SpanKind::Server | SpanKind::Consumer) => {
                let Some(rid) = server_rid(span) else { continue };
                verdict.servers += 1;
                verdict.consumers += usize::from(kind == SpanKind::Consumer);
                let calls = [SpanKind::Client, SpanKind::Producer];
                if let Some(caller) = forest.parent(span).filter(|parent| calls.contains(&parent.span.kind()))
                {
                    verdict.linked += 1;
                    if let Some(asked) = planted(caller).filter(|asked| *asked != rid) {
                        verdict.wrong += 1;
                        verdict.tell(span, &format!("of {rid} called by {asked}"));
                    }
                }
                let key = (span.service().to_string(), rid);
                verdict.found.entry(key.clone()).or_default();
                verdict.repeated += usize::from(!seen.insert(key));
            }
            SpanKind::Client | SpanKind::Producer => verdict.client(&forest, span),
            _ => {}
        }
    }
    verdict
}

impl Verdict {
    fn client(&mut self, forest: &Forest, span: &CollectedSpan) {
        let server = forest.server(span);
        let planted = planted(span);
        let mut owners = server.map(|server| forest.rids(server)).unwrap_or_default();
        let here = owners.iter().position(|owner| Some(owner) == planted.as_ref());
        let owner = if owners.is_empty() { None } else { Some(owners.swap_remove(here.unwrap_or(0))) };
        // The service counts what it sends itself; what its drivers and pools add carries no id.
        if let (Some(server), Some(owner), true) = (server, &owner, planted.is_some()) {
            let counts = self.found.entry((server.service().to_string(), owner.clone())).or_default();
            count(span, counts);
        }
        match (planted, owner) {
            (None, _) => self.unmarked += 1,
            (Some(planted), Some(owner)) if planted == owner => self.right += 1,
            (Some(planted), Some(owner)) => {
                self.wrong += 1;
                self.tell(span, &format!("of {planted} under {owner}"));
            }
            (Some(planted), None) => {
                self.orphan += 1;
                let above = if forest.parent(span).is_some() { "no server span above" } else { "no parent" };
                self.tell(span, &format!("of {planted}: {above}"));
            }
        }
    }

    fn tell(&mut self, span: &CollectedSpan, what: &str) {
        if self.bad.len() < DETAILS {
            let trace = span.span.trace_id.iter().fold(0, |id, byte| id << 8 | u128::from(*byte));
            self.bad.push(format!("{} {:?} {what} (trace {trace:032x})", span.service(), span.span.name));
        }
    }

    /// Client spans with an id.
    pub fn marked(&self) -> usize {
        self.right + self.wrong + self.orphan
    }

    /// Compares what hangs under the server spans of a service with what the service says that it did, in words, one
    /// for each difference. SQL and HTTP must agree in number; of Redis, whose pipelines are one span each, there
    /// must be some where there was some. The empty id is left out.
    pub fn differences(&self, service: &str, truth: &BTreeMap<String, Counts>) -> Vec<String> {
        let mut differences = Vec::new();
        for (rid, told) in truth.iter().filter(|(rid, _)| !rid.is_empty()) {
            let Some(found) = self.found.get(&(service.to_string(), rid.clone())) else {
                differences.push(format!("{rid}: no server span"));
                continue;
            };
            if (told.sql, told.http, told.publish) != (found.sql, found.http, found.publish)
                || (told.redis > 0) != (found.redis > 0)
            {
                differences.push(format!("{rid}: did {told:?}, spans show {found:?}"));
            }
        }
        differences
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} of {} client spans right, {} wrong, {} without a server span; {} without an id; {} server spans, {} of \
             them called by another service; {} lost parents, {} repeated ids",
            self.right,
            self.marked(),
            self.wrong,
            self.orphan,
            self.unmarked,
            self.servers,
            self.linked,
            self.lost_parent,
            self.repeated
        )?;
        self.bad.iter().try_for_each(|bad| write!(out, "\n  {bad}"))
    }
}

/// How often each id occurs in texts: a server's log, or spans.
pub fn rids<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for rid in texts.into_iter().filter_map(find_rid) {
        *counts.entry(rid.to_string()).or_default() += 1;
    }
    counts
}

/// The texts of the client spans of a database system (`postgresql`, `redis`), to compare with the server's log.
pub fn texts(spans: &[CollectedSpan], system: &str) -> Vec<String> {
    let of_system = |span: &&CollectedSpan| {
        let name = span.attribute("db.system.name").or_else(|| span.attribute("db.system"));
        span.span.kind() == SpanKind::Client && name.as_deref() == Some(system)
    };
    let text =
        |span: &CollectedSpan| span.attribute("db.query.text").or_else(|| span.attribute("db.statement"));
    spans.iter().filter(of_system).filter_map(text).collect()
}

/// The id after the first `rid=` or `rid:` that begins a word.
pub fn find_rid(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let at = rest.find("rid")?;
        let begins_word =
            !rest[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_');
        rest = &rest[at + "rid".len()..];
        if begins_word && let Some(value) = rest.strip_prefix(['=', ':']) {
            let end = value.find(|sign: char| !sign.is_ascii_alphanumeric()).unwrap_or(value.len());
            if end > 0 {
                return Some(&value[..end]);
            }
        }
    }
}

/// The id that a client span carries.
fn planted(span: &CollectedSpan) -> Option<String> {
    CLIENT_TEXT.iter().find_map(|key| find_rid(&span.attribute(key)?).map(str::to_string))
}

fn server_rid(span: &CollectedSpan) -> Option<String> {
    SERVER_TEXT.iter().find_map(|key| find_rid(&span.attribute(key)?).map(str::to_string))
}

/// Adds a client span to what its server span has done.
fn count(span: &CollectedSpan, counts: &mut Counts) {
    match span.attribute("db.system.name").or_else(|| span.attribute("db.system")).as_deref() {
        Some("postgresql") => {
            let text = span.attribute("db.query.text").or_else(|| span.attribute("db.statement"));
            let text = text.unwrap_or_default();
            counts.sql += usize::from(!BOOK_KEEPING.iter().any(|start| text.trim_start().starts_with(start)));
        }
        Some("redis") => counts.redis += 1,
        Some(_) => {}
        None if span.attribute("messaging.system").is_some() => counts.publish += 1,
        None => counts.http += 1,
    }
}

/// The spans by id.
struct Forest<'a>(HashMap<(&'a [u8], &'a [u8]), &'a CollectedSpan>);

impl<'a> Forest<'a> {
    fn new(spans: &'a [CollectedSpan]) -> Self {
        Self(spans.iter().map(|span| ((&span.span.trace_id[..], &span.span.span_id[..]), span)).collect())
    }

    fn parent(&self, span: &CollectedSpan) -> Option<&'a CollectedSpan> {
        self.0.get(&(&span.span.trace_id[..], &span.span.parent_span_id[..])).copied()
    }

    /// The ids that a server or consumer span stands for: its own, else those of the calls that it comes of, as its
    /// parent or (a batch) by its links. A call that shows none is its request's.
    fn rids(&self, span: &CollectedSpan) -> Vec<String> {
        if let Some(rid) = server_rid(span) {
            return vec![rid];
        }
        let linked = |id: &(&[u8], &[u8])| self.0.get(id).copied();
        let links = span.span.links.iter().map(|link| (&link.trace_id[..], &link.span_id[..]));
        let calls = self.parent(span).into_iter().chain(links.filter_map(|id| linked(&id)));
        calls.filter_map(|call| planted(call).or_else(|| server_rid(self.server(call)?))).collect()
    }

    /// The nearest server or consumer span above.
    fn server(&self, span: &CollectedSpan) -> Option<&'a CollectedSpan> {
        let mut at = self.parent(span)?;
        // No more steps than there are spans, should the parents form a ring.
        for _ in 0..self.0.len() {
            if matches!(at.span.kind(), SpanKind::Server | SpanKind::Consumer) {
                return Some(at);
            }
            at = self.parent(at)?;
        }
        None
    }
}

#[cfg(test)]
mod tests;
