mod detection;
mod flow;
mod gaps;
mod golden;
mod properties;
mod spans;
mod text;

use super::*;
use crate::protocol::{
    Detail,
    recording::{Chunk, recording},
};

fn at(time: usize) -> Mark {
    Mark { time: time as u64, ..Mark::default() }
}

/// Feeds chunks, each marked with its number, and closes.
fn play(chunks: &[Chunk]) -> Vec<Event> {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    for (time, (side, bytes)) in chunks.iter().enumerate() {
        parser.data(*side, bytes, at(time), &mut out);
    }
    parser.close(at(chunks.len()), &mut out);
    out
}

fn statements(events: &[Event]) -> Vec<Statement> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::End { detail: Detail::Postgres(statement), .. }
            | Event::Push { detail: Detail::Postgres(statement), .. } => Some(Statement::clone(statement)),
            _ => None,
        })
        .collect()
}

/// A typed message.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn cat(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn execute(portal: &str, most: u8) -> Vec<u8> {
    let mut body = format!("{portal}\0\0\0\0").into_bytes();
    body.push(most);
    message(b'E', &body)
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn flush() -> Vec<u8> {
    message(b'H', b"")
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

fn parsed() -> Vec<u8> {
    message(b'1', b"")
}

fn bound() -> Vec<u8> {
    message(b'2', b"")
}

fn row(value: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend((value.len() as u32).to_be_bytes());
    body.extend(value);
    message(b'D', &body)
}

fn failure(sqlstate: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{sqlstate}\0Mno\0\0").as_bytes())
}

fn asks(bytes: Vec<u8>) -> Chunk {
    (Side::Request, bytes)
}

fn answers(bytes: Vec<u8>) -> Chunk {
    (Side::Response, bytes)
}

fn texts(statements: &[Statement]) -> Vec<&str> {
    statements.iter().map(|statement| statement.text.as_deref().unwrap_or("?")).collect()
}

fn tags(statements: &[Statement]) -> Vec<&str> {
    statements.iter().map(|statement| statement.tag.as_deref().unwrap_or("-")).collect()
}
