use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Span,
};

use super::*;

fn span(id: u8, parent: u8, kind: SpanKind, attributes: &[(&str, &str)]) -> CollectedSpan {
    let attribute = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_string(),
        value: Some(AnyValue { value: Some(Value::StringValue((*value).to_string())) }),
        ..KeyValue::default()
    };
    CollectedSpan {
        resource: BTreeMap::from([("service.name".to_string(), "games-api".to_string())]).into(),
        scope: "adder".to_string(),
        span: Span {
            trace_id: vec![7; 16],
            span_id: vec![id; 8],
            parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
            kind: kind as i32,
            attributes: attributes.iter().map(attribute).collect(),
            ..Span::default()
        },
    }
}

fn sql(id: u8, parent: u8, text: &str) -> CollectedSpan {
    span(id, parent, SpanKind::Client, &[("db.system.name", "postgresql"), ("db.query.text", text)])
}

#[test]
fn an_id_is_found_in_comments_keys_and_urls() {
    assert_eq!(find_rid("SELECT 1 /* rid=r1x2 */"), Some("r1x2"));
    assert_eq!(find_rid("GET rid:abc:game:1"), Some("abc"));
    assert_eq!(find_rid("http://127.0.0.1:1/echo?plain=1&rid=abc"), Some("abc"));
    assert_eq!(find_rid("SELECT grid=1, rid, rid= FROM rid"), None);
    assert_eq!(find_rid("rid=&rid=b"), Some("b"));
}

#[test]
fn right_wrong_orphan_and_unmarked_spans_are_told_apart() {
    let spans = [
        span(1, 0, SpanKind::Server, &[("url.query", "rid=a")]),
        span(2, 1, SpanKind::Internal, &[]),
        sql(3, 2, "SELECT 1 /* rid=a */"),
        sql(4, 1, "SELECT 1 /* rid=b */"),
        sql(5, 0, "SELECT 1 /* rid=c */"),
        sql(6, 99, "SELECT 1 /* rid=c */"),
        sql(7, 1, "BEGIN"),
        span(8, 1, SpanKind::Client, &[("url.full", "http://x/echo?rid=a")]),
        span(9, 8, SpanKind::Server, &[("url.query", "rid=a")]),
    ];
    let verdict = judge(&spans);
    assert_eq!((verdict.right, verdict.wrong, verdict.orphan, verdict.unmarked), (2, 1, 2, 1));
    assert_eq!((verdict.servers, verdict.linked, verdict.lost_parent, verdict.repeated), (2, 1, 1, 1));
    assert_eq!(verdict.bad.len(), 3);
    let found = Counts { sql: 2, redis: 0, http: 1, publish: 0 };
    assert_eq!(verdict.found[&("games-api".to_string(), "a".to_string())], found);
}

#[test]
fn a_service_that_did_more_than_the_spans_show_differs() {
    let spans = [span(1, 0, SpanKind::Server, &[("url.query", "rid=a")]), sql(2, 1, "SELECT 1 /* rid=a */")];
    let verdict = judge(&spans);
    let told = |rid: &str, sql| BTreeMap::from([(rid.to_string(), Counts { sql, ..Counts::default() })]);
    assert!(verdict.differences("games-api", &told("a", 1)).is_empty());
    assert_eq!(verdict.differences("games-api", &told("a", 2)).len(), 1);
    assert_eq!(verdict.differences("games-api", &told("b", 1)), ["b: no server span"]);
}

#[test]
fn parents_in_a_ring_end() {
    let verdict = judge(&[sql(1, 2, "SELECT 1 /* rid=a */"), sql(2, 1, "SELECT 1 /* rid=a */")]);
    assert_eq!(verdict.orphan, 2);
}
