//! WebSocket servers and clients: what is done for a message, below it.
//!
//! Each message is an id, which its handler plants in all that it does (`tests/apps/sockets.py`).

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    judge::find_rid,
    python::{App, Counts, Environment, EventLoop},
    rig::Rig,
    wait_until,
    watch::attach,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Time in which the last spans are settled and sent.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// Time in which it is seen who wakes whom, from the first connection on.
const EARLY: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 16;
const MESSAGES: usize = 20;

/// The id that an operation carries.
fn rid(span: &CollectedSpan) -> Option<String> {
    find_rid(&span.attribute("db.query.text")?).map(str::to_owned)
}

fn run(name: &str, python: &str, start: impl FnOnce(&Rig) -> App) {
    let rig = Rig::start(&format!("sockets-{name}"), "sockets-api", python, false).expect("servers");
    let app = start(&rig);
    let (connections, messages) = (CONNECTIONS.to_string(), MESSAGES.to_string());
    let arguments = ["load", &app.url(""), &connections, &messages];
    let spans = watch(&rig, &app, || {
        let client = App::worker(&rig.venv, &rig.dir, "sockets.py", &arguments, &Environment::new("client"));
        drop(client.expect("every message is answered"));
    });
    let truth = app.truth().expect("what the service did");
    judge(name, &spans, &truth, SpanKind::Server, Duration::ZERO);
}

/// The spans of a process while something is done.
fn watch(rig: &Rig, app: &App, work: impl FnOnce()) -> Vec<CollectedSpan> {
    let collector = Collector::start().expect("a collector");
    let (agent, recorder) = attach(&rig.dir, &[app.pid()], &collector).expect("the agent");
    work();
    thread::sleep(AFTERWARDS);
    let (status, lines) = agent.stop().expect("the agent ends");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    assert!(status.success(), "{lines:#?}");
    collector.spans()
}

/// A bot, whose connections are made under the agent's eyes.
/// What is done so early, counted from when its first connection stands, may have no parent, or the job in which the bot has connected:
/// that is before it is seen who wakes whom. It is no number of messages: the first connection gets more of them in that time.
fn run_bot(library: &str, python: &str, event_loop: EventLoop, early: Duration) {
    let name = format!("sockets-bot-{library}");
    let rig = Rig::start(&name, "bot", python, false).expect("servers");
    let script = |environment: Environment| {
        App::script(&rig.venv, &rig.dir, "sockets.py", event_loop, &environment).expect("a script")
    };
    let feed = script(Environment::new("feed").set("MESSAGES", &MESSAGES.to_string()));
    let connections = CONNECTIONS.to_string();
    let environment = rig.environment.clone().set("FEED", &feed.url("")).set("CONNECTIONS", &connections);
    let bot = script(environment.set("CLIENT", library));
    let spans = watch(&rig, &bot, || {
        thread::sleep(Duration::from_secs(1));
        feed.get("/open").expect("an answer");
        let is_done = || feed.get("/done").is_ok_and(|(_, done)| done == connections);
        let all = wait_until(Duration::from_secs(30), is_done);
        assert!(all, "every message is answered: {}", bot.process().log_tail());
    });
    let truth = bot.truth().expect("what the bot did");
    judge(&name, &spans, &truth, SpanKind::Client, early);
}

