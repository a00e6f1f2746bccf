//! A message in OpenTelemetry's words.
//!
//! Source: <https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/> and
//! <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>, in development.

use super::{Answer, Ended, Kind, Message, Outcome, properties::DIRECT_REPLY};
use crate::signal::{Attribute, Description, Endpoints, Status, remote_addresses};

/// Stands for a destination that has nothing but a generated name: there must not be many names of spans.
const ANONYMOUS: &str = "(anonymous)";

/// Name of the destination of a message to the default exchange without routing key.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// Describes a publish as `send`, a delivery as `process`, a `basic.get` as `receive`; other operations bear the name
/// of their method. `outcome` is how a delivery was settled.
///
/// A negative acknowledgement by the consumer is no error of the message's processing by itself: it is told as
/// `adder.messaging.outcome`. Reply texts of the broker quote names of users and are not told.
pub fn describe(message: &Message, endpoints: &Endpoints, outcome: Option<Outcome>) -> Description {
    let (operation, operation_type) = match message.kind {
        Kind::Publish => ("send", Some("send")),
        Kind::Get => ("receive", Some("receive")),
        Kind::Delivery => ("process", Some("process")),
        Kind::Declare { method } | Kind::Tx { method } => (method, None),
    };
    let destination = Destination::of(message);
    let mut attributes = Attribute::list([Attribute::new("messaging.system", "rabbitmq")]);
    attributes.push(Attribute::new("messaging.operation.name", operation));
    attributes.extend(operation_type.map(|kind| Attribute::new("messaging.operation.type", kind)));
    if !destination.name.is_empty() {
        attributes.push(Attribute::new("messaging.destination.name", destination.name.clone()));
    }
    if destination.anonymous {
        attributes.push(Attribute::new("messaging.destination.anonymous", true));
    }
    if destination.anonymous || message.temporary {
        attributes.push(Attribute::new("messaging.destination.temporary", true));
    }
    about(message, &mut attributes);
    let failure = failure(message, outcome);
    if let Some((kind, _)) = &failure {
        attributes.push(Attribute::new("error.type", kind.clone()));
    }
    remote_addresses(endpoints, &mut attributes);
    own(message, outcome, &mut attributes);
    let name = match destination.shown.as_str() {
        "" => operation.to_owned(),
        shown => format!("{operation} {shown}"),
    };
    Description { name, attributes, status: failure.map_or(Status::Unset, |(_, text)| Status::Error(text)) }
}

/// Where a message goes to or comes from.
#[derive(Debug)]
struct Destination {
    /// Exchange, routing key and, at the receiver, queue: those that there are, each once.
    name: String,
    /// The same in the name of the span: without the parts that are generated, so that `process` of a server-named queue
    /// still says what is bound to it.
    shown: String,
    anonymous: bool,
}

