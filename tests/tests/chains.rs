//! Messages that take a longer way: refused and delivered again, dead-lettered, answered, delivered late.

use std::{thread, time::Duration};

use adder_tests::{
    agent::Agent,
    collector::{CollectedSpan, Collector, Protocol},
    load::Load,
    python::{App, EventLoop},
    rig::Rig,
    watch::{Watched, watch_between},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const REQUESTS: usize = 200;

struct Chain(Rig);

impl Chain {
    fn start(name: &str) -> Self {
        Self(Rig::start(name, "schedule-api", "3.11", true).expect("servers"))
    }

    fn worker(&self, way: &str, kind: &str) -> App {
        let environment = self.0.environment.clone().named(way);
        App::worker(&self.0.venv, &self.0.dir, "worker.py", &[way, kind], &environment)
            .expect("a worker starts")
    }

    fn api(&self) -> App {
        let api = App::uvicorn(
            &self.0.venv,
            &self.0.dir,
            "schedule_api:app",
            EventLoop::Uvloop,
            1,
            &self.0.environment,
        );
        api.expect("the publishing service starts")
    }

    /// Watches a load of this path, after a first message that shows the agent, who came late, what is there.
    fn watch(&self, api: &App, workers: &[&App], path: &str) -> Watched {
        let mut pids = vec![api.pid()];
        pids.extend(workers.iter().map(|worker| worker.pid()));
        let load = Load {
            port: api.port(),
            connections: 16,
            requests: REQUESTS,
            paths: vec![path.to_owned()],
            tls: api.tls(),
        };
        let first = || {
            for _ in 0..3 {
                api.get(path)?;
                thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        };
        let watched = watch_between(&self.0.dir, &pids, first, &load, || self.0.wait_empty());
        let watched = watched.expect("a watched load");
        assert_eq!(watched.report.failed(), 0, "every request is answered");
        watched.expect_right_parents();
        watched
    }
}

fn consumers<'a>(spans: &'a [CollectedSpan], service: &str) -> Vec<&'a CollectedSpan> {
    let of_service = spans.iter().filter(|span| span.service() == service);
    of_service.filter(|span| span.span.kind() == SpanKind::Consumer).collect()
}

fn outcomes(spans: &[&CollectedSpan], outcome: &str) -> usize {
    let settled = spans.iter().filter_map(|span| span.attribute("adder.messaging.outcome"));
    settled.filter(|settled| settled == outcome).count()
}

#[test]
fn a_message_that_is_delivered_again_keeps_its_publish() {
    let chain = Chain::start("chains-again");
    let again = chain.worker("again", "jobs");
    let api = chain.api();
    let watched = chain.watch(&api, &[&again], "/publish/jobs");
    let deliveries = consumers(&watched.spans, "again");
    assert_eq!(deliveries.len(), (REQUESTS + 3) * 2);
    assert_eq!((outcomes(&deliveries, "nack"), outcomes(&deliveries, "ack")), (REQUESTS + 3, REQUESTS + 3));
    assert!(deliveries.iter().all(|span| !span.span.parent_span_id.is_empty()), "each is under its publish");
    drop((again, api));
}

#[test]
fn a_dead_letter_keeps_its_publish() {
    let chain = Chain::start("chains-dead");
    let refuse = chain.worker("refuse", "jobs");
    let dead = chain.worker("dead", "dead");
    let api = chain.api();
    let watched = chain.watch(&api, &[&refuse, &dead], "/publish/jobs");
    let (refused, taken) = (consumers(&watched.spans, "refuse"), consumers(&watched.spans, "dead"));
    assert_eq!((refused.len(), taken.len()), (REQUESTS + 3, REQUESTS + 3));
    assert_eq!((outcomes(&refused, "reject"), outcomes(&taken, "ack")), (REQUESTS + 3, REQUESTS + 3));
    assert!(taken.iter().all(|span| !span.span.parent_span_id.is_empty()), "each is under its publish");
    assert!(taken.iter().all(|span| span.attribute("adder.messaging.death.count").as_deref() == Some("1")));
    drop((refuse, dead, api));
}

#[test]
fn an_answer_is_in_the_trace_of_the_question() {
    let chain = Chain::start("chains-answer");
    let answer = chain.worker("answer", "jobs");
    let api = chain.api();
    let watched = chain.watch(&api, &[&answer], "/call/jobs");
    let answers = consumers(&watched.spans, "schedule-api");
    assert_eq!((answers.len(), consumers(&watched.spans, "answer").len()), (REQUESTS + 3, REQUESTS + 3));
    let is_answered = |answer: &&&CollectedSpan| {
        let of_trace = watched.spans.iter().filter(|span| span.span.trace_id == answer.span.trace_id);
        of_trace.filter(|span| span.span.kind() == SpanKind::Server).count() == 1
    };
    // The first publish on a connection that is older than the agent has no parent.
    assert!(answers.iter().filter(is_answered).count() >= REQUESTS + 2, "question and answer are one trace");
    drop((answer, api));
}

#[test]
fn a_late_delivery_is_linked_to_its_publish() {
    let chain = Chain::start("chains-late");
    let worker = chain.worker("callbacks", "jobs");
    let api = chain.api();
    let collector = Collector::start().expect("a collector");
    let config = chain.0.dir.join("adder.toml");
    std::fs::write(&config, "[messaging]\nlink_after = 2\n").expect("a file");
    let pids = [api.pid().to_string(), worker.pid().to_string()];
    let file = config.display().to_string();
    let arguments = ["run", "--config", &file, "--pid", &pids[0], "--pid", &pids[1]];
    let mut variables = collector.env(Protocol::Grpc);
    variables.push(("ADDER_SQL_TEXT".into(), "raw".into()));
    let agent = Agent::start(&chain.0.dir, &arguments, variables).expect("the agent starts");
    let publish = |number: usize| api.get(&format!("/publish/jobs?rid=late{number}")).expect("an answer");
    for number in 0..3 {
        publish(number);
        thread::sleep(Duration::from_millis(300));
    }
    worker.process().signal(libc::SIGSTOP);
    publish(3);
    thread::sleep(Duration::from_secs(3));
    worker.process().signal(libc::SIGCONT);
    chain.0.wait_empty().expect("all messages are taken");
    thread::sleep(Duration::from_secs(2));
    agent.stop().expect("the agent ends");
    let spans = collector.spans();
    let deliveries = consumers(&spans, "callbacks");
    let (late, prompt): (Vec<_>, Vec<_>) =
        deliveries.into_iter().partition(|span| !span.span.links.is_empty());
    assert_eq!((late.len(), prompt.len()), (1, 3));
    assert!(prompt.iter().all(|span| !span.span.parent_span_id.is_empty()), "prompt ones are children");
    let (late, link) = (&late[0].span, &late[0].span.links[0]);
    assert!(late.parent_span_id.is_empty(), "the late one is a trace of its own");
    let publish = spans.iter().find(|span| span.span.span_id == link.span_id).expect("the linked span");
    assert_eq!((publish.span.kind(), &publish.span.trace_id), (SpanKind::Producer, &link.trace_id));
    let of_late = spans.iter().filter(|span| span.span.parent_span_id == late.span_id).count();
    assert!(of_late >= 3, "its work is below it");
    drop((worker, api));
}
