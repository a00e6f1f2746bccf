use super::*;
use crate::signal::{Severity, Value};

/// Severity, logger and message of a line.
fn read(line: &str) -> (u8, String, String) {
    let parsed = parse(line);
    let severity = parsed.severity.map_or(0, |(severity, _)| severity.0);
    (severity, parsed.logger.unwrap_or_default(), parsed.body)
}

#[test]
fn the_usual_formats_are_known() {
    let cases = [
        ("INFO:app.games:created 5", 9, "app.games", "created 5"),
        ("WARNING:root:", 13, "root", ""),
        (
            "INFO:     127.0.0.1:4 - \"GET / HTTP/1.1\" 200 OK",
            9,
            "",
            "127.0.0.1:4 - \"GET / HTTP/1.1\" 200 OK",
        ),
        ("\x1b[32mINFO\x1b[0m:     Started", 9, "", "Started"),
        ("[2025-01-02 03:04:05,678: ERROR/ForkPoolWorker-1] Task failed", 17, "", "Task failed"),
        ("[2025-01-02 03:04:05] [INFO    ] discord.client: logging in", 9, "discord.client", "logging in"),
        ("[2025-01-02 03:04:05 +0000] [17] [CRITICAL] WORKER TIMEOUT", 21, "", "WORKER TIMEOUT"),
        (
            "2025-01-02T03:04:05.1Z [warning  ] slow                 user=5",
            13,
            "",
            "slow                 user=5",
        ),
        ("2025-01-02 03:04:05,678 - app - DEBUG - a - b", 5, "app", "a - b"),
        ("2025-01-02 03:04:05,678 - ERROR - broken", 17, "", "broken"),
        ("2025-01-02 03:04:05.678 | SUCCESS  | app.main:run:12 - done", 10, "app.main", "done"),
        ("2025-01-02 03:04:05,678 INFO app: ready", 9, "app", "ready"),
        ("2025-01-02 03:04:05,678 INFO [app.db] - ready", 9, "app.db", "ready"),
        ("2025-01-02 03:04:05,678 app INFO ready", 9, "app", "ready"),
        ("2025-01-02 03:04:05,678 INFO ready: go", 9, "ready", "go"),
        ("[ERROR] no database", 17, "", "no database"),
        ("just a line: with a colon", 0, "", "just a line: with a colon"),
        ("info the thing", 0, "", "info the thing"),
        ("Information: INFO", 0, "", "Information: INFO"),
        ("", 0, "", ""),
    ];
    for (line, severity, logger, body) in cases {
        assert_eq!(read(line), (severity, logger.to_owned(), body.to_owned()), "{line}");
    }
}

#[test]
fn the_code_of_a_loguru_line_is_an_attribute() {
    let parsed = parse("2025-01-02 03:04:05.678 | INFO     | app.main:run:12 - done");
    assert_eq!(parsed.severity, Some((Severity::INFO, "INFO".to_owned())));
    let values: Vec<_> = parsed.attributes.iter().map(|attribute| attribute.value.clone()).collect();
    assert_eq!(values, [Value::from("run".to_owned()), Value::from(12)]);
}

#[test]
fn a_traceback_is_an_exception() {
    let text = "ERROR:app:it failed\nTraceback (most recent call last):\n  File \"a.py\", line 1, in f\n    g()\n    ~^^\n\
                app.errors.NotFound: no game: 5\nof yours";
    let parsed = parse(text);
    let exception = parsed.exception.expect("there is one");
    assert_eq!(parsed.body, "it failed");
    assert_eq!(
        (exception.kind.as_str(), exception.message.as_str()),
        ("app.errors.NotFound", "no game: 5\nof yours")
    );
    assert!(exception.stacktrace.starts_with("Traceback") && exception.stacktrace.ends_with("of yours"));
    // Without a message of its own, what was raised is the message.
    let parsed =
        parse("Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nKeyboardInterrupt");
    assert_eq!(parsed.body, "KeyboardInterrupt");
    assert_eq!(parsed.exception.map(|exception| exception.kind), Some("KeyboardInterrupt".to_owned()));
}

#[test]
fn of_a_chain_the_last_exception_counts() {
    let text = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nKeyError: 'a'\n\n\
                The above exception was the direct cause of the following exception:\n\n\
                Traceback (most recent call last):\n  File \"b.py\", line 2, in g\nRuntimeError: b";
    let exception = exception(text).expect("there is one");
    assert_eq!((exception.kind.as_str(), exception.stacktrace.as_str()), ("RuntimeError", text));
}

#[test]
fn groups_of_exceptions_are_read() {
    let text = "  + Exception Group Traceback (most recent call last):\n  |   File \"a.py\", line 1, in f\n  |     g()\n\
                \x20 | ExceptionGroup: several (2 sub-exceptions)\n  +-+---------------- 1 ----------------\n    | ValueError: a\n";
    let exception = exception(text).expect("there is one");
    assert_eq!(exception.kind, "ExceptionGroup");
}

#[test]
fn what_is_cut_short_is_no_exception() {
    for text in
        ["Traceback (most recent call last):", "Traceback (most recent call last):\n  File \"a.py\"", "x"]
    {
        assert_eq!(exception(text), None, "{text}");
    }
}
