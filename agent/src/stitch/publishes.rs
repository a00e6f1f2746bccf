//! What watched processes have published, to be found again by what is delivered.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{Hash, Hasher as _},
};

use rustc_hash::FxHashMap;

use super::unit::OperationId;
use crate::{conn::ConnectionId, protocol::amqp};

/// Publishes remembered for deliveries to come.
const PUBLISHED_MAX: usize = 100_000;
/// How long a publish is remembered, nanoseconds.
const PUBLISHED_KEPT: u64 = 24 * 3600 * 1_000_000_000;

/// Publishes looked at for one that fits, beyond those that a queue has got.
const LOOK_AHEAD: usize = 256;

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
    /// Digest of the body, where all of it was seen.
    body: Option<u64>,
    /// Where it is found: by everything, and by what stays the same when it is dead-lettered.
    keys: [Option<u64>; 2],
}

/// A message whose publish is looked for.
pub(super) struct Sought {
    /// What is the same where it was published.
    pub(super) key: Option<u64>,
    /// Who gets each of equal messages once.
    pub(super) queue: u64,
    /// It was delivered before.
    pub(super) again: bool,
    /// Digest of the body, where all of it was seen and the key does not hold it.
    pub(super) body: Option<u64>,
}

impl Sought {
    /// Of a delivery.
    pub(super) fn of(message: &amqp::Message, connection: ConnectionId) -> Self {
        let [key, dead] = keys(message);
        Self {
            key: Some(if message.death.is_some() { dead } else { key }),
            queue: queue(message, connection),
            again: message.redelivered,
            body: message.digest_complete.then_some(message.body_digest),
        }
    }
}

/// Publishes that cannot be told apart by their key, oldest first, and what each queue has got of them.
#[derive(Default)]
struct Equal {
    ids: VecDeque<u64>,
    queues: Vec<Given>,
}

/// What a queue has got: everything before `from`, and some behind.
#[derive(Default)]
struct Given {
    queue: u64,
    from: u64,
    ahead: BTreeSet<u64>,
    last: u64,
}

/// All publishes that deliveries may come of.
#[derive(Default)]
pub(super) struct Publishes {
    all: FxHashMap<u64, Published>,
    /// By their keys.
    equal: FxHashMap<u64, Equal>,
    /// The first of those that an operation has published, and how many: their numbers follow each other.
    by_operation: FxHashMap<OperationId, (u64, u64)>,
    oldest: u64,
    next: u64,
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What is the same where a message is published and where it is delivered, however often it was requeued; and what
/// is when it was dead-lettered between, to another exchange with another routing key.
fn keys(message: &amqp::Message) -> [u64; 2] {
    let content = (message.properties_digest, message.body_size, message.head_digest);
    [hash((content, &message.exchange, &message.routing_key)), hash((content, "dead letters"))]
}

/// The queue that a delivery came from, as far as it can be told: its name, else its consumer.
fn queue(message: &amqp::Message, connection: ConnectionId) -> u64 {
    match &message.queue {
        Some(name) => hash(name),
        None => hash((connection, message.channel, &message.consumer_tag)),
    }
}

impl Equal {
    /// The next that a queue gets: the oldest that it has not got and that fits. A message that is delivered again is the
    /// one that it has got last.
    fn give(&mut self, queue: u64, again: bool, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let place = self.queues.iter().position(|given| given.queue == queue);
        let place = place.unwrap_or_else(|| {
            self.queues.push(Given { queue, ..Given::default() });
            self.queues.len() - 1
        });
        let given = self.queues.get_mut(place)?;
        if again && given.last != 0 && fits(given.last) {
            return Some(given.last);
        }
        let first = self.ids.partition_point(|id| *id < given.from);
        let rest = self.ids.range(first..).filter(|id| !given.ahead.contains(id));
        let found = rest.take(LOOK_AHEAD).copied().find(|id| fits(*id))?;
        given.last = found;
        given.ahead.insert(found);
        for id in self.ids.range(first..) {
            if !given.ahead.remove(id) {
                break;
            }
            given.from = id + 1;
        }
        Some(found)
    }
}

impl Publishes {
    /// Remembers a publish, at its first report.
    pub(super) fn insert_once(&mut self, operation: OperationId, message: &amqp::Message, sent: u64) {
        if self.by_operation.contains_key(&operation) {
            return;
        }
        let body = message.digest_complete.then_some(message.body_digest);
        self.add(Published { operation, span: None, sent, body, keys: keys(message).map(Some) });
    }

