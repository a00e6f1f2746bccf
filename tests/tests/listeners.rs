//! Messages that nobody acknowledges: Redis channels and lists, notifications of Postgres. Each is handled under the span
//! that sent it, or in a batch that is linked to it.

use std::{collections::HashSet, thread, time::Duration};

use adder_tests::{
    collector::CollectedSpan,
    judge::find_rid,
    load::Load,
    python::{App, EventLoop},
    rig::Rig,
    watch::{Watched, watch_between},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Messages that come one by one, before the load.
const SINGLE: usize = 10;
const REQUESTS: usize = 400;

struct Case<'a> {
    way: &'a str,
    python: &'a str,
    event_loop: EventLoop,
    path: &'a str,
    connections: usize,
    /// Name of the consumer spans.
    name: &'a str,
    /// Each message has a span of its own, however many come at a time.
    single: bool,
}

fn run(case: &Case<'_>) {
    let rig = Rig::start(&format!("listeners-{}", case.way), "schedule-api", case.python, false);
    let rig = rig.expect("servers");
    let Rig { dir, venv, environment, .. } = &rig;
    let event_loop = if matches!(case.event_loop, EventLoop::Uvloop) { "uvloop" } else { "asyncio" };
    let listening = environment.clone().named("listener").set("EVENT_LOOP", event_loop);
    let kind = "jobs";
    let listener =
        App::worker(venv, dir, "listener.py", &[case.way, kind], &listening).expect("a listener starts");
    let api = App::uvicorn(venv, dir, "schedule_api:app", case.event_loop, 1, environment);
    let api = api.expect("the publishing service starts");
    let path = format!("{}/{kind}", case.path);
    let load = Load {
        port: api.port(),
        connections: case.connections,
        requests: REQUESTS,
        paths: vec![path.clone()],
        tls: api.tls(),
    };
    let pids = [api.pid(), listener.pid()];
    let one_by_one = || {
        // The first shows the agent, who came late, where messages come from; it is not judged.
        api.get(&path)?;
        thread::sleep(Duration::from_secs(3));
        for number in 0..SINGLE {
            api.get(&format!("{path}?rid=single{number}"))?;
            thread::sleep(Duration::from_millis(700));
        }
        Ok(())
    };
    let watched = watch_between(dir, &pids, one_by_one, &load, || {
        thread::sleep(Duration::from_secs(3));
        Ok(())
    });
    let watched = watched.expect("a watched load");
    assert_eq!(watched.report.failed(), 0, "every request is answered");
    watched.expect_right_parents();
    expect_consumers(case, &watched);
}

fn expect_consumers(case: &Case<'_>, watched: &Watched) {
    let is_sender = |span: &&CollectedSpan| {
        let text = span.attribute("db.query.text").unwrap_or_default();
        span.service() == "schedule-api" && span.span.kind() == SpanKind::Client && find_rid(&text).is_some()
    };
    let senders: HashSet<_> =
        watched.spans.iter().filter(is_sender).map(|span| span.span.span_id.clone()).collect();
    let consumers = watched.spans.iter().filter(|span| span.span.kind() == SpanKind::Consumer);
    let (mut children, mut batched, mut batches) = (HashSet::new(), HashSet::new(), 0);
    for consumer in consumers {
        assert_eq!((consumer.service(), consumer.span.name.as_str()), ("listener", case.name));
        if consumer.span.links.is_empty() {
            assert!(children.insert(consumer.span.parent_span_id.clone()), "one consumer for each message");
        } else {
            assert!(consumer.span.parent_span_id.is_empty(), "a batch is nobody's child");
            batches += 1;
            batched.extend(consumer.span.links.iter().map(|link| link.span_id.clone()));
        }
    }
    println!(
        "{}: {} messages of their own, {} in {batches} batches",
        case.way,
        children.len(),
        batched.len()
    );
    // The first message of all bears no id.
    let strange = children.iter().chain(&batched).filter(|id| !senders.contains(*id)).count();
    assert!(strange <= 1, "consumers come of what was sent");
    assert_eq!(children.intersection(&batched).count(), 0, "a message is in one place");
    let handled = |id: &&Vec<u8>| children.contains(*id) || batched.contains(*id);
    assert_eq!(senders.iter().filter(handled).count(), REQUESTS + SINGLE, "every message was handled");
    assert!(children.len() >= if case.single { REQUESTS + SINGLE } else { SINGLE }, "{children:?}");
}

/// A case with what most of them have.
const CASE: Case<'static> = Case {
    way: "",
    python: "3.11",
    event_loop: EventLoop::Uvloop,
    path: "",
    connections: 16,
    name: "process jobs",
    single: false,
};

#[test]
fn a_subscription_of_a_task() {
    run(&Case { way: "channel", path: "/redis-publish", ..CASE });
}

#[test]
fn a_subscription_with_a_task_for_each_message() {
    run(&Case {
        way: "channel-tasks",
        path: "/redis-publish",
        python: "3.13",
        event_loop: EventLoop::Asyncio,
        ..CASE
    });
}

#[test]
fn a_subscription_of_a_thread() {
    run(&Case { way: "channel-thread", path: "/redis-publish", ..CASE });
}

#[test]
fn tasks_that_wait_at_a_list() {
    run(&Case { way: "list", path: "/redis-push", python: "3.13", connections: 64, single: true, ..CASE });
}

#[test]
fn a_thread_that_waits_at_a_list() {
    run(&Case { way: "list-thread", path: "/redis-push", connections: 64, single: true, ..CASE });
}

#[test]
fn notifications_that_psycopg2_polls() {
    run(&Case { way: "notify", path: "/notify", ..CASE });
}

#[test]
fn notifications_that_psycopg_waits_for() {
    run(&Case { way: "notify-psycopg", path: "/notify-later", python: "3.13", ..CASE });
}

#[test]
fn notifications_of_asyncpg() {
    run(&Case { way: "notify-asyncpg", path: "/notify", ..CASE });
}
