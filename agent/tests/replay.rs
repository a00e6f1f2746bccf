//! Recordings of real runs give the same spans again, to the byte, without root and without BPF; and the spans are
//! right: every id planted in a statement or key is that of the request above it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use adder::{
    export::encode,
    record::replay,
    signal::{Kind, Span, Value},
};
use prost::Message as _;

/// Operations that each recording holds at least.
const OPERATIONS: usize = 300;

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings");
    let files = fs::read_dir(folder).expect("recordings").map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "rec")).collect();
    files.sort();
    assert!(files.len() >= 5, "a recording of each kind");
    files
}

fn spans(file: &Path) -> Vec<Span> {
    let mut spans = Vec::new();
    replay(file, |engine| spans.append(&mut engine.spans())).expect("a recording");
    spans
}

/// The id in an attribute: `rid=…` in a query or a comment, `rid:…:` in a key.
fn rid(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?;
    let Value::Str(text) = &value.value else { return None };
    let start = text.find("rid=").or_else(|| text.find("rid:"))? + "rid=".len();
    let rid: String = text[start..].chars().take_while(char::is_ascii_alphanumeric).collect();
    Some(rid).filter(|rid| !rid.is_empty())
}

/// The ids of requests by the span that handles them or a message of theirs. A message without an id of its own is of the
/// requests that sent it: of its parent's, or (a batch) of those that it is linked to.
fn ids(spans: &[Span]) -> HashMap<[u8; 8], Vec<String>> {
    const ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";
    let by_id: HashMap<[u8; 8], &Span> = spans.iter().map(|span| (span.span_id, span)).collect();
    let own = |span: &Span| rid(span, "url.query").or_else(|| rid(span, ROUTING_KEY));
    // Up from the call that sent a message to whatever handles the request or message that it was for.
    let sender = |start: [u8; 8]| {
        let mut at = by_id.get(&start).copied();
        while let Some(span) = at {
            if let Some(rid) = own(span).or_else(|| rid(span, "db.query.text")) {
                return Some(rid);
            }
            at = by_id.get(&span.parent_span_id?).copied();
        }
        None
    };
    let handlers = spans.iter().filter(|span| matches!(span.kind, Kind::Server | Kind::Consumer));
    let with_ids = handlers.filter_map(|span| {
        let senders = || span.parent_span_id.into_iter().chain(span.links.iter().map(|link| link.span_id));
        let ids: Vec<String> =
            own(span).map_or_else(|| senders().filter_map(sender).collect(), |own| vec![own]);
        (!ids.is_empty()).then_some((span.span_id, ids))
    });
    with_ids.collect()
}

#[test]
fn the_same_facts_give_the_same_bytes() {
    for file in recordings() {
        let once = encode::request(spans(&file)).encode_to_vec();
        let twice = encode::request(spans(&file)).encode_to_vec();
        assert!(!once.is_empty() && once == twice, "{}", file.display());
    }
}

#[test]
fn no_operation_of_a_recording_is_under_a_wrong_request() {
    for file in recordings() {
        let spans = spans(&file);
        let servers = ids(&spans);
        let (mut right, mut unknown) = (0, 0);
        for span in spans.iter().filter(|span| span.kind == Kind::Client) {
            let Some(planted) = rid(span, "db.query.text") else { continue };
            match span.parent_span_id.and_then(|parent| servers.get(&parent)) {
                Some(above) => {
                    assert!(above.contains(&planted), "{}: {:?}", file.display(), span.name);
                    right += 1;
                }
                None => unknown += 1,
            }
        }
        println!("{}: {right} right, {unknown} whose request is not in the recording", file.display());
        assert!(right >= OPERATIONS, "{}: {right} operations under their request", file.display());
    }
}