impl Destination {
    fn of(message: &Message) -> Self {
        let queue = message.queue.as_deref().unwrap_or_default();
        let (exchange, key) = (message.exchange.as_str(), message.routing_key.as_str());
        // A queue is often bound by its own name.
        let parts = [exchange, key, if queue == key { "" } else { queue }];
        let generated = |name: &&str| is_generated(name);
        let mut name = join(parts.iter().copied());
        let mut shown = join(parts.iter().copied().filter(|part| !is_generated(part)));
        let to_queue = if exchange.is_empty() { key } else { "" };
        let anonymous = [exchange, queue, to_queue].iter().any(generated);
        if name.is_empty() && message.kind == Kind::Publish {
            DEFAULT_EXCHANGE.clone_into(&mut name);
            DEFAULT_EXCHANGE.clone_into(&mut shown);
        } else if shown.is_empty() && !name.is_empty() {
            ANONYMOUS.clone_into(&mut shown);
        }
        Self { name, shown, anonymous }
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for part in parts.filter(|part| !part.is_empty()) {
        if !joined.is_empty() {
            joined.push(':');
        }
        joined.push_str(part);
    }
    joined
}

/// Says whether a name was made up by the broker (`amq.gen-`, direct replies) or by a library or an application with
/// a UUID in it: kombu's reply queues are nothing else, others begin with a word.
fn is_generated(name: &str) -> bool {
    const DIGITS: usize = 32;
    let mut digits = 0;
    let has_uuid = name.bytes().any(|byte| {
        digits = match byte {
            byte if byte.is_ascii_hexdigit() => digits + 1,
            // Its groups are of 8, 4, 4, 4 and 12 digits.
            b'-' if matches!(digits, 8 | 12 | 16 | 20) => digits,
            _ => 0,
        };
        digits == DIGITS
    });
    has_uuid || name.starts_with("amq.gen-") || name.starts_with(DIRECT_REPLY)
}

fn about(message: &Message, attributes: &mut Vec<Attribute>) {
    if !message.routing_key.is_empty() {
        let key = message.routing_key.clone();
        attributes.push(Attribute::new("messaging.rabbitmq.destination.routing_key", key));
    }
    let received = matches!(message.kind, Kind::Delivery | Kind::Get);
    if received && message.delivery_tag > 0 {
        let tag = whole(message.delivery_tag);
        attributes.push(Attribute::new("messaging.rabbitmq.message.delivery_tag", tag));
    }
    let ids = [
        ("messaging.message.id", &message.message_id),
        ("messaging.message.conversation_id", &message.correlation_id),
    ];
    for (key, id) in ids {
        attributes.extend(id.clone().map(|id| Attribute::new(key, id)));
    }
    let has_body = match message.kind {
        Kind::Publish | Kind::Delivery => true,
        Kind::Get => message.delivery_tag > 0,
        Kind::Declare { .. } | Kind::Tx { .. } => false,
    };
    if has_body {
        attributes.push(Attribute::new("messaging.message.body.size", whole(message.body_size)));
    }
}

/// What the conventions have no name for.
fn own(message: &Message, outcome: Option<Outcome>, attributes: &mut Vec<Attribute>) {
    if message.redelivered {
        attributes.push(Attribute::new("adder.messaging.redelivered", true));
    }
    if let Some(outcome) = outcome {
        let (name, requeue) = match outcome {
            Outcome::Ack => ("ack", None),
            Outcome::Nack { requeue } => ("nack", Some(requeue)),
            Outcome::Reject { requeue } => ("reject", Some(requeue)),
            Outcome::Auto => ("auto", None),
            Outcome::Lost | Outcome::Cut { .. } => ("lost", None),
        };
        attributes.push(Attribute::new("adder.messaging.outcome", name));
        attributes.extend(requeue.map(|requeue| Attribute::new("adder.messaging.requeue", requeue)));
    }
    if message.answer == Some(Answer::Empty) {
        attributes.push(Attribute::new("adder.messaging.empty", true));
    }
    if matches!(message.ended, Ended::Unconfirmed | Ended::Gap) {
        attributes.push(Attribute::new("adder.messaging.outcome.unknown", true));
    }
    if let Some(death) = &message.death {
        attributes.push(Attribute::new("adder.messaging.death.count", whole(death.count)));
    }
    if let Some(task) = &message.task {
        attributes.push(Attribute::new("celery.task", task.name.clone()));
    }
}

/// `error.type` and the status' description of a message that failed.
fn failure(message: &Message, outcome: Option<Outcome>) -> Option<(String, String)> {
    let settled = if let Some(Outcome::Cut { code }) = outcome { code } else { None };
    let told = message.error.as_ref().or(message.returned.as_ref()).map(|(code, _)| *code);
    if let Some(code) = told.or(settled) {
        let name = reply(code).map_or_else(|| code.to_string(), str::to_owned);
        return Some((name.clone(), format!("{code} {name}")));
    }
    if message.answer == Some(Answer::Nack) {
        return Some(("nack".to_owned(), "refused by the broker".to_owned()));
    }
    // Who closes often does not wait for the answer.
    let closes = matches!(message.kind, Kind::Declare { method: "connection.close" | "channel.close" });
    let what = match outcome {
        Some(Outcome::Cut { .. }) => "the message was settled",
        _ if message.ended == Ended::Cut && !closes => "the answer",
        _ => return None,
    };
    Some(("connection_closed".to_owned(), format!("channel or connection closed before {what}")))
}

/// The names of reply codes: *AMQP 0-9-1 specification*, constants.
fn reply(code: u16) -> Option<&'static str> {
    let name = match code {
        311 => "content-too-large",
        312 => "no-route",
        313 => "no-consumers",
        320 => "connection-forced",
        402 => "invalid-path",
        403 => "access-refused",
        404 => "not-found",
        405 => "resource-locked",
        406 => "precondition-failed",
        501 => "frame-error",
        502 => "syntax-error",
        503 => "command-invalid",
        504 => "channel-error",
        505 => "unexpected-frame",
        506 => "resource-error",
        530 => "not-allowed",
        540 => "not-implemented",
        541 => "internal-error",
        _ => return None,
    };
    Some(name)
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
