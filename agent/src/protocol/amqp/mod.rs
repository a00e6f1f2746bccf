//! AMQP 0-9-1, as `RabbitMQ` and its clients speak it, seen from the client's end.
//!
//! A publish, a `basic.get` and every other method that waits for an answer is an exchange. A delivery is an event of
//! its own, and so is its settlement. A message is its method, its content header and its body together; of the body
//! only size and digest are kept, of the header table only what tells where the message comes from.
//!
//! [`wire`] cuts a direction into frames, [`search`] finds the next frame where the thread was lost, [`methods`] and
//! [`properties`] read what is in them, [`session`] puts it together.
//!
//! Sources: *AMQP 0-9-1 specification* and its grammar; *`RabbitMQ`: AMQP 0-9-1 complete reference, extensions and
//! errata* (confirms, `basic.nack`, field types, `basic.cancel` by the server).

mod broker;
mod client;
mod content;
mod deliveries;
mod detect;
mod exchanges;
mod methods;
mod properties;
mod search;
mod session;
mod span;
mod wire;

#[cfg(test)]
mod tests;

pub use self::{detect::detect, session::Amqp, span::describe};

use super::Incoming;

/// A message, or another operation on a channel, and its outcome.
///
/// Texts that the format allows to be of any length are cut at 512 bytes; the others cannot be longer than 255.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Number of the channel; 0 is the connection itself.
    pub channel: u16,
    /// Exchange that it was published to; empty for the default exchange.
    pub exchange: String,
    /// Routing key; with the default exchange the name of the queue.
    pub routing_key: String,
    /// Queue of the consumer, of a `basic.get` or of a queue's own operation, where it is known.
    pub queue: Option<String>,
    /// The queue (with the default exchange the routing key) was declared exclusive or auto-deleted on this connection.
    pub temporary: bool,
    /// Tag of the consumer; empty where there is none.
    pub consumer_tag: String,
    /// Number of a delivery on its channel; of a publish the number that its confirm has, where that is known. Else 0.
    pub delivery_tag: u64,
    /// The broker says that it may have delivered this message before.
    pub redelivered: bool,
    /// A publish that is to come back if no queue takes it.
    pub mandatory: bool,
    /// Whether nothing is to be acknowledged, where that is known: of a delivery as its `basic.consume` said.
    pub no_ack: Option<bool>,
    /// Property `message-id`.
    pub message_id: Option<String>,
    /// Property `correlation-id`.
    pub correlation_id: Option<String>,
    /// Property `reply-to`.
    pub reply_to: Option<String>,
    /// Property `app-id`.
    pub app_id: Option<String>,
    /// Property `type`.
    pub type_: Option<String>,
    /// Property `timestamp`, seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// Property `content-type`.
    pub content_type: Option<String>,
    /// Property `delivery-mode`: 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    /// Property `priority`.
    pub priority: Option<u8>,
    /// Trace context among the headers.
    pub incoming: Option<Box<Incoming>>,
    /// What Celery says of its task among the headers.
    pub task: Option<Box<Task>>,
    /// What the broker says of dead-lettering among the headers.
    pub death: Option<Box<Death>>,
    /// Length of the body in bytes, as the content header says.
    pub body_size: u64,
    /// FNV-1a (64 bits) of the captured bytes of the body.
    pub body_digest: u64,
    /// All bytes of the body are in the digest.
    pub digest_complete: bool,
    /// FNV-1a (64 bits) of the first [`HEAD_DIGESTED`] bytes of the body, or of all of a shorter one; none where some of
    /// these were not captured. Of large bodies seldom more than this is known at both ends.
    pub head_digest: Option<u64>,
    /// FNV-1a (64 bits) over those properties that brokers hand on as they are: `message-id`, `correlation-id`,
    /// `reply-to`, `type`, `app-id`, `content-type`, `timestamp`, each with whether it is there. The headers are not
    /// among them, for brokers add to these. Of the direct reply-to pseudo-queue only its fixed name counts: the broker
    /// appends the channel's address.
    pub properties_digest: u64,
    /// What the broker answered.
    pub answer: Option<Answer>,
    /// The broker could not deliver it and sent it back: reply code and text of the `basic.return`. Only noticed on
    /// channels with confirms, for otherwise the publish is over before.
    pub returned: Option<(u16, String)>,
    /// The broker closed the channel or the connection while this was open: reply code and text.
    pub error: Option<(u16, String)>,
    /// How it ended.
    pub ended: Ended,
}

