//! Daemons: one root span for each piece of work that began with a timer or a signal, and for what they do first, all that it
//! did below it, and none for what does nothing. The daemons say themselves what they did (`tests/apps/daemons.py`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    judge::find_rid,
    python::App,
    rig::Rig,
    watch::{attach, run as run_agent},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// How long a daemon is watched.
const WATCHED: Duration = Duration::from_secs(15);
/// Time in which a process is found to have tasks with timers, and is watched for them.
const LEARNING: Duration = Duration::from_secs(5);

/// Id of the work that a span is part of.
fn rid(span: &CollectedSpan) -> Option<String> {
    let keys = ["db.query.text", "db.operation.name", "messaging.message.conversation_id"];
    let texts = keys.map(|key| span.attribute(key).unwrap_or_default());
    find_rid(&texts.concat()).map(str::to_owned)
}

fn run(way: &str, python: &str, handlers: &[&str]) {
    let rig = Rig::start(&format!("daemons-{way}"), "daemon", python, way == "beat").expect("servers");
    let daemon = App::worker(&rig.venv, &rig.dir, "daemons.py", &[way], &rig.environment).expect("a daemon");
    let collector = Collector::start().expect("a collector");
    let notifier = (way == "select").then(|| {
        App::worker(&rig.venv, &rig.dir, "daemons.py", &["notifier"], &rig.environment).expect("a notifier")
    });
    let (agent, recorder) = attach(&rig.dir, &[daemon.pid()], &collector).expect("the agent");
    thread::sleep(LEARNING);
    let told = || fs::read_to_string(daemon.process().log()).unwrap_or_default();
    let before: BTreeSet<String> = works(&told()).into_keys().collect();
    let learned = unix_nanos();
    thread::sleep(WATCHED);
    // What is not done yet when it is stopped is not counted.
    let done = works(&told());
    thread::sleep(Duration::from_secs(4));
    let (status, lines) = agent.stop().expect("the agent ends");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    assert!(status.success(), "{lines:#?}");
    println!("{way}: {}", lines.join("\n"));
    let spans = collector.spans();
    let works: BTreeMap<String, usize> = done.into_iter().filter(|(rid, _)| !before.contains(rid)).collect();
    assert!(works.len() > 20, "{} pieces of work", works.len());
    let (notified, works): (BTreeMap<_, _>, _) =
        works.into_iter().partition(|(rid, _)| rid.starts_with("note"));
    let trigger = match way {
        "file" => "file",
        "signal" | "handlers" | "uvloop-handlers" => "signal",
        _ => "timer",
    };
    expect_jobs(&spans, &works, trigger, handlers, learned);
    if notifier.is_some() {
        expect_notified(&spans, &notified);
    }
    drop(daemon);
}

fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64
}

/// Ids of the work done, and how many operations each was.
fn works(log: &str) -> BTreeMap<String, usize> {
    let work = |line: &str| {
        let mut words = line.strip_prefix("did ")?.split(' ');
        let rid = words.next()?.to_owned();
        Some((rid, words.filter_map(|count| count.parse::<usize>().ok()).sum()))
    };
    log.lines().filter_map(work).collect()
}