    /// Whether an operation has been sent completely.
    pub(super) fn has(&self, operation: OperationId) -> bool {
        self.by_operation.contains_key(&operation)
    }

    /// Remembers what an operation has sent, by keys.
    pub(super) fn insert(&mut self, operation: OperationId, sent: u64, keys: impl Iterator<Item = u64>) {
        for key in keys {
            self.add(Published { operation, span: None, sent, body: None, keys: [Some(key), None] });
        }
    }

    /// Remembers a publish that was found by other means.
    pub(super) fn adopt(&mut self, operation: OperationId, place: Place, sent: u64) -> u64 {
        let span = match place {
            Place::Open(_) => None,
            Place::Made(trace_id, span_id) => Some((trace_id, span_id)),
        };
        self.add(Published { operation, span, sent, body: None, keys: [None, None] })
    }

    fn add(&mut self, published: Published) -> u64 {
        self.next += 1;
        let id = self.next;
        for key in published.keys.into_iter().flatten() {
            self.equal.entry(key).or_default().ids.push_back(id);
        }
        if published.span.is_none() {
            // What other operations have published between makes a few more of a range: they are passed over.
            let range = self.by_operation.entry(published.operation).or_insert((id, 0));
            range.1 = id - range.0 + 1;
        }
        self.all.insert(id, published);
        if self.all.len() > PUBLISHED_MAX {
            self.forget_oldest();
        }
        id
    }

    /// Forgets a publish that no queue has taken.
    pub(super) fn forget(&mut self, operation: OperationId) {
        for id in self.take_operation(operation) {
            self.remove(id);
        }
    }

    /// The publishes of an operation, which is not looked for any more.
    fn take_operation(&mut self, operation: OperationId) -> Vec<u64> {
        let Some((first, count)) = self.by_operation.remove(&operation) else { return Vec::new() };
        let of_operation = |id: &u64| self.all.get(id).is_some_and(|found| found.operation == operation);
        (first..first + count).filter(of_operation).collect()
    }

    fn forget_oldest(&mut self) {
        while self.oldest < self.next {
            self.oldest += 1;
            if self.remove(self.oldest) {
                return;
            }
        }
    }

    fn remove(&mut self, id: u64) -> bool {
        let Some(published) = self.all.remove(&id) else { return false };
        self.by_operation.remove(&published.operation);
        for key in published.keys.into_iter().flatten() {
            let Some(equal) = self.equal.get_mut(&key) else { continue };
            if let Ok(place) = equal.ids.binary_search(&id) {
                equal.ids.remove(place);
            }
            if equal.ids.is_empty() {
                self.equal.remove(&key);
            }
        }
        true
    }

    /// The publish of a delivered message. Of equal ones each queue gets them in their order.
    pub(super) fn find(&mut self, sought: &Sought, before: u64) -> Option<u64> {
        let equal = self.equal.get_mut(&sought.key?)?;
        let body = sought.body;
        let fits = |id: u64| {
            self.all.get(&id).is_some_and(|published| {
                published.sent <= before
                    && (body.is_none() || published.body.is_none() || body == published.body)
            })
        };
        equal.give(sought.queue, sought.again, fits)
    }

