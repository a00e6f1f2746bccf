use super::*;
use crate::signal::Value;

fn attribute<'a>(parsed: &'a Parsed, key: &str) -> Option<&'a Value> {
    parsed.attributes.iter().find(|attribute| attribute.key == key).map(|attribute| &attribute.value)
}

#[test]
fn python_json_logger() {
    let parsed = parse(
        r#"{"asctime": "2025-01-02 03:04:05,678", "levelname": "ERROR", "name": "app.games", "message": "failed",
            "lineno": 12, "funcName": "create", "game": {"id": 5}, "exc_info": "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nValueError: no"}"#,
    )
    .expect("an object");
    assert_eq!(parsed.severity, Some((Severity::ERROR, "ERROR".to_owned())));
    assert_eq!((parsed.logger.as_deref(), parsed.body.as_str()), (Some("app.games"), "failed"));
    assert_eq!(attribute(&parsed, "code.line.number"), Some(&Value::Int(12)));
    assert_eq!(attribute(&parsed, "code.function.name"), Some(&Value::from("create".to_owned())));
    assert_eq!(attribute(&parsed, "game"), Some(&Value::from(r#"{"id":5}"#.to_owned())));
    assert_eq!(parsed.exception.map(|exception| exception.kind), Some("ValueError".to_owned()));
}

#[test]
fn structlog_with_ids() {
    let parsed = parse(
        r#"{"event": "saved", "level": "info", "user": 5, "ok": true, "none": null, "ratio": 0.5,
            "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}"#,
    )
    .expect("an object");
    assert_eq!((parsed.body.as_str(), attribute(&parsed, "user")), ("saved", Some(&Value::Int(5))));
    assert_eq!(attribute(&parsed, "ok"), Some(&Value::Bool(true)));
    assert_eq!(
        (attribute(&parsed, "none"), attribute(&parsed, "ratio")),
        (None, Some(&Value::from("0.5".to_owned())))
    );
    assert_eq!(parsed.ids.map(|(trace, span)| (trace[0], span[0])), Some((0x0a, 0xb7)));
}

#[test]
fn loguru_serialized() {
    let parsed = parse(
        r#"{"text": "...\n", "record": {"level": {"name": "WARNING", "no": 30}, "name": "app", "message": "slow",
            "function": "run", "line": 3, "file": {"path": "/app/a.py"}, "extra": {"shard": 1}}}"#,
    )
    .expect("an object");
    assert_eq!(parsed.severity, Some((Severity::WARN, "WARNING".to_owned())));
    assert_eq!((parsed.logger.as_deref(), parsed.body.as_str()), (Some("app"), "slow"));
    assert_eq!(attribute(&parsed, "code.file.path"), Some(&Value::from("/app/a.py".to_owned())));
    assert_eq!(attribute(&parsed, "shard"), Some(&Value::Int(1)));
}

#[test]
fn levels_are_words_or_numbers() {
    for (level, expected) in
        [("\"debug\"", Some(5)), ("30", Some(13)), ("50", Some(21)), ("\"odd\"", None), ("[]", None)]
    {
        let parsed = parse(&format!("{{\"level\": {level}, \"msg\": \"x\"}}")).expect("an object");
        assert_eq!(parsed.severity.map(|(severity, _)| severity.0), expected, "{level}");
    }
}

#[test]
fn what_is_no_object_is_text() {
    for text in ["", "{", "{not json}", "[1]", "{\"a\": 1} and more", "{{}}"] {
        assert!(parse(text).is_none(), "{text}");
    }
}

#[test]
fn attributes_are_bounded() {
    let object: Map<String, Json> =
        (0..1000).map(|number| (format!("key{number}"), Json::from(number))).collect();
    let parsed = parse(&Json::Object(object).to_string()).expect("an object");
    assert_eq!(parsed.attributes.len(), ATTRIBUTES_MAX);
}
