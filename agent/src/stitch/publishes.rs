//! What watched processes have published, to be found again by what is delivered.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::unit::OperationId;
use crate::{conn::ConnectionId, protocol::amqp};

/// Publishes remembered for deliveries to come.
const PUBLISHED_MAX: usize = 100_000;
/// How long a publish is remembered, nanoseconds.
const PUBLISHED_KEPT: u64 = 24 * 3600 * 1_000_000_000;

/// Where a publish stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Its span is not made yet.
    Open(OperationId),
    /// Trace and span.
    Made([u8; 16], [u8; 8]),
}

/// A message that a watched process has published.
struct Published {
    operation: OperationId,
    /// Trace and span, once that is certain.
    span: Option<([u8; 16], [u8; 8])>,
    sent: u64,
    exchange: String,
    routing_key: String,
    /// Digest of the body, where all of it was seen.
    body: Option<u64>,
    /// How many deliveries of each queue (consumer) it has been given to.
    given: Vec<(u64, u32)>,
}

/// All publishes that deliveries may come of.
#[derive(Default)]
pub(super) struct Publishes {
    all: FxHashMap<u64, Published>,
    /// By what is the same at both ends.
    by_message: FxHashMap<u64, Vec<u64>>,
    by_operation: FxHashMap<OperationId, u64>,
    /// Oldest first, with its key.
    order: VecDeque<(u64, u64)>,
    next: u64,
}

/// What is the same where a message is published and where it is delivered, however often it was requeued or
/// dead-lettered between.
fn key(message: &amqp::Message) -> u64 {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = rustc_hash::FxHasher::default();
    (message.properties_digest, message.body_size, message.head_digest).hash(&mut hasher);
    hasher.finish()
}

/// The queue that a delivery came from, as far as it can be told: its name, else its consumer.
fn queue(message: &amqp::Message, connection: ConnectionId) -> u64 {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = rustc_hash::FxHasher::default();
    match &message.queue {
        Some(name) => name.hash(&mut hasher),
        None => (connection, message.channel, &message.consumer_tag).hash(&mut hasher),
    }
    hasher.finish()
}

impl Publishes {
    /// Remembers a publish, at its first report.
    pub(super) fn insert_once(&mut self, operation: OperationId, message: &amqp::Message, sent: u64) {
        if self.by_operation.contains_key(&operation) {
            return;
        }
        self.next += 1;
        let (id, key) = (self.next, key(message));
        let published = Published {
            operation,
            span: None,
            sent,
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            body: message.digest_complete.then_some(message.body_digest),
            given: Vec::new(),
        };
        self.all.insert(id, published);
        self.by_message.entry(key).or_default().push(id);
        self.by_operation.insert(operation, id);
        self.order.push_back((id, key));
        if self.order.len() > PUBLISHED_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((id, key)) = self.order.pop_front() else { return };
        if let Some(published) = self.all.remove(&id) {
            self.by_operation.remove(&published.operation);
        }
        if let Some(equal) = self.by_message.get_mut(&key) {
            equal.retain(|known| *known != id);
            if equal.is_empty() {
                self.by_message.remove(&key);
            }
        }
    }

    /// The publish of a delivered message. Of equal ones each queue gets them in their order.
    pub(super) fn find(
        &mut self,
        message: &amqp::Message,
        connection: ConnectionId,
        before: u64,
    ) -> Option<u64> {
        let equal = self.by_message.get(&key(message))?;
        let queue = queue(message, connection);
        let given = |published: &Published| {
            published.given.iter().find(|(known, _)| *known == queue).map_or(0, |(_, count)| *count)
        };
        // A message that was dead-lettered has another exchange and routing key than the one it was published with.
        let fits = |id: &&u64| {
            self.all.get(id).is_some_and(|published| {
                let body = message.digest_complete.then_some(message.body_digest);
                published.sent <= before
                    && (body.is_none() || published.body.is_none() || body == published.body)
                    && (message.death.is_some()
                        || published.exchange == message.exchange
                            && published.routing_key == message.routing_key)
            })
        };
        let fitting = || equal.iter().filter(fits);
        let fresh = || fitting().find(|id| self.all.get(id).is_some_and(|published| given(published) == 0));
        let again = || fitting().rfind(|id| self.all.get(id).is_some_and(|published| given(published) > 0));
        let id = *if message.redelivered { again().or_else(fresh) } else { fresh().or_else(again) }?;
        let published = self.all.get_mut(&id)?;
        match published.given.iter_mut().find(|(known, _)| *known == queue) {
            Some((_, count)) => *count += 1,
            None => published.given.push((queue, 1)),
        }
        Some(id)
    }

    /// The span of a publish is made.
    pub(super) fn made(&mut self, operation: OperationId, trace_id: [u8; 16], span_id: [u8; 8]) {
        if let Some(id) = self.by_operation.remove(&operation)
            && let Some(published) = self.all.get_mut(&id)
        {
            published.span = Some((trace_id, span_id));
        }
    }

    /// When a publish was sent.
    pub(super) fn sent(&self, id: u64) -> Option<u64> {
        self.all.get(&id).map(|published| published.sent)
    }

    /// Where a publish stands.
    pub(super) fn place(&self, id: u64) -> Option<Place> {
        let published = self.all.get(&id)?;
        Some(
            published.span.map_or(Place::Open(published.operation), |(trace_id, span_id)| {
                Place::Made(trace_id, span_id)
            }),
        )
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&mut self, now: u64) {
        while let Some((id, _)) = self.order.front()
            && self.all.get(id).is_none_or(|published| published.sent + PUBLISHED_KEPT < now)
        {
            self.forget_oldest();
        }
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
