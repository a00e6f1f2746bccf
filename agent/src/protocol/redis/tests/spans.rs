//! What batches are called.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::signal::{Address, Description, Status};

fn endpoints() -> Endpoints {
    Endpoints::plain(
        Address::Inet(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 40_000))),
        Address::Inet(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), 6379))),
    )
}

fn described(ops: &[Op], mode: TextMode) -> Description {
    describe(&batches(&play(ops))[0], Role::Client, &endpoints(), mode)
}

fn text(lines: &[&str], mode: TextMode) -> Option<String> {
    let replies = ":1\r\n".repeat(lines.len());
    match value(&described(&[sent(commands(lines)), got(replies)], mode).attributes, "db.query.text") {
        Some(Value::Str(text)) => Some(text.to_string()),
        _ => None,
    }
}

#[test]
fn a_command_has_the_attributes_of_a_database_call() {
    let description = described(&[sent(command("SET k v EX 10")), got("+OK\r\n")], TextMode::Sanitized);
    assert_eq!(description.name, "SET");
    assert_eq!(description.status, Status::Unset);
    assert_eq!(
        description.attributes,
        [
            Attribute::new("db.system.name", "redis"),
            Attribute::new("db.operation.name", "SET".to_owned()),
            Attribute::new("server.port", 6379),
            Attribute::new("db.query.text", "SET ? ? ? ?".to_owned()),
            Attribute::new("network.peer.address", "10.0.0.2".to_owned()),
            Attribute::new("network.peer.port", 6379),
            Attribute::new("server.address", "10.0.0.2".to_owned()),
        ]
    );
}

#[test]
fn a_database_is_named_where_the_beginning_or_a_select_was_seen() {
    let namespaces = |from_start, script: &[_]| {
        let events = play_on(Redis::new(from_start), script);
        let batches = batches(&events);
        batches.iter().map(|batch| batch.database).collect::<Vec<_>>()
    };
    let script = [sent(command("GET k")), got("$-1\r\n"), sent(command("SELECT 5")), got("+OK\r\n")];
    assert_eq!(namespaces(true, &script), [Some(0), Some(5)]);
    assert_eq!(namespaces(false, &script), [None, Some(5)]);
}

#[test]
fn an_error_is_told_by_its_prefix() {
    let description =
        described(&[sent(command("INCR k")), got("-WRONGTYPE Operation against k\r\n")], TextMode::Raw);
    assert_eq!(value(&description.attributes, "db.response.status_code"), Some(&"WRONGTYPE".into()));
    assert_eq!(value(&description.attributes, "error.type"), Some(&"WRONGTYPE".into()));
    assert_eq!(description.status, Status::Error(String::new()));
    let description = described(&[sent(command("EVAL x 0")), got("-my own words\r\n")], TextMode::Raw);
    assert_eq!(value(&description.attributes, "error.type"), Some(&"ERR".into()));
}

#[test]
fn a_cut_command_has_failed() {
    let description = described(&[sent(command("GET k")), Op::Close], TextMode::Off);
    assert_eq!(value(&description.attributes, "error.type"), Some(&"_OTHER".into()));
    assert!(matches!(description.status, Status::Error(text) if !text.is_empty()));
    let description = described(&[sent(command("SHUTDOWN")), Op::Close], TextMode::Off);
    assert_eq!(description.status, Status::Unset);
}

#[test]
fn pipelines_are_named_for_what_their_commands_have_in_common() {
    let name = |lines: &[&str]| {
        let description =
            described(&[sent(commands(lines)), got(":1\r\n".repeat(lines.len()))], TextMode::Off);
        let size = match value(&description.attributes, "db.operation.batch.size") {
            Some(Value::Int(size)) => Some(*size),
            _ => None,
        };
        (description.name, size)
    };
    assert_eq!(name(&["GET a", "GET b"]), ("PIPELINE GET".to_owned(), Some(2)));
    assert_eq!(name(&["GET a", "SET b 1"]), ("PIPELINE".to_owned(), Some(2)));
    assert_eq!(name(&["MULTI", "SET a 1", "SET b 1", "EXEC"]), ("MULTI SET".to_owned(), Some(2)));
    assert_eq!(name(&["MULTI", "SET a 1", "GET b", "EXEC"]), ("MULTI".to_owned(), Some(2)));
    assert_eq!(name(&["MULTI", "SET a 1", "EXEC"]), ("MULTI SET".to_owned(), None));
    assert_eq!(name(&["MULTI", "SET a 1"]), ("PIPELINE".to_owned(), Some(2)));
}

