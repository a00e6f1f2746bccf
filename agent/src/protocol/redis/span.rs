//! A batch in OpenTelemetry's words.
//!
//! Source: <https://opentelemetry.io/docs/specs/semconv/db/redis/>.

use std::fmt::Write as _;

use super::{Argument, Batch, Command, Ended, Kind, MAX_ARGUMENTS};
use crate::signal::{Address, Attribute, Description, Endpoints, Role, Status, TextMode, consumer};

/// Longest `db.query.text`, bytes, before the mark that something is left out.
const MAX_TEXT: usize = 2048;

/// Between the commands of a pipeline.
const SEPARATOR: &str = "; ";

/// Stands for what is left out of a text.
const OMITTED: &str = "...";

/// Describes a batch as the span of a database call.
///
/// `db.namespace` is the database selected on this connection, as far as that was seen. A message that the server
/// sent unasked, and for a server's role an element of a list, is described as the work that it starts.
pub fn describe(batch: &Batch, role: Role, endpoints: &Endpoints, text: TextMode) -> Description {
    match (&batch.kind, &batch.popped, role) {
        (Kind::Push { channel, payload, .. }, ..) => {
            let size = payload.map_or(0, |payload| payload.length);
            return consumer::describe("redis", channel, size, endpoints, text);
        }
        (_, Some(popped), Role::Server) => {
            let mut description =
                consumer::describe("redis", &popped.list, popped.payload.length, endpoints, text);
            let name = popped.task.as_ref().map(|task| Attribute::new("celery.task", task.name.clone()));
            description.attributes.extend(name);
            return description;
        }
        _ => {}
    }
    let name = name(batch);
    let mut attributes = Attribute::list([
        Attribute::new("db.system.name", "redis"),
        Attribute::new("db.operation.name", name.clone()),
    ]);
    attributes.extend(batch.database.map(|index| Attribute::new("db.namespace", index.to_string())));
    let failure = failure(batch);
    if let Some(error) = &batch.error {
        attributes.push(Attribute::new("db.response.status_code", error.prefix.clone()));
    }
    if let Some((kind, _)) = &failure {
        attributes.push(Attribute::new("error.type", kind.clone()));
    }
    let (server, peer) = match role {
        Role::Client => (&endpoints.remote, &endpoints.remote),
        Role::Server => (&endpoints.local, &endpoints.remote),
    };
    if let Address::Inet(address) = server {
        attributes.push(Attribute::new("server.port", i64::from(address.port())));
    }
    let operations = batch.operations();
    if matches!(batch.kind, Kind::Pipeline) && operations >= 2 {
        let size = i64::try_from(operations).unwrap_or(i64::MAX);
        attributes.push(Attribute::new("db.operation.batch.size", size));
    }
    if let Some(text) = query_text(batch, text) {
        attributes.push(Attribute::new("db.query.text", text));
    }
    if let Some(script) = stored_procedure(batch) {
        attributes.push(Attribute::new("db.stored_procedure.name", script.to_owned()));
    }
    match peer {
        Address::Inet(address) => {
            attributes.push(Attribute::new("network.peer.address", address.ip().to_string()));
            attributes.push(Attribute::new("network.peer.port", i64::from(address.port())));
        }
        Address::Unix(path) if !path.is_empty() => {
            attributes.push(Attribute::new("network.peer.address", path.clone()));
        }
        Address::Unix(_) | Address::Unknown => {}
    }
    match server {
        Address::Inet(address) => attributes.push(Attribute::new("server.address", address.ip().to_string())),
        Address::Unix(path) if !path.is_empty() => {
            attributes.push(Attribute::new("server.address", path.clone()));
        }
        Address::Unix(_) | Address::Unknown => {}
    }
    Description { name, attributes, status: failure.map_or(Status::Unset, |(_, text)| Status::Error(text)) }
}

