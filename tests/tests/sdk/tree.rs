//! Spans as trees, and the differences between two trees of the same request.

use std::collections::{BTreeMap, HashMap, HashSet};

use adder_tests::{collector::CollectedSpan, judge::find_rid, stack::Stack};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};

/// A span with what is below it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// `service.name`.
    pub(crate) service: String,
    /// Last part of the scope's name: `adder`, or the library that the SDK instruments.
    pub(crate) scope: String,
    /// Kind.
    pub(crate) kind: SpanKind,
    /// Name.
    pub(crate) name: String,
    /// Description of the status, where that is an error.
    pub(crate) error: Option<String>,
    /// Attributes, free of what differs from run to run.
    pub(crate) attributes: BTreeMap<String, String>,
    /// Names of the span's events.
    pub(crate) events: Vec<String>,
    /// Of a root span: trace and parent that came from outside, where they did.
    pub(crate) remote: Option<(Vec<u8>, Vec<u8>)>,
    /// Start, for the order of siblings.
    start: u64,
    /// Spans below, in the order of their start.
    pub(crate) children: Vec<Node>,
}

/// The spans of one run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// The root span of each request, by the request's number.
    pub(crate) requests: BTreeMap<usize, Vec<Node>>,
    /// Trees that do not begin with a request to `games-api`.
    pub(crate) strays: Vec<Node>,
}