fn judge(
    name: &str,
    spans: &[CollectedSpan],
    truth: &BTreeMap<String, Counts>,
    handshakes: SpanKind,
    early: Duration,
) {
    let of_kind = |kind| spans.iter().filter(move |span| span.span.kind() == kind);
    let upgrades: Vec<_> = of_kind(handshakes)
        .filter(|span| span.attribute("http.response.status_code").as_deref() == Some("101"))
        .collect();
    assert_eq!(upgrades.len(), CONNECTIONS, "one span for each handshake");
    let begun = upgrades.iter().map(|span| span.span.end_time_unix_nano).min().unwrap_or_default();
    let until = begun.saturating_add(u64::try_from(early.as_nanos()).unwrap_or(u64::MAX));
    let is_early = |span: &CollectedSpan| !early.is_zero() && span.span.start_time_unix_nano < until;
    let consumers: BTreeMap<_, _> =
        of_kind(SpanKind::Consumer).map(|span| (span.span.span_id.clone(), span)).collect();
    let jobs: BTreeSet<_> = of_kind(SpanKind::Internal).map(|span| span.span.span_id.clone()).collect();
    let mut served: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    let (mut right, mut unseen, mut last, mut wrong) = (0, 0, 0, Vec::new());
    for span in of_kind(SpanKind::Client) {
        let Some(rid) = rid(span) else { continue };
        let parent = &span.span.parent_span_id;
        match consumers.get(parent) {
            Some(_) => {
                right += 1;
                served.entry(parent.clone()).or_default().insert(rid);
            }
            None if is_early(span) && (parent.is_empty() || jobs.contains(parent)) => {
                unseen += 1;
                last = last.max(span.span.start_time_unix_nano - begun);
            }
            None => wrong.push(format!("{} of {rid}: parent {parent:?}", span.span.name)),
        }
    }
    let operations: usize = truth.values().map(|counts| counts.sql + counts.redis).sum();
    // Two that come together may be one, as any messages that nobody acknowledges.
    let crowded = served.values().filter(|rids| rids.len() > 1).count();
    println!(
        "{name}: {right} of {operations} operations below a message, {unseen} early ones (up to {} ms) not, {} wrong; {} messages, {crowded} stand for several",
        last / 1_000_000,
        wrong.len(),
        served.len(),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(unseen * 3 <= operations, "{unseen} of {operations} are not below their messages");
    assert_eq!(operations, CONNECTIONS * MESSAGES * 4, "four for each message");
    // The command that finds nothing, as the only thing that was done in the job that has connected, is not shown.
    let hidden = operations - right - unseen;
    assert!(hidden <= if early.is_zero() { 0 } else { CONNECTIONS }, "{hidden} operations have no span");
    for (message, rids) in &served {
        assert!(rids.len() <= 2, "{rids:?}");
        let span = consumers[message];
        let connection = |rid: &String| rid.split_once('x').map(|(connection, _)| connection.to_owned());
        let connections: BTreeSet<_> = rids.iter().filter_map(connection).collect();
        assert_eq!(connections.len(), 1, "messages of one connection: {rids:?}");
        let number = connections.first().and_then(|text| text.strip_prefix("ws")).unwrap_or_default();
        assert_eq!(span.attribute("messaging.destination.name"), Some(format!("/live/{number}")));
        // One that was answered before the next came stands for itself.
        let is_odd = number.parse::<usize>().expect("a number") % 2 == 1;
        assert!(!is_odd || rids.len() == 1, "{rids:?}");
    }
}

#[test]
fn messages_to_uvicorn_on_asyncio() {
    run("asyncio", "3.11", |rig| {
        App::uvicorn(&rig.venv, &rig.dir, "sockets:app", EventLoop::Asyncio, 1, &rig.environment)
            .expect("uvicorn")
    });
}

#[test]
fn messages_to_uvicorn_on_uvloop() {
    run("uvloop", "3.13", |rig| {
        App::uvicorn(&rig.venv, &rig.dir, "sockets:app", EventLoop::Uvloop, 1, &rig.environment)
            .expect("uvicorn")
    });
}

#[test]
fn messages_to_aiohttp() {
    run("aiohttp", "3.11", |rig| {
        App::script(&rig.venv, &rig.dir, "sockets.py", EventLoop::Asyncio, &rig.environment).expect("aiohttp")
    });
}

#[test]
fn messages_to_a_bot_on_aiohttp() {
    run_bot("aiohttp", "3.11", EventLoop::Asyncio, EARLY);
}

#[test]
fn messages_to_a_bot_on_websockets() {
    run_bot("websockets", "3.11", EventLoop::Asyncio, EARLY);
}

/// A loop that is never at rest: in which context it calls a connection's protocol shows after some messages.
#[test]
fn messages_to_a_bot_on_uvloop() {
    run_bot("websockets", "3.13", EventLoop::Uvloop, EARLY);
}