#[test]
fn texts_hide_arguments_unless_asked_for() {
    assert_eq!(text(&["client setname me"], TextMode::Sanitized).as_deref(), Some("CLIENT SETNAME ?"));
    assert_eq!(text(&["SET k v"], TextMode::Raw).as_deref(), Some("SET k v"));
    assert_eq!(text(&["SET k v"], TextMode::Off), None);
    assert_eq!(text(&["SET k v", "SET l w"], TextMode::Sanitized).as_deref(), Some("SET ? ?"));
    assert_eq!(
        text(&["SET k v", "SET k v", "GET k"], TextMode::Raw).as_deref(),
        Some("SET k v; SET k v; GET k")
    );
    assert_eq!(text(&["AUTH me secret"], TextMode::Raw).as_deref(), Some("AUTH ? ?"));
    assert_eq!(text(&["HELLO 3 AUTH me secret"], TextMode::Raw).as_deref(), Some("HELLO 3 ? ? ?"));
}

#[test]
fn raw_texts_are_quoted_and_bounded() {
    let raw = |value: &[u8]| {
        let mut bytes = format!("*2\r\n$3\r\nGET\r\n${}\r\n", value.len()).into_bytes();
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
        match value_of(&described(&[sent(bytes), got("_\r\n")], TextMode::Raw)) {
            Some(text) => text,
            None => panic!("no text"),
        }
    };
    assert_eq!(raw(b"a b"), "GET \"a b\"");
    assert_eq!(raw(b""), "GET \"\"");
    assert_eq!(raw("\u{e9}\"\\\r\n".as_bytes()), "GET \"\u{e9}\\\"\\\\\\r\\n\"");
    assert_eq!(raw(b"\x00\xff"), "GET \"\\x00\\xff\"");
    assert_eq!(raw(&[b'a'; 200]), format!("GET {}...", "a".repeat(128)));
    let line = format!("MSET {}", vec!["x".repeat(120); 60].join(" "));
    let long = text(&[&line, &line, "GET a"], TextMode::Raw).expect("a text");
    assert!(long.len() <= 2048 + 3 && long.ends_with("..."), "{}", long.len());
    let many = text(&[&line], TextMode::Sanitized).expect("a text");
    assert_eq!(many, format!("MSET{} ...", " ?".repeat(32)));
}

fn value_of(description: &Description) -> Option<String> {
    match value(&description.attributes, "db.query.text") {
        Some(Value::Str(text)) => Some(text.to_string()),
        _ => None,
    }
}

#[test]
fn scripts_are_named() {
    let description = described(&[sent(command("FCALL my_function 0")), got(":1\r\n")], TextMode::Sanitized);
    assert_eq!(
        value(&description.attributes, "db.stored_procedure.name"),
        Some(&"my_function".to_owned().into())
    );
}

#[test]
fn unix_sockets_are_told_by_their_path() {
    let batch = batches(&play(&[sent(command("PING")), got("+PONG\r\n")])).remove(0);
    let remote = Address::Unix("/run/redis.sock".to_owned());
    let endpoints = Endpoints::plain(Address::Unix(String::new()), remote);
    let description = describe(&batch, Role::Client, &endpoints, TextMode::Off);
    assert_eq!(
        value(&description.attributes, "network.peer.address"),
        Some(&"/run/redis.sock".to_owned().into())
    );
    assert_eq!(value(&description.attributes, "server.address"), Some(&"/run/redis.sock".to_owned().into()));
    assert_eq!(value(&description.attributes, "server.port"), None);
}

#[test]
fn messages_and_elements_are_described_as_the_work_that_they_start() {
    let events = play(&[got(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")]);
    let Some(Event::Push { detail: Detail::Redis(batch), .. }) = events.first() else { panic!("{events:?}") };
    let description = describe(batch, Role::Client, &endpoints(), TextMode::Sanitized);
    assert_eq!(description.name, "process news");
    assert_eq!(value(&description.attributes, "messaging.message.body.size"), Some(&2.into()));
    let popped = play(&[sent(command("BLPOP jobs 0")), got("*2\r\n$4\r\njobs\r\n$1\r\nx\r\n")]);
    let batch = &batches(&popped)[0];
    assert_eq!(describe(batch, Role::Server, &endpoints(), TextMode::Off).name, "process jobs");
    assert_eq!(describe(batch, Role::Client, &endpoints(), TextMode::Off).name, "BLPOP");
}