/// Bytes at the beginning of a body that [`Message::head_digest`] covers.
pub const HEAD_DIGESTED: u64 = adder_ebpf::BODY_HEAD as u64;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `basic.publish`.
    Publish,
    /// `basic.get`.
    Get,
    /// `basic.deliver`.
    Delivery,
    /// A method that arranges something and waits for its `-ok`.
    Declare {
        /// Its name, such as `queue.declare`.
        method: &'static str,
    },
    /// `tx.commit` or `tx.rollback`.
    Tx {
        /// Its name.
        method: &'static str,
    },
}

/// What the broker answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It took the message.
    Ack,
    /// It could not take the message.
    Nack,
    /// The queue is empty.
    Empty,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it should: sent, confirmed or answered.
    Complete,
    /// A publish whose confirm was not seen.
    Unconfirmed,
    /// The channel or the connection was closed before the answer.
    Cut,
    /// Bytes are missing or were not understood: its outcome is not known.
    Gap,
}

/// How a delivery was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `basic.ack`.
    Ack,
    /// `basic.nack`, or `basic.recover`, which asks for everything again.
    Nack {
        /// The message goes back to its queue.
        requeue: bool,
    },
    /// `basic.reject`.
    Reject {
        /// The message goes back to its queue.
        requeue: bool,
    },
    /// The consumer acknowledges nothing.
    Auto,
    /// The client ended its channel or connection before, or there were too many.
    Lost,
    /// The broker ended channel or connection before, with this reply code, or the connection broke.
    Cut {
        /// *AMQP 0-9-1 specification*, constants.
        code: Option<u16>,
    },
}

/// Headers of a Celery task (message protocol, version 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Header `task`: the task's name.
    pub name: String,
    /// Header `id`.
    pub id: String,
    /// Header `root_id`: the task that began the chain.
    pub root_id: Option<String>,
    /// Header `parent_id`: the task that called this one.
    pub parent_id: Option<String>,
}

/// Headers of a message that came back through a dead-letter exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Death {
    /// Entries of `x-death`: queues and reasons.
    pub entries: u32,
    /// How often it was dead-lettered: the sum of the entries' counts.
    pub count: u64,
    /// Queue of the latest entry.
    pub queue: String,
    /// Exchange of the latest entry.
    pub exchange: String,
    /// Reason of the latest entry: `rejected`, `expired`, `maxlen`, `delivery_limit`.
    pub reason: String,
    /// Header `x-first-death-queue`.
    pub first_queue: Option<String>,
    /// Header `x-first-death-exchange`.
    pub first_exchange: Option<String>,
    /// Header `x-first-death-reason`.
    pub first_reason: Option<String>,
}

impl Message {
    /// An operation of which nothing is known yet.
    fn new(kind: Kind, channel: u16) -> Self {
        Self {
            kind,
            channel,
            exchange: String::new(),
            routing_key: String::new(),
            queue: None,
            temporary: false,
            consumer_tag: String::new(),
            delivery_tag: 0,
            redelivered: false,
            mandatory: false,
            no_ack: None,
            message_id: None,
            correlation_id: None,
            reply_to: None,
            app_id: None,
            type_: None,
            timestamp: None,
            content_type: None,
            delivery_mode: None,
            priority: None,
            incoming: None,
            task: None,
            death: None,
            body_size: 0,
            body_digest: wire::Digest::default().value(),
            digest_complete: false,
            head_digest: None,
            properties_digest: wire::Digest::default().value(),
            answer: None,
            returned: None,
            error: None,
            ended: Ended::Complete,
        }
    }
}
