use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    export::{Snapshot, encode, tests::span},
    signal::Span,
};

fn queue(limits: Limits) -> (Queue<Span>, Arc<ExportStats>) {
    let stats = Arc::new(ExportStats::default());
    (Queue::new(limits, Backoff::seeded(1), Arc::clone(&stats)), stats)
}

fn limits(max_items: usize, batch_items: usize) -> Limits {
    Limits { max_items, batch_items, ..Limits::default() }
}

fn spans(ids: std::ops::Range<u64>) -> Vec<Span> {
    ids.map(span).collect()
}

fn ids(step: &Step<Span>) -> Vec<u64> {
    match step {
        Step::Send(spans) => spans.iter().map(|span| u64::from_be_bytes(span.span_id)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_message_leaves_when_it_is_full_or_its_oldest_span_is_old_enough() {
    let now = Instant::now();
    let (mut queue, _) = queue(limits(100, 3));
    assert!(queue.offer(spans(0..1), now));
    assert!(!queue.offer(spans(1..2), now + Duration::from_secs(1)));
    assert_eq!(queue.step(now), Step::Wait(Some(now + Duration::from_secs(5))));
    assert_eq!(ids(&queue.step(now + Duration::from_secs(5))), [0, 1]);
    queue.accepted(0, 1);
    assert!(queue.offer(spans(2..6), now));
    assert_eq!(ids(&queue.step(now)), [2, 3, 4]);
}

#[test]
fn spans_that_do_not_fit_are_dropped_and_those_under_way_count() {
    let now = Instant::now();
    let (mut queue, stats) = queue(limits(4, 2));
    queue.offer(spans(0..6), now);
    assert_eq!(stats.snapshot().dropped_queue_full, 2);
    assert_eq!(ids(&queue.step(now)), [0, 1]);
    queue.offer(spans(6..7), now);
    assert_eq!(stats.snapshot().dropped_queue_full, 3);
    queue.accepted(0, 1);
    queue.offer(spans(7..8), now);
    assert_eq!(stats.snapshot().dropped_queue_full, 3);
}

#[test]
fn bytes_are_bounded_too() {
    let now = Instant::now();
    let size = encode::approximate_size(&span(0));
    let (mut queue, stats) = queue(Limits { max_bytes: 2 * size, ..Limits::default() });
    queue.offer(spans(0..3), now);
    assert_eq!((queue.held(), queue.bytes()), (2, 2 * size));
    assert_eq!(stats.snapshot().dropped_queue_full, 1);
}

#[test]
fn a_message_is_never_larger_than_collectors_take() {
    let now = Instant::now();
    let (mut queue, _) = queue(Limits::default());
    let large = Span { name: "x".repeat(1024 * 1024), ..span(1) };
    queue.offer(vec![large; 7], now);
    let mut sizes = Vec::new();
    while let Step::Send(spans) = queue.step(now + Duration::from_secs(9)) {
        sizes.push(spans.len());
        queue.accepted(0, 1);
    }
    assert_eq!(sizes, [2, 2, 2, 1]);
}

#[test]
fn a_failed_message_is_sent_again_and_nothing_overtakes_it() {
    let now = Instant::now();
    let (mut queue, stats) = queue(limits(100, 2));
    queue.offer(spans(0..4), now);
    assert_eq!(ids(&queue.step(now)), [0, 1]);
    queue.failed(Some(Duration::from_secs(7)), now);
    let Step::Wait(Some(at)) = queue.step(now) else { panic!("no wait") };
    assert!(at >= now + Duration::from_secs(7));
    assert_eq!(queue.step(at), Step::Again);
    queue.accepted(0, 10);
    assert_eq!(ids(&queue.step(at)), [2, 3]);
    assert_eq!((stats.snapshot().retries, stats.snapshot().sent, stats.snapshot().bytes), (1, 2, 10));
}

#[test]
fn at_shutdown_a_waiting_message_gets_one_more_attempt_and_no_long_wait() {
    let now = Instant::now();
    let (mut queue, stats) = queue(limits(100, 2));
    queue.offer(spans(0..3), now);
    queue.step(now);
    for _ in 0..5 {
        queue.failed(None, now);
        queue.step(now + Duration::from_mins(1));
    }
    queue.failed(None, now);
    queue.shut_down(now, now + Duration::from_secs(3));
    assert_eq!(queue.step(now), Step::Again);
    queue.failed(None, now);
    assert_eq!(queue.step(now), Step::Stop);
    assert_eq!(stats.snapshot().dropped_shutdown, 3);
}

/// What may happen to a queue.
#[derive(Clone, Debug)]
enum Event {
    Offer(u64),
    Step,
    Accepted(u64),
    Refused,
    Failed(Option<u64>),
    Later(u64),
    ShutDown(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u64..12).prop_map(Event::Offer),
        6 => Just(Event::Step),
        4 => (0_u64..4).prop_map(Event::Accepted),
        1 => Just(Event::Refused),
        3 => prop::option::of(0_u64..20).prop_map(Event::Failed),
        3 => (0_u64..8).prop_map(Event::Later),
        1 => (0_u64..10).prop_map(Event::ShutDown),
    ]
}

/// The queue as one would tell it: which spans wait, which are under way, what became of the others.
#[derive(Default)]
struct Model {
    waiting: Vec<u64>,
    under_way: Vec<u64>,
    answer_due: bool,
    deadline: Option<Instant>,
    counts: Snapshot,
}

impl Model {
    fn give_up(&mut self) {
        self.counts.dropped_shutdown += (self.waiting.len() + self.under_way.len()) as u64;
        self.waiting.clear();
        self.under_way.clear();
        self.answer_due = false;
    }
}

proptest! {
    #[test]
    fn every_span_is_sent_once_or_counted_with_its_reason(events in prop::collection::vec(event(), 0..120)) {
        const MOST: usize = 20;
        const BATCH: usize = 5;
        let mut now = Instant::now();
        let (mut queue, stats) = queue(limits(MOST, BATCH));
        let mut model = Model::default();
        let mut next = 0;
        for event in events {
            match event {
                Event::Offer(count) => {
                    queue.offer(spans(next..next + count), now);
                    for id in next..next + count {
                        model.counts.offered += 1;
                        if model.deadline.is_some() {
                            model.counts.dropped_shutdown += 1;
                        } else if model.waiting.len() + model.under_way.len() < MOST {
                            model.waiting.push(id);
                        } else {
                            model.counts.dropped_queue_full += 1;
                        }
                    }
                    next += count;
                }
                Event::Step => {
                    if model.deadline.is_some_and(|deadline| now >= deadline) {
                        model.give_up();
                    }
                    match queue.step(now) {
                        Step::Send(spans) => {
                            prop_assert!(model.under_way.is_empty());
                            let count = spans.len();
                            prop_assert!((1..=BATCH).contains(&count));
                            model.under_way = model.waiting.drain(..count).collect();
                            prop_assert_eq!(ids(&Step::Send(spans)), model.under_way.clone());
                            model.answer_due = true;
                        }
                        Step::Again => {
                            prop_assert!(!model.under_way.is_empty() && !model.answer_due);
                            model.answer_due = true;
                            model.counts.retries += 1;
                        }
                        Step::Wait(until) => prop_assert!(
                            until.is_none_or(|until| until > now) || model.answer_due
                        ),
                        Step::Stop => {
                            // A queue that has given up early is empty; the model learns it from the counter.
                            prop_assert!(model.deadline.is_some());
                            model.give_up();
                            prop_assert_eq!(queue.held(), 0);
                        }
                    }
                }
                Event::Accepted(rejected) if model.answer_due => {
                    queue.accepted(rejected, 1);
                    let count = model.under_way.len() as u64;
                    model.counts.rejected += rejected.min(count);
                    model.counts.sent += count - rejected.min(count);
                    model.counts.bytes += 1;
                    model.under_way.clear();
                    model.answer_due = false;
                }
                Event::Refused if model.answer_due => {
                    queue.refused();
                    model.counts.dropped_not_retryable += model.under_way.len() as u64;
                    model.under_way.clear();
                    model.answer_due = false;
                }
                Event::Failed(asked) if model.answer_due => {
                    queue.failed(asked.map(Duration::from_secs), now);
                    model.answer_due = false;
                    if queue.held() == 0 {
                        prop_assert!(model.deadline.is_some());
                        model.give_up();
                    }
                }
                Event::Accepted(_) | Event::Refused | Event::Failed(_) => {}
                Event::Later(seconds) => now += Duration::from_secs(seconds),
                Event::ShutDown(seconds) => {
                    let deadline = now + Duration::from_secs(seconds);
                    queue.shut_down(now, deadline);
                    model.deadline = Some(model.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
                    if queue.held() == 0 {
                        model.give_up();
                    }
                }
            }
            prop_assert_eq!(queue.held(), model.waiting.len() + model.under_way.len());
            prop_assert_eq!(stats.snapshot(), model.counts);
            prop_assert!(queue.held() <= MOST);
        }
        // The end always comes, and accounts for everything.
        queue.shut_down(now, now);
        let last = queue.step(now);
        prop_assert_eq!(last, Step::Stop);
        let counts = stats.snapshot();
        prop_assert_eq!(counts.offered, counts.sent + counts.lost());
    }
}
