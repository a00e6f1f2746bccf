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
        let servers = spans.iter().filter(|span| span.kind == Kind::Server);
        let servers: HashMap<[u8; 8], String> =
            servers.filter_map(|span| Some((span.span_id, rid(span, "url.query")?))).collect();
        let (mut right, mut unknown) = (0, 0);
        for span in spans.iter().filter(|span| span.kind == Kind::Client) {
            let Some(planted) = rid(span, "db.query.text") else { continue };
            match span.parent_span_id.and_then(|parent| servers.get(&parent)) {
                Some(above) => {
                    assert_eq!(*above, planted, "{}: {:?}", file.display(), span.name);
                    right += 1;
                }
                None => unknown += 1,
            }
        }
        println!("{}: {right} right, {unknown} whose request is not in the recording", file.display());
        assert!(right >= OPERATIONS, "{}: {right} operations under their request", file.display());
    }
}