fn expect_jobs(
    spans: &[CollectedSpan],
    works: &BTreeMap<String, usize>,
    trigger: &str,
    handlers: &[&str],
    learned: u64,
) {
    let jobs: BTreeMap<&[u8], &CollectedSpan> = spans
        .iter()
        .filter(|span| span.span.kind == SpanKind::Internal as i32)
        .map(|span| (span.span.span_id.as_slice(), span))
        .collect();
    let mut of_jobs: BTreeMap<&[u8], BTreeSet<String>> = BTreeMap::new();
    let mut found: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    for span in spans {
        if let Some(rid) = rid(span) {
            let parent = span.span.parent_span_id.as_slice();
            of_jobs.entry(parent).or_default().insert(rid.clone());
            found.entry(rid).or_default().push(parent);
        }
    }
    let mut wrong = Vec::new();
    for (rid, count) in works {
        let parents = found.get(rid).map(Vec::as_slice).unwrap_or_default();
        let same = parents.iter().all(|parent| *parent == parents[0]);
        let job = parents.first().and_then(|parent| jobs.get(parent));
        let right = parents.len() == *count && same && job.is_some() && of_jobs[parents[0]].len() == 1;
        if !right {
            wrong.push(format!(
                "{rid}: {} of {count}, one parent: {same}, a job: {}",
                parents.len(),
                job.is_some()
            ));
        }
    }
    println!("{} works, {} jobs, {} not right", works.len(), jobs.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Jobs that it has learned from may be parts of one.
    for job in jobs.values().filter(|job| job.span.start_time_unix_nano > learned) {
        assert!(job.span.parent_span_id.is_empty(), "a job is a root");
        assert_eq!(job.attribute("adder.trigger").as_deref(), Some(trigger));
        assert!(handlers.contains(&job.span.name.as_str()), "{}", job.span.name);
        assert_eq!(job.attribute("code.function.name").as_ref(), Some(&job.span.name));
        assert!(of_jobs.contains_key(job.span.span_id.as_slice()), "no job is empty");
    }
}

/// What a notification starts is below that, and no job.
fn expect_notified(spans: &[CollectedSpan], works: &BTreeMap<String, usize>) {
    assert!(works.len() > 20, "{} notifications", works.len());
    let kinds: BTreeMap<&[u8], i32> =
        spans.iter().map(|span| (span.span.span_id.as_slice(), span.span.kind)).collect();
    let below = |kind: SpanKind| {
        let of_work = spans.iter().filter(|span| rid(span).is_some_and(|rid| works.contains_key(&rid)));
        of_work.filter(|span| kinds.get(span.span.parent_span_id.as_slice()) == Some(&(kind as i32))).count()
    };
    println!("{} notifications: {} below a consumer span", works.len(), below(SpanKind::Consumer));
    assert_eq!((below(SpanKind::Consumer), below(SpanKind::Internal)), (works.len(), 0));
}

#[test]
fn a_loop_that_sleeps() {
    run("sleep", "3.11", &["Threads.work"]);
}

#[test]
fn a_listener_with_a_time_out() {
    run("select", "3.13", &["Threads.work"]);
}

#[test]
fn threads_that_wait_for_an_event_and_timers() {
    run("event", "3.11", &["Threads.work", "event.<locals>.again"]);
}

#[test]
fn apscheduler_in_the_background() {
    run("scheduler", "3.13", &["Threads.work"]);
}

#[test]
fn periodic_tasks_of_asyncio() {
    run("asyncio", "3.13", &["tasks.<locals>.periodic"]);
}

#[test]
fn periodic_tasks_of_uvloop() {
    run("uvloop", "3.11", &["tasks.<locals>.periodic"]);
}

#[test]
fn schedulers_of_the_standard_library_and_beside_it() {
    run("sched", "3.11", &["sched_events.<locals>.again"]);
    run("schedule", "3.13", &["Threads.work"]);
}

#[test]
fn signals() {
    run("signal", "3.13", &["Threads.work", "signals.<locals>.<lambda>"]);
}

#[test]
fn signals_that_a_loop_handles() {
    run("handlers", "3.11", &["handlers.<locals>.job", "handlers"]);
    run("uvloop-handlers", "3.13", &["handlers.<locals>.job", "handlers"]);
}

#[test]
fn what_comes_in_files() {
    run("file", "3.11", &["files.<locals>.<lambda>", "files.<locals>.with_program"]);
    run("file", "3.13", &["files.<locals>.<lambda>", "files.<locals>.with_program"]);
}

#[test]
fn waits_of_tasks_that_run_out() {
    run("timeouts", "3.11", &["timeouts.<locals>.periodic"]);
    run("timeouts", "3.13", &["timeouts.<locals>.periodic"]);
}

#[test]
fn apscheduler_on_an_event_loop() {
    run("coroutines", "3.11", &["coroutines.<locals>.job"]);
}

#[test]
fn celery_beat() {
    run("beat", "3.13", &["beat.<locals>.Beat.apply_async"]);
}

/// What a daemon does before its first wait is one span, `start`.
fn start(way: &str, python: &str, by_name: bool) {
    let rig = Rig::start(&format!("daemons-start-{way}"), "daemon", python, false).expect("servers");
    let collector = Collector::start().expect("a collector");
    let worker = |script: &str, arguments: &[&str]| {
        App::worker(&rig.venv, &rig.dir, script, arguments, &rig.environment).expect("a daemon")
    };
    let (launcher, agent, recorder) = if by_name {
        let script = rig.dir.join(format!("named-{}.py", std::process::id()));
        let daemons = std::env::current_dir().expect("a folder").join("apps/daemons.py");
        std::os::unix::fs::symlink(daemons, &script).expect("a name of its own");
        let script = script.to_str().expect("a path");
        let agent = run_agent(&rig.dir, &["--exec", script], &collector).expect("the agent");
        (worker(script, &[way]), agent, None)
    } else {
        let launcher = worker("daemons.py", &["launch", way]);
        let (agent, recorder) = attach(&rig.dir, &[launcher.pid()], &collector).expect("the agent");
        (launcher, agent, recorder)
    };
    thread::sleep(Duration::from_secs(15));
    let (status, lines) = agent.stop().expect("the agent ends");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    assert!(status.success(), "{lines:#?}");
    let told = works(&fs::read_to_string(launcher.process().log()).unwrap_or_default());
    let (first, count) = told.iter().find(|(rid, _)| rid.starts_with("first")).expect("it has worked");
    let spans = collector.spans();
    let is_start = |span: &&CollectedSpan| span.attribute("adder.trigger").as_deref() == Some("start");
    let starts: Vec<_> = spans.iter().filter(is_start).collect();
    assert_eq!(starts.len(), 1, "one span of the start");
    assert_eq!((starts[0].span.name.as_str(), starts[0].span.kind()), ("start", SpanKind::Internal));
    assert!(starts[0].span.parent_span_id.is_empty(), "it is a root");
    let parents: Vec<_> = spans
        .iter()
        .filter(|span| rid(span).as_ref() == Some(first))
        .map(|span| span.span.parent_span_id.clone())
        .collect();
    println!("{way}: {} of {count} operations below the start", parents.len());
    assert_eq!(parents, vec![starts[0].span.span_id.clone(); *count]);
    let others = spans
        .iter()
        .filter(|span| span.span.parent_span_id == starts[0].span.span_id)
        .filter_map(rid)
        .filter(|rid| rid != first);
    assert_eq!(others.collect::<Vec<_>>(), [""; 0], "nothing else is below it");
}

#[test]
fn what_a_daemon_does_first() {
    start("sleep", "3.11", false);
    start("asyncio", "3.13", false);
    start("uvloop", "3.11", true);
    start("sleep", "3.13", true);
}

/// Daemons that look for work and find none, for as many seconds as `ADDER_IDLE_SECONDS` says.
#[test]
fn polling_that_finds_nothing_is_no_span() {
    let seconds = std::env::var("ADDER_IDLE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let rig = Rig::start("daemons-idle", "daemon", "3.11", false).expect("servers");
    let environment = rig.environment.clone().set("IDLE", "1");
    let ways = [
        "sleep",
        "select",
        "event",
        "scheduler",
        "sched",
        "schedule",
        "asyncio",
        "uvloop",
        "timeouts",
        "coroutines",
    ];
    let daemons = ways.map(|way| {
        App::worker(&rig.venv, &rig.dir, "daemons.py", &[way], &environment.clone().named(way)).expect(way)
    });
    let collector = Collector::start().expect("a collector");
    let pids = daemons.each_ref().map(App::pid);
    let (agent, recorder) = attach(&rig.dir, &pids, &collector).expect("the agent");
    thread::sleep(LEARNING * 2);
    let learned = unix_nanos();
    thread::sleep(Duration::from_secs(seconds));
    let (status, lines) = agent.stop().expect("the agent ends");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    assert!(status.success(), "{lines:#?}");
    let (before, after): (Vec<_>, Vec<_>) =
        collector.spans().into_iter().partition(|span| span.span.start_time_unix_nano < learned);
    println!("{} spans while it learned, {} in {seconds} s", before.len(), after.len());
    for span in &after {
        println!("{} {:?}", span.span.name, span.service());
    }
    assert_eq!(after.len(), 0);
    // They are counted: each looks at least once in two seconds.
    let idle = collector.counts("adder.job.idle");
    println!("idle: {idle:?}");
    assert!(idle.values().sum::<u64>() > ways.len() as u64 * seconds / 2, "{idle:?}");
    assert!(idle.contains_key("Threads.work") && idle.contains_key("tasks.<locals>.periodic"), "{idle:?}");
}