    /// The span of a publish is made.
    pub(super) fn made(&mut self, operation: OperationId, trace_id: [u8; 16], span_id: [u8; 8]) {
        for id in self.take_operation(operation) {
            if let Some(published) = self.all.get_mut(&id) {
                published.span = Some((trace_id, span_id));
            }
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
        while let Some(id) = (self.oldest < self.next).then_some(self.oldest + 1)
            && self.all.get(&id).is_none_or(|published| published.sent + PUBLISHED_KEPT < now)
        {
            self.oldest = id;
            self.remove(id);
        }
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conn::ConnectionId,
        protocol::{Detail, Event, Mark, Parser as _, Side, amqp::Amqp},
    };

    /// A connection's number; which does not matter here.
    fn connection() -> ConnectionId {
        ConnectionId::default()
    }

    /// A publish to `exchange` with `key`, and what a parser makes of it.
    fn message(exchange: &str, key: &str, body: &[u8]) -> amqp::Message {
        let short = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let frame = |kind: u8, payload: &[u8]| {
            [&[kind, 0, 1][..], &(payload.len() as u32).to_be_bytes(), payload, &[0xce]].concat()
        };
        let method = [&[0, 60, 0, 40, 0, 0][..], &short(exchange), &short(key), &[0]].concat();
        let header = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), &[0, 0]].concat();
        let bytes = [frame(1, &method), frame(2, &header), frame(3, body)].concat();
        let mut events = Vec::new();
        Amqp::new().data(Side::Request, &bytes, Mark::default(), &mut events);
        let message = events.into_iter().find_map(|event| match event {
            Event::End { detail: Detail::Amqp(message), .. } => Some(*message),
            _ => None,
        });
        message.expect("a whole publish")
    }

    fn delivered(queue: &str, message: &amqp::Message) -> amqp::Message {
        amqp::Message { kind: amqp::Kind::Delivery, queue: Some(queue.to_owned()), ..message.clone() }
    }

    fn sought(message: &amqp::Message) -> Sought {
        Sought::of(message, connection())
    }

    #[test]
    fn equal_messages_are_found_in_their_order_by_each_queue() {
        let mut publishes = Publishes::default();
        let message = message("jobs", "a", b"x");
        for number in 1..=3 {
            publishes.insert_once(OperationId(number), &message, number);
        }
        let mut next = |queue: &str| publishes.find(&sought(&delivered(queue, &message)), 10);
        assert_eq!([next("q"), next("q"), next("r"), next("q"), next("r")], [1, 2, 1, 3, 2].map(Some));
    }

    #[test]
    fn only_what_agrees_is_found() {
        let mut publishes = Publishes::default();
        publishes.insert_once(OperationId(1), &message("jobs", "a", b"x"), 1);
        let mut find = |message: &amqp::Message| publishes.find(&sought(&delivered("q", message)), 10);
        assert_eq!(find(&message("jobs", "b", b"x")), None, "another routing key");
        assert_eq!(find(&message("events", "a", b"x")), None, "another exchange");
        assert_eq!(find(&message("jobs", "a", b"y")), None, "another body");
        assert_eq!(find(&message("jobs", "a", b"x")), Some(1));
    }

    #[test]
    fn what_was_not_sent_yet_is_not_found() {
        let mut publishes = Publishes::default();
        let message = message("jobs", "a", b"x");
        publishes.insert_once(OperationId(1), &message, 100);
        assert_eq!(publishes.find(&sought(&delivered("q", &message)), 99), None);
    }

    #[test]
    fn redelivery_and_dead_letters_keep_the_publish() {
        let mut publishes = Publishes::default();
        let message = message("jobs", "a", b"x");
        publishes.insert_once(OperationId(1), &message, 1);
        publishes.insert_once(OperationId(2), &message, 2);
        let first = delivered("q", &message);
        assert_eq!(publishes.find(&sought(&first), 10), Some(1));
        let again = amqp::Message { redelivered: true, ..first.clone() };
        assert_eq!(publishes.find(&sought(&again), 10), Some(1));
        let dead = amqp::Message {
            exchange: "dead".to_owned(),
            death: Some(Box::default()),
            ..delivered("dead letters", &message)
        };
        assert_eq!(publishes.find(&sought(&dead), 10), Some(1));
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut publishes = Publishes::default();
        let old = message("jobs", "old", b"x");
        publishes.insert_once(OperationId(0), &old, 0);
        let message = message("jobs", "a", b"x");
        for number in 1..=PUBLISHED_MAX as u64 {
            publishes.insert_once(OperationId(number), &message, number);
        }
        assert_eq!(publishes.len(), PUBLISHED_MAX);
        assert_eq!(publishes.find(&sought(&delivered("q", &old)), u64::MAX), None);
        publishes.sweep(u64::MAX - 1);
        assert_eq!((publishes.len(), publishes.equal.len(), publishes.by_operation.len()), (0, 0, 0));
    }
}
