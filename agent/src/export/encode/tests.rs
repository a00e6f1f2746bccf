use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::export::tests::{resource, span};

#[test]
fn spans_are_grouped_by_resource_in_order_of_arrival() {
    let (web, scorer) = (resource("web"), resource("scorer"));
    // The last one's resource is equal to the first one's, and another allocation.
    let resources = [&web, &scorer, &web, &resource("web")];
    let spans = resources
        .iter()
        .zip(1..)
        .map(|(resource, id)| Span { resource: Arc::clone(resource), ..span(id) })
        .collect();
    let request = request(spans);
    let ids: Vec<Vec<u8>> = request
        .resource_spans
        .iter()
        .map(|group| group.scope_spans[0].spans.iter().map(|span| span.span_id[7]).collect())
        .collect();
    assert_eq!(ids, [vec![1, 3, 4], vec![2]]);
    let scope = request.resource_spans[0].scope_spans[0].scope.as_ref().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("adder", env!("CARGO_PKG_VERSION")));
}

#[test]
fn flags_say_sampled_and_whether_the_parent_is_remote() {
    let flags = |parent_span_id, parent_is_remote| {
        otlp_span(Span { parent_span_id, parent_is_remote, ..span(1) }).flags
    };
    assert_eq!(flags(None, false), 0x101);
    assert_eq!(flags(Some([2; 8]), false), 0x101);
    assert_eq!(flags(Some([2; 8]), true), 0x301);
}

#[test]
fn every_field_has_its_place() {
    let full = Span {
        parent_span_id: Some([9; 8]),
        trace_state: "a=b".to_owned(),
        kind: Kind::Producer,
        attributes: vec![
            Attribute::new("a.text", "t"),
            Attribute::new("a.number", 7),
            Attribute::new("a.truth", true),
            Attribute { key: "a.texts".into(), value: Value::Strs(vec!["x".to_owned(), "y".to_owned()]) },
        ],
        events: vec![SpanEvent { time: 5, name: "exception".into(), attributes: vec![] }],
        links: vec![Link { trace_id: [3; 16], span_id: [4; 8] }],
        status: Status::Error("broken".to_owned()),
        ..span(1)
    };
    let encoded = otlp_span(full.clone());
    assert_eq!(encoded.trace_id, [1; 16]);
    assert_eq!(encoded.parent_span_id, [9; 8]);
    assert_eq!(encoded.trace_state, "a=b");
    assert_eq!(encoded.kind, span::SpanKind::Producer as i32);
    assert_eq!((encoded.start_time_unix_nano, encoded.end_time_unix_nano), (full.start, full.end));
    let values: Vec<_> = encoded
        .attributes
        .iter()
        .map(|pair| pair.value.clone().and_then(|value| value.value).unwrap())
        .collect();
    let text = |text: &str| any_value::Value::StringValue(text.to_owned());
    assert_eq!(values[..3], [text("t"), any_value::Value::IntValue(7), any_value::Value::BoolValue(true)]);
    let any_value::Value::ArrayValue(array) = &values[3] else { panic!("not a list") };
    assert_eq!(array.values[1].value, Some(text("y")));
    assert_eq!((encoded.events[0].time_unix_nano, encoded.events[0].name.as_str()), (5, "exception"));
    assert_eq!(encoded.links[0].span_id, [4; 8]);
    let status = encoded.status.unwrap();
    assert_eq!((status.code, status.message.as_str()), (StatusCode::Error as i32, "broken"));
}

#[test]
fn a_span_without_a_parent_has_an_empty_parent_id() {
    assert!(otlp_span(span(1)).parent_span_id.is_empty());
    assert_eq!(otlp_span(span(1)).status, None);
}

proptest! {
    #[test]
    fn the_approximate_size_is_never_below_the_encoded_length(
        name in ".{0,60}",
        texts in prop::collection::vec((".{0,20}", prop::collection::vec(".{0,300}", 0..4)), 0..6),
        number in any::<i64>(),
        links in 0_usize..4,
    ) {
        let mut attributes: Vec<Attribute> = texts
            .into_iter()
            .map(|(key, values)| Attribute { key: key.into(), value: Value::Strs(values) })
            .collect();
        attributes.push(Attribute::new("a.number", number));
        let event = SpanEvent { time: u64::MAX, name: name.clone().into(), attributes: attributes.clone() };
        let span = Span {
            name: name.clone(),
            status: Status::Error(name),
            parent_span_id: Some([1; 8]),
            attributes,
            events: vec![event.clone(), event],
            links: vec![Link { trace_id: [3; 16], span_id: [4; 8] }; links],
            ..span(1)
        };
        let size = approximate_size(&span);
        prop_assert!(otlp_span(span).encoded_len() <= size);
    }
}
