//! Real connections, recorded between the libraries and a `PostgreSQL` 15 server. The expected files were read and
//! compared with what the programs did.

use std::fmt::Write as _;

use super::*;

/// A line per event: exchange, marks (numbers of the recording's lines) and outcome.
fn render(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Begin { exchange, first, at, .. } => {
                writeln!(text, "{exchange} begin {}..{}", first.time, at.time)
            }
            Event::Reply { exchange, at } => writeln!(text, "{exchange} reply {}", at.time),
            Event::End { exchange, at, detail: Detail::Postgres(statement) } => {
                writeln!(text, "{exchange} end {} {}", at.time, outcome(statement))
            }
            Event::Push { at, detail: Detail::Postgres(statement) } => {
                writeln!(text, "push {} {:?}", at.time, statement.kind)
            }
            other => writeln!(text, "{other:?}"),
        }
        .unwrap();
    }
    text
}

fn outcome(statement: &Statement) -> String {
    let Statement {
        kind,
        text,
        truncated,
        name,
        tag,
        rows,
        returns_rows,
        error,
        session,
        ended,
        batch,
        statements,
        transaction,
    } = statement;
    let mut line = format!("{kind:?} {ended:?}");
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            write!(line, " {key}={value}").unwrap();
        }
    };
    put("tag", tag.as_ref().map(|tag| format!("{tag:?}")));
    put("rows", rows.map(|rows| rows.to_string()));
    put("returns", returns_rows.then(|| "yes".to_owned()));
    put("batch", batch.map(|batch| batch.to_string()));
    put("statements", statements.map(|statements| statements.to_string()));
    put("error", error.as_ref().map(|error| format!("{}/{}", error.severity, error.sqlstate)));
    put("in", transaction.map(|status| format!("{status:?}")));
    put("name", name.as_ref().map(ToString::to_string));
    put("truncated", truncated.then(|| "yes".to_owned()));
    put(
        "database",
        session.as_ref().and_then(|session| session.database.clone()).filter(|name| name != "shop"),
    );
    put("text", text.as_ref().map(|text| format!("{text:?}")));
    line
}

fn check(name: &str, wire: &str, expected: &str) {
    let found = render(&play(&recording(wire)));
    if let Some(folder) = std::env::var_os("ADDER_WRITE_EXPECTED") {
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.expected")), &found).unwrap();
        return;
    }
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{name}, line {}", number + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{name}");
}

#[test]
fn asyncpg_is_understood() {
    check("asyncpg", include_str!("../testdata/asyncpg.wire"), include_str!("../testdata/asyncpg.expected"));
}

#[test]
fn psycopg2_is_understood() {
    check(
        "psycopg2",
        include_str!("../testdata/psycopg2.wire"),
        include_str!("../testdata/psycopg2.expected"),
    );
}

#[test]
fn psycopg3_is_understood() {
    check(
        "psycopg3",
        include_str!("../testdata/psycopg3.wire"),
        include_str!("../testdata/psycopg3.expected"),
    );
}

#[test]
fn a_cancel_request_is_understood() {
    check("cancel", include_str!("../testdata/cancel.wire"), include_str!("../testdata/cancel.expected"));
}

#[test]
fn the_session_is_what_startup_and_parameters_say() {
    let statements = statements(&play(&recording(include_str!("../testdata/psycopg2.wire"))));
    let session = statements.first().and_then(|statement| statement.session.clone()).unwrap();
    assert_eq!(session.user.as_deref(), Some("app"));
    assert_eq!(session.database.as_deref(), Some("shop"));
    assert_eq!(session.application_name.as_deref(), Some("shop-api"));
    assert!(session.server_version.as_deref().is_some_and(|version| version.starts_with("15.")));
    assert!(session.backend.is_some_and(|pid| pid > 0));
}

#[test]
fn no_secret_of_the_authentication_is_kept() {
    for wire in [include_str!("../testdata/asyncpg.wire"), include_str!("../testdata/psycopg2.wire")] {
        let mut parser = Postgres::new();
        let mut out = Vec::new();
        for (side, bytes) in recording(wire).iter().take(8) {
            parser.data(*side, bytes, Mark::default(), &mut out);
            let all = format!("{parser:?}{out:?}");
            assert!(!all.contains("biws") && !all.contains("SCRAM"), "{all}");
        }
    }
}