/// A difference between Adder and the SDK in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference<'a> {
    /// Method and path of the request, without the query.
    pub(crate) request: &'a str,
    /// What differs.
    pub(crate) what: What<'a>,
    /// Adder's span.
    pub(crate) adder: Option<&'a Node>,
    /// The SDK's span.
    pub(crate) sdk: Option<&'a Node>,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What<'a> {
    /// Only one of the two has the span.
    Span,
    /// The span is below the request at one of the two, a root at the other.
    Parent,
    /// Another name.
    Name,
    /// Another status.
    Status,
    /// Only one of the two has this event.
    Event(&'a str),
    /// Another value, or no value at one of the two.
    Attribute(&'a str),
}

impl Node {
    /// An attribute.
    pub(crate) fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }

    /// What the operation was, in words that both sides use: what pairs are made by.
    fn key(&self) -> String {
        let Self { service, kind, .. } = self;
        let part = |key| self.attribute(key).unwrap_or_default();
        if let Some(system) = self.attribute("db.system.name") {
            return format!("{service} {system} {}", without_parameters(part("db.query.text")));
        }
        let url = ["url.full", "url.path", "url.query"].map(part).join(" ");
        format!("{service} {kind:?} {} {url}", part("http.request.method"))
    }

    /// Spans of the tree.
    pub(crate) fn size(&self) -> usize {
        1 + self.children.iter().map(Self::size).sum::<usize>()
    }

    /// Takes out the spans below that `is_extra` names; what is below them moves up.
    pub(crate) fn strip(&mut self, is_extra: &mut impl FnMut(&Self) -> bool) {
        let mut kept = Vec::with_capacity(self.children.len());
        for mut child in self.children.drain(..) {
            child.strip(is_extra);
            if is_extra(&child) {
                kept.append(&mut child.children);
            } else {
                kept.push(child);
            }
        }
        kept.sort_by_key(|child| child.start);
        self.children = kept;
    }
}

impl Run {
    /// Orders spans. The ports of this run's servers are replaced by names.
    pub(crate) fn new(spans: &[CollectedSpan], ports: &[(u16, &str)]) -> Self {
        let known: HashSet<_> = spans.iter().map(|span| (&span.span.trace_id, &span.span.span_id)).collect();
        let mut below: HashMap<_, Vec<&CollectedSpan>> = HashMap::new();
        let mut roots = Vec::new();
        for span in spans {
            let parent = (&span.span.trace_id, &span.span.parent_span_id);
            if known.contains(&parent) {
                below.entry(parent).or_default().push(span);
            } else {
                roots.push(span);
            }
        }
        let mut run = Self::default();
        for root in roots {
            let mut node = node(root, &below, ports);
            let parent = (root.span.trace_id.clone(), root.span.parent_span_id.clone());
            node.remote = Some(parent).filter(|(_, span)| !span.is_empty());
            let number = root.attribute("url.query").as_deref().and_then(find_rid).and_then(number);
            match number {
                Some(number) if node.service == "games-api" => {
                    run.requests.entry(number).or_default().push(node);
                }
                // The rig's own requests have no id.
                None if node.kind == SpanKind::Server => {}
                _ => run.strays.push(node),
            }
        }
        run
    }
}

/// Names for the ports of a stack.
pub(crate) fn ports(stack: &Stack) -> [(u16, &'static str); 4] {
    [
        (stack.games.port(), "GAMES"),
        (stack.players.port(), "PLAYERS"),
        (stack.postgres.port(), "POSTGRES"),
        (stack.redis.port(), "REDIS"),
    ]
}

/// The number of a request from its id.
fn number(rid: &str) -> Option<usize> {
    rid.strip_prefix('r')?.parse().ok()
}

fn node(
    span: &CollectedSpan,
    below: &HashMap<(&Vec<u8>, &Vec<u8>), Vec<&CollectedSpan>>,
    ports: &[(u16, &str)],
) -> Node {
    let own = &span.span;
    let children = below.get(&(&own.trace_id, &own.span_id)).into_iter().flatten();
    let mut children: Vec<_> = children.map(|child| node(child, below, ports)).collect();
    children.sort_by_key(|child| child.start);
    let kind = own.kind();
    let attributes = own.attributes.iter().map(|attribute| {
        let key = attribute.key.clone();
        let mut value = span.attribute(&key).unwrap_or_default();
        for (port, name) in ports {
            value = value.replace(&port.to_string(), name);
        }
        // The client's own port is another in each run.
        if kind == SpanKind::Server && matches!(key.as_str(), "client.port" | "network.peer.port") {
            value = String::from("CLIENT");
        }
        (key, value)
    });
    let status = own.status.clone().unwrap_or_default();
    Node {
        service: span.service().to_owned(),
        scope: span.scope.rsplit('.').next().unwrap_or_default().to_owned(),
        kind,
        name: own.name.clone(),
        error: (status.code() == StatusCode::Error).then_some(status.message),
        attributes: attributes.collect(),
        events: own.events.iter().map(|event| event.name.clone()).collect(),
        remote: None,
        start: own.start_time_unix_nano,
        children,
    }
}

/// A statement with one sign for all parameters and literal numbers, and one separator for all pipelines.
pub(crate) fn without_parameters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let inside_word = out.ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_');
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let parameter = match first {
            '$' => 1 + digits(&rest[1..]),
            '%' if rest.starts_with("%s") => 2,
            '0'..='9' if !inside_word => digits(rest),
            _ => 0,
        };
        if parameter > 1 || (parameter == 1 && first != '$') {
            out.push('?');
            rest = &rest[parameter..];
        } else if let Some(after) = rest.strip_prefix("; ").or_else(|| rest.strip_prefix('\n')) {
            out.push('\n');
            rest = after;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Tells of every difference between two trees of the request `request`. Spans that only Adder shows are given to
/// `strays` first: it may take them for spans that the SDK shows elsewhere.
pub(crate) fn compare(
    request: &str,
    adder: &Node,
    sdk: &Node,
    strays: &mut Vec<Node>,
    tell: &mut impl FnMut(Difference<'_>),
) {
    compare_span(request, adder, sdk, tell);
    let mut waiting: HashMap<String, Vec<&Node>> = HashMap::new();
    for child in sdk.children.iter().rev() {
        waiting.entry(child.key()).or_default().push(child);
    }
    for child in &adder.children {
        let key = child.key();
        if let Some(other) = waiting.get_mut(&key).and_then(Vec::pop) {
            compare(request, child, other, strays, tell);
        } else if let Some(place) = strays.iter().position(|stray| stray.key() == key) {
            let other = strays.remove(place);
            tell(Difference { request, what: What::Parent, adder: Some(child), sdk: Some(&other) });
            compare(request, child, &other, strays, tell);
        } else {
            tell(Difference { request, what: What::Span, adder: Some(child), sdk: None });
        }
    }
    for child in waiting.values().flatten() {
        tell(Difference { request, what: What::Span, adder: None, sdk: Some(child) });
    }
}

fn compare_span(request: &str, adder: &Node, sdk: &Node, tell: &mut impl FnMut(Difference<'_>)) {
    let mut differ = |what: What<'_>| tell(Difference { request, what, adder: Some(adder), sdk: Some(sdk) });
    if adder.remote != sdk.remote {
        differ(What::Parent);
    }
    if adder.name != sdk.name || adder.kind != sdk.kind {
        differ(What::Name);
    }
    if adder.error != sdk.error {
        differ(What::Status);
    }
    for event in adder.events.iter().chain(&sdk.events) {
        if !(adder.events.contains(event) && sdk.events.contains(event)) {
            differ(What::Event(event));
        }
    }
    for key in adder.attributes.keys() {
        if adder.attribute(key) != sdk.attribute(key) {
            differ(What::Attribute(key));
        }
    }
    for key in sdk.attributes.keys().filter(|key| !adder.attributes.contains_key(*key)) {
        differ(What::Attribute(key));
    }
}
