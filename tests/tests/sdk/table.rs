//! Where Adder and the SDK are allowed to differ, and why.

use std::iter;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::tree::{Difference, Node, What, without_parameters};

/// One accepted difference. The texts are those of the documentation, as Markdown.
pub(crate) struct Row {
    /// Where.
    pub(crate) place: &'static str,
    /// What Adder says there.
    pub(crate) adder: &'static str,
    /// What the SDK says there.
    pub(crate) sdk: &'static str,
    /// Why that is right, or cannot be otherwise.
    pub(crate) reason: &'static str,
    /// Whether a difference is this one.
    pub(crate) fits: fn(&Difference<'_>) -> bool,
}

/// The rows in the form in which they stand in the documentation.
pub(crate) fn markdown() -> String {
    let head = "| Where | Adder | SDK | Why |\n|---|---|---|---|\n";
    let rows = ROWS.iter().map(|Row { place, adder, sdk, reason, fits: _ }| {
        format!("| {place} | {adder} | {sdk} | {reason} |\n")
    });
    iter::once(head.to_owned()).chain(rows).collect()
}

/// Every accepted difference. Of several rows that fit, the first counts.
pub(crate) const ROWS: &[Row] = &[
    // Spans.
    Row {
        place: "ASGI",
        adder: "one server span for each request",
        sdk: "also internal spans `… http send`, `… http receive` for each ASGI message",
        reason: "They show the framework's inside, not an operation; the work below them is in both.",
        fits: |d| only_sdk(d, |s| s.kind == SpanKind::Internal && s.attribute("asgi.event.type").is_some()),
    },
    Row {
        place: "FastAPI's background tasks",
        adder: "their operations under the server span",
        sdk: "an internal span `BackgroundTask …` between",
        reason: "A function call inside the process does not show from outside.",
        fits: |d| only_sdk(d, |s| s.kind == SpanKind::Internal && s.name.starts_with("BackgroundTask ")),
    },
    Row {
        place: "SQLAlchemy",
        adder: "each statement once",
        sdk: "each statement twice, as SQLAlchemy's and as the driver's; a span `connect`",
        reason: "One statement reached the server. The driver's spans are compared.",
        fits: |d| only_sdk(d, |s| s.scope == "sqlalchemy"),
    },
    Row {
        place: "work given to a bare executor",
        adder: "under its request",
        sdk: "root spans, each a trace of its own",
        reason: "`run_in_executor` carries no context over to the thread. Adder follows the work through the executor's queue.",
        fits: |d| d.what == What::Parent && d.request == "GET /executor" && both(d, |a, s| a.kind == s.kind),
    },
    Row {
        place: "psycopg's transactions",
        adder: "spans `BEGIN`, `COMMIT`",
        sdk: "none",
        reason: "The driver sends them by itself; each is a round trip that the request waits for.",
        fits: |d| {
            only_adder(d, |a| {
                is(a, "db.system.name", "postgresql") && matches!(a.name.as_str(), "BEGIN" | "COMMIT")
            })
        },
    },
    Row {
        place: "redis-py's new connections",
        adder: "spans `HELLO`, `CLIENT …`",
        sdk: "none",
        reason: "Commands that the client sends by itself, answered by the server, and waited for by the request that \
                 needed the connection.",
        fits: |d| {
            only_adder(d, |a| {
                is(a, "db.system.name", "redis") && (a.name == "HELLO" || a.name.starts_with("CLIENT "))
            })
        },
    },
    // Names.
    Row {
        place: "Postgres: span name",
        adder: "`db.query.summary`: `SELECT games`, `BEGIN`",
        sdk: "the first word of the text: `SELECT`, `BEGIN;`",
        reason: "The conventions: the summary is the name.",
        fits: |d| {
            d.what == What::Name
                && both(d, |a, s| {
                    let first = a.name.split(' ').next().unwrap_or_default();
                    a.kind == s.kind
                        && a.attribute("db.query.summary") == Some(&a.name)
                        && first == s.name.trim_end_matches(';')
                })
        },
    },
    Row {
        place: "Redis pipelines: span name",
        adder: "`PIPELINE`, `MULTI`",
        sdk: "all commands: `SET GET GET`",
        reason: "The conventions for `db.operation.name`.",
        fits: |d| {
            d.what == What::Name
                && both(d, |a, s| matches!(a.name.as_str(), "PIPELINE" | "MULTI") && s.scope == "redis")
        },
    },
    // Texts.
    Row {
        place: "psycopg2: `db.query.text`",
        adder: "what was sent: `WHERE id = 11`",
        sdk: "the program's text: `WHERE id = %s`",
        reason: "psycopg2 puts the values into the text before it sends it.",
        fits: |d| is_text(d, |s| s.scope == "psycopg2"),
    },
    Row {
        place: "psycopg 3: `db.query.text`",
        adder: "`$1`",
        sdk: "`%s`",
        reason: "psycopg sends `$1`.",
        fits: |d| is_text(d, |s| s.scope == "psycopg"),
    },
    Row {
        place: "Redis pipelines: `db.query.text`",
        adder: "`SET ? ?; GET ?`",
        sdk: "commands on lines of their own",
        reason: "The conventions: `; ` separates the texts of a batch.",
        fits: |d| is_text(d, |s| s.scope == "redis" && s.attributes.contains_key("db.redis.pipeline_length")),
    },
    // Errors.
    Row {
        place: "Postgres errors: `error.type`",
        adder: "SQLSTATE: `42P01`",
        sdk: "class of the exception: `UndefinedTableError`",
        reason: "The conventions: equal to `db.response.status_code`, which the SDK does not give; exceptions are in \
                 the program.",
        fits: |d| {
            is_postgres(d)
                && d.what == What::Attribute("error.type")
                && both_of(d, |node| node.attribute("error.type")).is_some()
        },
    },
    Row {
        place: "Postgres errors: status description",
        adder: "severity and SQLSTATE: `ERROR 42P01`",
        sdk: "class and text of the exception",
        reason: "The server's message may hold values.",
        fits: |d| {
            is_postgres(d) && d.what == What::Status && both(d, |a, s| a.error.is_some() && s.error.is_some())
        },
    },
    Row {
        place: "errors: event `exception`",
        adder: "none, unless the program logs the traceback: then on the server span",
        sdk: "with class, text and stack",
        reason: "Exceptions are in the program and do not show from outside; what it logs does.",
        fits: |d| d.what == What::Event("exception") && both(d, |a, _| a.events.is_empty()),
    },
    // Attributes that only Adder has.
    Row {
        place: "`network.peer.address`, `network.peer.port`",
        adder: "the other end of the connection",
        sdk: "only httpx's",
        reason: "Recommended by the conventions.",
        fits: |d| more(d, &["network.peer.address", "network.peer.port"], |_| true),
    },
    Row {
        place: "aiohttp's client: `network.protocol.version`",
        adder: "`1.1`",
        sdk: "none",
        reason: "Recommended by the conventions.",
        fits: |d| more(d, &["network.protocol.version"], |s| s.scope == "aiohttp_client"),
    },
    Row {
        place: "HTTP clients: `user_agent.original`",
        adder: "what was sent",
        sdk: "none",
        reason: "Opt-in by the conventions; it tells one client library from another.",
        fits: |d| more(d, &["user_agent.original"], |s| s.kind == SpanKind::Client),
    },
    Row {
        place: "`http.request.body.size`, `http.response.body.size`, `db.response.returned_rows`",
        adder: "counted on the wire",
        sdk: "none",
        reason: "Opt-in by the conventions, and costs nothing here.",
        fits: |d| {
            let keys = ["http.request.body.size", "http.response.body.size", "db.response.returned_rows"];
            more(d, &keys, |_| true)
        },
    },
    Row {
        place: "Postgres: `db.query.summary`, `db.response.status_code`",
        adder: "from the statement and from the server's answer",
        sdk: "none",
        reason: "Recommended, and required of errors, by the conventions.",
        fits: |d| is_postgres(d) && more(d, &["db.query.summary", "db.response.status_code"], |_| true),
    },
    Row {
        place: "Redis: `db.operation.name`, `db.namespace`, `db.operation.batch.size`",
        adder: "from the commands; the database where the beginning of the connection or a `SELECT` was seen",
        sdk: "none",
        reason: "Required and recommended by the conventions.",
        fits: |d| {
            let keys = ["db.operation.name", "db.namespace", "db.operation.batch.size"];
            more(d, &keys, |s| is(s, "db.system.name", "redis"))
        },
    },
    Row {
        place: "`code.function.name`, `code.file.path`, `code.line.number`",
        adder: "of the application's function that made the call, or handled the request",
        sdk: "none",
        reason: "The stack of the thread shows it.",
        fits: |d| {
            let keys = ["code.function.name", "code.file.path", "code.line.number"];
            more(d, &keys, |_| true)
        },
    },
    Row {
        place: "attributes `adder.…`",
        adder: "what the conventions have no name for, such as the number of statements in one text",
        sdk: "none",
        reason: "Under a name of our own they are in nobody's way.",
        fits: |d| matches!(d.what, What::Attribute(key) if key.starts_with("adder.") && more(d, &[key], |_| true)),
    },
    // Attributes that only the SDK has, or has otherwise.
    Row {
        place: "Postgres: `db.namespace`",
        adder: "none on connections that are older than Adder's watch",
        sdk: "the database",
        reason: "Its name is sent once, when a connection begins.",
        fits: |d| is_postgres(d) && less(d, "db.namespace"),
    },
    Row {
        place: "databases: `network.transport`",
        adder: "none for TCP",
        sdk: "`tcp` from some instrumentations",
        reason: "Not among the attributes of the database conventions.",
        fits: |d| less(d, "network.transport") && both(d, |_, s| is(s, "network.transport", "tcp")),
    },
    Row {
        place: "Redis: `db.redis.args_length`, `db.redis.pipeline_length`",
        adder: "none",
        sdk: "numbers of arguments and commands",
        reason: "Not in the conventions; `db.operation.batch.size` is.",
        fits: |d| less(d, "db.redis.args_length") || less(d, "db.redis.pipeline_length"),
    },
    Row {
        place: "HTTP servers: `client.port`",
        adder: "in `network.peer.port`",
        sdk: "the port of the peer",
        reason: "Opt-in by the conventions.",
        fits: |d| less(d, "client.port") && both(d, |a, _| is(a, "network.peer.port", "CLIENT")),
    },
    Row {
        place: "HTTP servers: `server.address`",
        adder: "`127.0.0.1`",
        sdk: "`127.0.0.1:8000`",
        reason: "The conventions: the port is in `server.port`.",
        fits: |d| {
            d.what == What::Attribute("server.address")
                && both(d, |a, s| {
                    let own = [a.attribute("server.address"), a.attribute("server.port")];
                    own.map(Option::unwrap_or_default).join(":")
                        == s.attribute("server.address").unwrap_or_default()
                })
        },
    },
];

fn only_sdk(difference: &Difference<'_>, is: impl Fn(&Node) -> bool) -> bool {
    difference.what == What::Span && difference.adder.is_none() && difference.sdk.is_some_and(is)
}

fn only_adder(difference: &Difference<'_>, is: impl Fn(&Node) -> bool) -> bool {
    difference.what == What::Span && difference.sdk.is_none() && difference.adder.is_some_and(is)
}

/// Both have the span, and so it is: Adder's, the SDK's.
fn both(difference: &Difference<'_>, are: impl Fn(&Node, &Node) -> bool) -> bool {
    difference.adder.zip(difference.sdk).is_some_and(|(adder, sdk)| are(adder, sdk))
}

/// A text that both have.
fn both_of<'a, T: AsRef<str> + ?Sized + 'a>(
    difference: &Difference<'a>,
    text: impl Fn(&'a Node) -> Option<&'a T>,
) -> Option<(&'a str, &'a str)> {
    let text = |node| text(node).map(AsRef::as_ref);
    Some((text(difference.adder?)?, text(difference.sdk?)?))
}

/// Only Adder has one of these attributes, on a span that the SDK shows so.
fn more(difference: &Difference<'_>, keys: &[&str], sdk: impl Fn(&Node) -> bool) -> bool {
    let What::Attribute(key) = difference.what else { return false };
    keys.contains(&key) && both(difference, |_, s| s.attribute(key).is_none() && sdk(s))
}

/// Only the SDK has this attribute.
fn less(difference: &Difference<'_>, key: &str) -> bool {
    difference.what == What::Attribute(key) && both(difference, |a, _| a.attribute(key).is_none())
}

fn is_postgres(difference: &Difference<'_>) -> bool {
    both(difference, |a, s| [a, s].iter().all(|node| is(node, "db.system.name", "postgresql")))
}

/// The same statement, written otherwise.
fn is_text(difference: &Difference<'_>, sdk: impl Fn(&Node) -> bool) -> bool {
    let same = |a: &str, s: &str| without_parameters(a) == without_parameters(s);
    difference.what == What::Attribute("db.query.text")
        && difference.sdk.is_some_and(sdk)
        && both_of(difference, |node| node.attribute("db.query.text")).is_some_and(|(a, s)| same(a, s))
}

fn is(node: &Node, key: &str, value: &str) -> bool {
    node.attribute(key) == Some(value)
}
