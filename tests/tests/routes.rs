//! `http.route` is what the framework itself calls the route, as each answer of the service says.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread,
    time::Duration,
};

use adder_tests::{
    collector::Collector,
    folder,
    python::{App, Environment, EventLoop},
    stack::{on_every_python, venv},
    watch::attach,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Time in which the agent finds the routes, and in which the last spans are sent.
const PAUSE: Duration = Duration::from_secs(3);

/// Status and body of an answer.
fn request(port: u16, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: routed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    (status, body.to_owned())
}

fn expect_routes(app: &App, dir: &Path, requests: &[(&str, &str)], refused: &[(&str, Option<&str>)]) {
    let collector = Collector::start().expect("a collector");
    let (agent, recorder) = attach(dir, &[app.pid()], &collector).expect("the agent");
    thread::sleep(PAUSE);
    let mut expected = Vec::new();
    for (method, path) in requests {
        let (status, route) = request(app.port(), method, path);
        assert_eq!(status, 200, "{method} {path}: {route}");
        expected.push((*method, *path, Some(route)));
    }
    for (path, route) in refused {
        let (status, _) = request(app.port(), "GET", path);
        assert_eq!(status, 404, "{path}");
        expected.push(("GET", *path, route.map(str::to_owned)));
    }
    thread::sleep(PAUSE);
    let (status, said) = agent.stop().expect("the agent ends");
    assert!(status.success(), "{said:#?}");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    let spans = collector.spans();
    for (method, path, route) in expected {
        let is = |key: &str, value: &str, span: &adder_tests::collector::CollectedSpan| {
            span.attribute(key).as_deref() == Some(value)
        };
        let found: Vec<_> = spans
            .iter()
            .filter(|span| span.span.kind() == SpanKind::Server)
            .filter(|span| is("url.path", path, span) && is("http.request.method", method, span))
            .collect();
        assert_eq!(found.len(), 1, "one span of {method} {path}");
        println!("{method} {path}: {route:?}");
        assert_eq!(found[0].attribute("http.route"), route, "{method} {path}");
        let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
        assert_eq!(found[0].span.name, name);
    }
}

const COMMON: [(&str, &str); 5] = [
    ("GET", "/games/latest"),
    ("GET", "/games/17"),
    ("GET", "/games/seventeen"),
    ("GET", "/files/a/b.txt"),
    ("GET", "/files/c"),
];

fn fastapi(name: &str, venv: &Path, event_loop: EventLoop) {
    let dir = folder(name).expect("a folder");
    let app = App::uvicorn(venv, &dir, "routed:app", event_loop, 1, &Environment::new(name));
    let more = [
        ("POST", "/games/17"),
        ("GET", "/players/3/games/17"),
        ("GET", "/shop/items/blue"),
        ("GET", "/plain/deep/thought"),
    ];
    let refused = [("/broken/door", Some("/broken/{reason}")), ("/nowhere/at/all", None)];
    expect_routes(&app.expect("the service"), &dir, &[&COMMON[..], &more].concat(), &refused);
}

#[test]
fn fastapi_and_mounts_under_uvicorn() {
    for (python, event_loop) in [("3.11", EventLoop::Uvloop), ("3.13", EventLoop::Asyncio)] {
        fastapi("routes-fastapi", &venv(python).expect("an environment"), event_loop);
    }
}

/// Flask under its own server, and under gunicorn with threads where they are that many.
fn flask(name: &str, venv: &Path, threads: Option<u32>) {
    let (dir, environment) = (folder(name).expect("a folder"), Environment::new(name));
    let app = match threads {
        Some(threads) => App::gunicorn(venv, &dir, "routed:flask_app()", 1, threads, &environment),
        None => App::flask(venv, &dir, "routed:flask_app()", &environment),
    };
    let more = [("POST", "/games/17"), ("GET", "/any/thing/else")];
    expect_routes(&app.expect("the service"), &dir, &[&COMMON[..], &more].concat(), &[]);
}

#[test]
fn flask_under_its_own_server_and_gunicorn() {
    flask("routes-flask", &venv("3.11").expect("an environment"), None);
    flask("routes-gthread", &venv("3.13").expect("an environment"), Some(4));
    flask("routes-sync", &venv("3.11").expect("an environment"), Some(1));
}

fn aiohttp(name: &str, venv: &Path, event_loop: EventLoop) {
    let dir = folder(name).expect("a folder");
    let app = App::script(venv, &dir, "routed.py", event_loop, &Environment::new(name));
    let more = [("GET", "/shop/items/blue"), ("GET", "/any/thing")];
    expect_routes(&app.expect("the service"), &dir, &[&COMMON[..], &more].concat(), &[("/nowhere", None)]);
}

#[test]
fn aiohttp_and_an_application_within() {
    for (python, event_loop) in [("3.11", EventLoop::Uvloop), ("3.13", EventLoop::Asyncio)] {
        aiohttp("routes-aiohttp", &venv(python).expect("an environment"), event_loop);
    }
}

/// Django under its own server, under gunicorn with threads where they are that many, or under uvicorn.
fn django(name: &str, venv: &Path, server: &str) {
    let (dir, environment) = (folder(name).expect("a folder"), Environment::new(name));
    let app = match server {
        "runserver" => App::script(venv, &dir, "web_django.py", EventLoop::Asyncio, &environment),
        "uvicorn" => App::uvicorn(venv, &dir, "web_django:asgi", EventLoop::Uvloop, 1, &environment),
        "sync" => App::gunicorn(venv, &dir, "web_django:wsgi", 1, 1, &environment),
        _ => App::gunicorn(venv, &dir, "web_django:wsgi", 1, 4, &environment),
    };
    let more = [
        ("POST", "/games/17"),
        ("GET", "/years/1984/"),
        ("GET", "/shop/"),
        ("GET", "/shop/items/blue"),
        ("GET", "/shop/old/17-wheel"),
    ];
    let refused =
        [("/broken/door", Some("broken/<reason>")), ("/nowhere/at/all", None), ("/years/84/", None)];
    expect_routes(&app.expect("the service"), &dir, &[&COMMON[..], &more].concat(), &refused);
}

#[test]
fn django_and_included_patterns() {
    for (server, python) in
        [("runserver", "3.11"), ("uvicorn", "3.13"), ("sync", "3.13"), ("gthread", "3.11")]
    {
        django(&format!("routes-django-{server}"), &venv(python).expect("an environment"), server);
    }
}

#[test]
#[ignore = "the whole matrix: `cargo xtask test --matrix`"]
fn routes_are_right_on_every_python() {
    on_every_python(|name, venv| {
        fastapi(&format!("routes-fastapi-{name}"), venv, EventLoop::Uvloop);
        flask(&format!("routes-gthread-{name}"), venv, Some(4));
        aiohttp(&format!("routes-aiohttp-{name}"), venv, EventLoop::Asyncio);
        django(&format!("routes-django-{name}"), venv, "gthread");
    });
}