/// `GET`, `CLIENT SETINFO`, `PIPELINE`, `PIPELINE GET`, `MULTI`, `MULTI SET`.
fn name(batch: &Batch) -> String {
    let prefix = match &batch.kind {
        Kind::Push { kind, .. } => return kind.clone(),
        Kind::Command => {
            return batch.commands.first().map(Command::operation).unwrap_or_default();
        }
        Kind::Pipeline if batch.transaction => "MULTI",
        Kind::Pipeline => "PIPELINE",
    };
    match &batch.operation {
        // A pipeline of like commands with an incomplete transaction in it is not of one kind.
        Some(operation) if batch.transaction || batch.brackets == 0 => format!("{prefix} {operation}"),
        _ => prefix.to_owned(),
    }
}

/// `error.type` and the status' description of a batch that failed.
fn failure(batch: &Batch) -> Option<(String, String)> {
    if let Some(error) = &batch.error {
        return Some((error.prefix.clone(), String::new()));
    }
    // A server that obeys SHUTDOWN does not answer it.
    let shutdown = batch.commands.last().is_some_and(|command| command.name == "SHUTDOWN");
    (batch.ended == Ended::Cut && !shutdown)
        .then(|| ("_OTHER".to_owned(), "connection closed before the reply".to_owned()))
}

/// The digest or name of the script that a single command runs.
fn stored_procedure(batch: &Batch) -> Option<&str> {
    match (&batch.kind, batch.commands.first()) {
        (Kind::Command, Some(command))
            if matches!(command.name.as_str(), "EVALSHA" | "EVALSHA_RO" | "FCALL" | "FCALL_RO") =>
        {
            command.whole(0)
        }
        _ => None,
    }
}

/// The commands as in `redis-cli`, separated by `; `, without those that frame a transaction. Where all of them read the
/// same, that is said once, as the conventions want it for batches.
fn query_text(batch: &Batch, mode: TextMode) -> Option<String> {
    if mode == TextMode::Off || batch.commands.is_empty() {
        return None;
    }
    let shown = || batch.commands.iter().filter(|command| !(batch.transaction && command.is_bracket()));
    let mut text = String::new();
    let mut piece = String::new();
    let mut omitted = batch.count > batch.commands.len() as u64;
    let mut alike = true;
    for (index, command) in shown().enumerate() {
        if text.len() + piece.len() > MAX_TEXT {
            omitted = true;
            break;
        }
        piece.clear();
        write_command(&mut piece, command, mode);
        if index == 0 {
            text.push_str(&piece);
            continue;
        }
        if alike && text != piece {
            alike = false;
            // Those before read like the first one.
            let first = text.clone();
            for _ in 1..index {
                text.push_str(SEPARATOR);
                text.push_str(&first);
            }
        }
        if !alike {
            text.push_str(SEPARATOR);
            text.push_str(&piece);
        }
    }
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push_str(OMITTED);
    } else if omitted {
        text.push_str(SEPARATOR);
        text.push_str(OMITTED);
    }
    Some(text)
}

fn write_command(text: &mut String, command: &Command, mode: TextMode) {
    text.push_str(&command.operation());
    let mut shown = 0;
    if mode == TextMode::Raw {
        for argument in command.arguments() {
            text.push(' ');
            write_argument(text, argument);
            shown += 1;
        }
    } else {
        shown = command.argument_count.min(MAX_ARGUMENTS as u64);
        for _ in 0..shown {
            text.push_str(" ?");
        }
    }
    if shown < command.argument_count {
        text.push(' ');
        text.push_str(OMITTED);
    }
}

/// Writes an argument so that `redis-cli` would read it back, as far as it is known.
fn write_argument(text: &mut String, argument: Argument<'_>) {
    let Argument::Bytes { head, length } = argument else {
        text.push('?');
        return;
    };
    let bare = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b';');
    let quoted = head.is_empty() || !head.iter().all(bare);
    if quoted {
        text.push('"');
    }
    for chunk in head.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => {
                    text.push('\\');
                    text.push(character);
                }
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                _ if character.is_control() => {
                    let mut bytes = [0; 4];
                    write_escaped(text, character.encode_utf8(&mut bytes).as_bytes());
                }
                _ => text.push(character),
            }
        }
        write_escaped(text, chunk.invalid());
    }
    if head.len() as u64 != length {
        text.push_str(OMITTED);
    }
    if quoted {
        text.push('"');
    }
}

fn write_escaped(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}
