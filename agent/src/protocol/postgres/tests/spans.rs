//! Statements as spans.

use super::*;
use crate::signal::{Address, Description, Endpoints, Role, Status, TextMode, Value};

fn endpoints() -> Endpoints {
    Endpoints::plain(
        Address::Inet("10.0.0.2:40000".parse().unwrap()),
        Address::Inet("10.0.0.9:5432".parse().unwrap()),
    )
}

fn describe_all(chunks: &[Chunk], mode: TextMode) -> Vec<Description> {
    let describe =
        |statement: &Statement| describe(statement, Role::Client, &endpoints(), mode, &mut Texts::default());
    statements(&play(chunks)).iter().map(describe).collect()
}

fn shown(description: &Description) -> Vec<String> {
    description
        .attributes
        .iter()
        .map(|attribute| match &attribute.value {
            Value::Str(text) => format!("{}={text}", attribute.key),
            Value::Int(number) => format!("{}={number}", attribute.key),
            other => format!("{}={other:?}", attribute.key),
        })
        .collect()
}

fn has(description: &Description, attribute: &str) -> bool {
    shown(description).iter().any(|found| found == attribute)
}

#[test]
fn a_query_has_the_attributes_of_the_conventions() {
    let found = describe_all(&recording(include_str!("../testdata/psycopg2.wire")), TextMode::Sanitized);
    assert_eq!(found[1].name, "SELECT games");
    assert_eq!(found[1].status, Status::Unset);
    assert_eq!(
        shown(&found[1]),
        [
            "db.system.name=postgresql",
            "db.namespace=shop",
            "db.query.summary=SELECT games",
            "db.query.text=SELECT id, name FROM games WHERE name = ? AND id IN (?)",
            "db.response.returned_rows=1",
            "server.address=10.0.0.9",
            "server.port=5432",
            "network.peer.address=10.0.0.9",
            "network.peer.port=5432",
        ]
    );
}

#[test]
fn a_batch_says_so_and_an_error_is_its_sqlstate() {
    let found = describe_all(&recording(include_str!("../testdata/asyncpg.wire")), TextMode::Sanitized);
    let batch = found.iter().find(|description| description.name == "BATCH INSERT games").unwrap();
    assert!(has(batch, "db.operation.batch.size=38"));
    assert!(!shown(batch).iter().any(|attribute| attribute.starts_with("db.response.returned_rows")));
    let failed = found.iter().find(|description| has(description, "error.type=23505")).unwrap();
    assert!(has(failed, "db.response.status_code=23505"));
    assert_eq!(failed.status, Status::Error("ERROR 23505".to_owned()));
    let misspelt = found.iter().find(|description| has(description, "error.type=42601")).unwrap();
    assert_eq!(misspelt.name, "shop");
}

#[test]
fn the_text_is_as_the_mode_wants_it() {
    let chunks = recording(include_str!("../testdata/psycopg2.wire"));
    let text = |mode| {
        let found = describe_all(&chunks, mode);
        let statement = found.iter().find(|description| description.name == "select").unwrap().clone();
        shown(&statement).into_iter().find(|attribute| attribute.starts_with("db.query.text="))
    };
    assert_eq!(text(TextMode::Raw).as_deref(), Some("db.query.text=/* app */ select 1 -- tail"));
    assert_eq!(text(TextMode::Sanitized).as_deref(), Some("db.query.text=select ?"));
    assert_eq!(text(TextMode::Off), None);
}

#[test]
fn a_statement_of_unknown_text_is_named_by_its_tag() {
    let found = describe_all(
        &[
            asks(cat(&[bind("", "old"), execute("", 0), sync()])),
            answers(cat(&[bound(), complete("INSERT 0 2"), ready(b'I')])),
        ],
        TextMode::Sanitized,
    );
    assert_eq!(found[0].name, "INSERT");
    assert!(has(&found[0], "adder.db.query.text.unknown=Bool(true)"));
}

#[test]
fn statements_that_never_ran_or_were_cut_are_errors() {
    let found = describe_all(
        &[
            asks(cat(&[
                parse("", "SELECT 1/0"),
                bind("", ""),
                execute("", 0),
                parse("", "SELECT 2"),
                bind("", ""),
                execute("", 0),
                sync(),
            ])),
            answers(cat(&[parsed(), bound(), failure("22012"), ready(b'I')])),
            asks(query("SELECT 3")),
        ],
        TextMode::Sanitized,
    );
    let types: Vec<bool> = ["22012", "not_executed", "connection_closed"]
        .iter()
        .zip(&found)
        .map(|(kind, description)| {
            has(description, &format!("error.type={kind}")) && matches!(description.status, Status::Error(_))
        })
        .collect();
    assert_eq!(types, [true; 3]);
}

#[test]
fn several_statements_of_one_query_are_one_span() {
    let reset = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";
    let answer = ["SELECT 1", "CLOSE CURSOR ALL", "UNLISTEN", "RESET"].map(complete).concat();
    let found =
        describe_all(&[asks(query(reset)), answers(cat(&[answer, ready(b'I')]))], TextMode::Sanitized);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "SELECT CLOSE UNLISTEN RESET");
    assert_eq!(
        shown(&found[0])[..5],
        [
            "db.system.name=postgresql",
            "db.query.summary=SELECT CLOSE UNLISTEN RESET",
            "db.query.text=SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
            "db.response.returned_rows=1",
            "server.address=10.0.0.9",
        ]
    );
    assert!(has(&found[0], "adder.db.query.statements=4"));
}

#[test]
fn operation_and_table_are_in_the_summary_alone() {
    let sql = "UPDATE games SET a = 1;UPDATE games SET a = 2";
    let answer = cat(&[complete("UPDATE 1").repeat(2), ready(b'I')]);
    let found = describe_all(&[asks(query(sql)), answers(answer)], TextMode::Off);
    assert_eq!(found[0].name, "UPDATE games UPDATE games");
    // "SHOULD NOT be extracted from `db.query.text`" (semantic conventions for PostgreSQL).
    let read_from_text = ["db.operation.name", "db.collection.name"];
    assert!(
        !shown(&found[0]).iter().any(|attribute| read_from_text.iter().any(|key| attribute.starts_with(key)))
    );
}

#[test]
fn a_unix_socket_is_an_address_without_port() {
    let path = "/run/postgresql/.s.PGSQL.5432";
    let endpoints = Endpoints::plain(Address::Unix(String::new()), Address::Unix(path.to_owned()));
    let statement = &statements(&play(&[asks(query("SELECT 1"))]))[0];
    let description =
        describe(statement, Role::Client, &endpoints, TextMode::Sanitized, &mut Texts::default());
    assert!(has(&description, &format!("server.address={path}")));
    assert!(has(&description, &format!("network.peer.address={path}")));
    assert!(has(&description, "network.transport=unix"));
    assert!(!shown(&description).iter().any(|attribute| attribute.starts_with("server.port")));
}

#[test]
fn a_notification_has_its_channel_and_a_cancel_its_name() {
    let channel = describe_all(&[answers(message(b'A', b"\0\0\0\x07news\0x\0"))], TextMode::Sanitized);
    assert_eq!(channel[0].name, "process news");
    assert!(has(&channel[0], "messaging.message.body.size=1"));
    let cancel = describe_all(&recording(include_str!("../testdata/cancel.wire")), TextMode::Sanitized);
    assert_eq!(cancel[0].name, "CANCEL");
}
