//! gRPC by grpcio, whose core sends and reads on threads of its own: each call below its request, each statement below its call.

use std::{thread, time::Duration};

use adder_tests::{
    collector::CollectedSpan,
    load::Load,
    python::{App, Environment, EventLoop},
    rig::Rig,
    watch::watch_between,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const REQUESTS: usize = 1000;
const PARALLEL: usize = 64;
/// Which paths call what, and how that ends (`rpc.grpc.status_code`).
const PATHS: [(&str, &str, &str); 7] = [
    ("/find", "Find", "0"),
    ("/watch", "Watch", "0"),
    ("/collect", "Collect", "0"),
    ("/chat", "Chat", "0"),
    ("/refuse", "Refuse", "5"),
    ("/unknown", "NoSuch", "12"),
    ("/late", "Sleep", "4"),
];

/// The called service and the calling one, by threads or by tasks (`GRPC=threads|aio`).
fn services(rig: &Rig, mode: &str, environment: impl Fn(Environment) -> Environment) -> (App, App) {
    let of = |name: &str| environment(rig.environment.clone().named(name).set("GRPC", mode));
    let roster = App::uvicorn(&rig.venv, &rig.dir, "roster:app", EventLoop::Asyncio, 1, &of("roster"));
    let roster = roster.expect("the called service starts");
    let (_, port) = roster.get("/grpc").expect("its port");
    let environment = of("guild").set("ROSTER", &format!("127.0.0.1:{port}"));
    let guild = App::uvicorn(&rig.venv, &rig.dir, "guild:app", EventLoop::Asyncio, 1, &environment);
    (roster, guild.expect("the calling service starts"))
}

fn run(name: &str, mode: &str, connections: usize) {
    let rig = Rig::start(name, "guild", "3.11", false).expect("servers");
    let (roster, guild) = services(&rig, mode, |environment| environment);
    let load = Load {
        port: guild.port(),
        connections,
        requests: REQUESTS,
        paths: PATHS.map(|(path, ..)| path.to_owned()).to_vec(),
        tls: None,
    };
    let warm_up = || {
        for (path, ..) in PATHS {
            guild.get(path)?;
        }
        Ok(thread::sleep(Duration::from_secs(1)))
    };
    let watched = watch_between(&rig.dir, &[guild.pid(), roster.pid()], warm_up, &load, || Ok(()));
    let watched = watched.expect("a watched load");
    assert_eq!(watched.report.failed(), 0, "every request is answered");
    let of = |kind: SpanKind| {
        let rpc = |span: &&CollectedSpan| span.attribute("rpc.system").as_deref() == Some("grpc");
        watched.spans.iter().filter(rpc).filter(move |span| span.span.kind() == kind)
    };
    let alone = |kind| of(kind).filter(|span| span.span.parent_span_id.is_empty()).count();
    println!(
        "{} calls, {} of them without a parent; {} served, {} without a parent",
        of(SpanKind::Client).count(),
        alone(SpanKind::Client),
        of(SpanKind::Server).count(),
        alone(SpanKind::Server)
    );
    watched.expect_right_parents();
    for service in [&guild, &roster] {
        let told = service.truth().expect("the service's own counts");
        let differences = watched.verdict.differences(service.service(), &told);
        assert!(differences.is_empty(), "{differences:#?}");
    }
    drop((guild, roster, rig));
}

#[test]
fn blocking_calls_one_after_the_other() {
    run("grpc-single", "threads", 1);
}

#[test]
fn blocking_calls_side_by_side() {
    run("grpc", "threads", PARALLEL);
}

#[test]
fn calls_of_tasks_one_after_the_other() {
    run("grpc-aio-single", "aio", 1);
}

#[test]
fn calls_of_tasks_side_by_side() {
    run("grpc-aio", "aio", PARALLEL);
}
