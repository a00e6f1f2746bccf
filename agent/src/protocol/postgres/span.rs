//! A statement, or several in one query, as a span of the OpenTelemetry semantic conventions.
//!
//! Source: *Semantic conventions for `PostgreSQL` client operations* and *for database client spans*, stable.

use super::{
    Ended, Kind, Statement,
    sql::Analysis,
    texts::{Reading, Texts},
};
use crate::signal::{Address, Attribute, Description, Endpoints, Role, Status, TextMode, consumer};

/// Says what a statement was. `role` is the watched process's part.
pub fn describe(
    statement: &Statement,
    role: Role,
    endpoints: &Endpoints,
    text: TextMode,
    texts: &mut Texts,
) -> Description {
    if let Kind::Notification { channel, payload_size, .. } = &statement.kind {
        return consumer::describe("postgresql", channel, *payload_size as u64, endpoints, text);
    }
    let reading = statement.text.as_ref().map(|text| texts.read(text));
    let unknown = Analysis::default();
    let analysis = reading.as_ref().map_or(&unknown, |reading| &reading.analysis);
    let batch = statement.batch.is_some();
    let operation =
        operation(statement, analysis).map(|name| if batch { format!("BATCH {name}") } else { name });
    let summary =
        analysis.summary.as_ref().map(|text| if batch { format!("BATCH {text}") } else { text.clone() });
    let database = statement.session.as_ref().and_then(|session| session.database.clone());
    let name = name(summary.as_ref().or(operation.as_ref()), database.as_ref());

    let mut attributes = Attribute::list([Attribute::new("db.system.name", "postgresql")]);
    let mut put = |key: &'static str, value: Option<String>| {
        attributes.extend(value.map(|value| Attribute::new(key, value)));
    };
    put("db.namespace", database);
    put("db.stored_procedure.name", analysis.procedure.clone());
    put("db.query.summary", summary);
    put("db.query.text", shown(statement, reading.as_deref(), text));
    let sqlstate =
        statement.error.as_ref().map(|error| error.sqlstate.clone()).filter(|code| !code.is_empty());
    put("db.response.status_code", sqlstate);
    put("error.type", error_type(statement).map(str::to_owned));
    numbers(statement, &mut attributes);
    addresses(role, endpoints, &mut attributes);
    own(statement, text, &mut attributes);
    Description { name, attributes, status: status(statement) }
}

fn name(best: Option<&String>, database: Option<&String>) -> String {
    best.or(database).cloned().unwrap_or_else(|| "postgresql".to_owned())
}

/// The operation as the server calls it, or as the statement says.
fn operation(statement: &Statement, analysis: &Analysis) -> Option<String> {
    match statement.kind {
        Kind::Cancel => return Some("CANCEL".to_owned()),
        Kind::Function { .. } => return Some("FUNCTION CALL".to_owned()),
        Kind::Notification { .. } => return None,
        Kind::Simple | Kind::Extended | Kind::Copy => {}
    }
    // The tag is that of the last statement only.
    if analysis.operation.is_some() || analysis.several {
        return analysis.operation.clone();
    }
    let mut name = String::new();
    for word in statement
        .tag
        .as_deref()?
        .split(' ')
        .take_while(|word| !word.starts_with(|c: char| c.is_ascii_digit()))
    {
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(word);
    }
    Some(name).filter(|name| !name.is_empty())
}

fn shown(statement: &Statement, reading: Option<&Reading>, mode: TextMode) -> Option<String> {
    match mode {
        TextMode::Sanitized => reading.map(|reading| reading.sanitized.clone()),
        TextMode::Raw => statement.text.as_deref().map(str::to_owned),
        TextMode::Off => None,
    }
}

fn numbers(statement: &Statement, attributes: &mut Vec<Attribute>) {
    let mut put = |key: &'static str, value: Option<i64>| {
        attributes.extend(value.map(|value| Attribute::new(key, value)));
    };
    put("db.operation.batch.size", statement.batch.map(i64::from));
    let returned = statement.rows.filter(|_| statement.returns_rows && statement.kind != Kind::Copy);
    put("db.response.returned_rows", returned.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX)));
}

fn addresses(role: Role, endpoints: &Endpoints, attributes: &mut Vec<Attribute>) {
    let server = match role {
        Role::Client => &endpoints.remote,
        Role::Server => &endpoints.local,
    };
    match server {
        Address::Inet(address) => {
            attributes.push(Attribute::new("server.address", address.ip().to_string()));
            attributes.push(Attribute::new("server.port", i64::from(address.port())));
        }
        Address::Unix(path) if !path.is_empty() => {
            attributes.push(Attribute::new("server.address", path.clone()));
        }
        Address::Unix(_) | Address::Unknown => {}
    }
    match &endpoints.remote {
        Address::Inet(address) => {
            attributes.push(Attribute::new("network.peer.address", address.ip().to_string()));
            attributes.push(Attribute::new("network.peer.port", i64::from(address.port())));
        }
        Address::Unix(path) => {
            if !path.is_empty() {
                attributes.push(Attribute::new("network.peer.address", path.clone()));
            }
            attributes.push(Attribute::new("network.transport", "unix"));
        }
        Address::Unknown => {}
    }
}

/// What the conventions have no name for.
fn own(statement: &Statement, mode: TextMode, attributes: &mut Vec<Attribute>) {
    let mut put = |key: &'static str| attributes.push(Attribute::new(key, true));
    if statement.text.is_none() && matches!(statement.kind, Kind::Simple | Kind::Extended | Kind::Copy) {
        put("adder.db.query.text.unknown");
    }
    if statement.truncated && mode != TextMode::Off {
        put("adder.db.query.text.truncated");
    }
    if statement.ended == Ended::Gap {
        put("adder.db.outcome.unknown");
    }
    if let Some(count) = statement.statements {
        attributes.push(Attribute::new("adder.db.query.statements", i64::from(count)));
    }
    if let Kind::Function { oid } = &statement.kind {
        attributes.push(Attribute::new("adder.db.function.oid", i64::from(*oid)));
    }
}

fn error_type(statement: &Statement) -> Option<&str> {
    match (&statement.error, statement.ended) {
        (Some(error), _) if error.sqlstate.is_empty() => Some("_OTHER"),
        (Some(error), _) => Some(&error.sqlstate),
        (None, Ended::Skipped) => Some("not_executed"),
        (None, Ended::Cut) => Some("connection_closed"),
        (None, Ended::Complete | Ended::Suspended | Ended::Gap) => None,
    }
}

fn status(statement: &Statement) -> Status {
    match (&statement.error, statement.ended) {
        (Some(error), _) => Status::Error(format!("{} {}", error.severity, error.sqlstate).trim().to_owned()),
        (None, Ended::Skipped) => {
            Status::Error("not executed: an earlier statement of the batch failed".to_owned())
        }
        (None, Ended::Cut) => Status::Error("connection closed before the answer".to_owned()),
        (None, Ended::Complete | Ended::Suspended | Ended::Gap) => Status::Unset,
    }
}
