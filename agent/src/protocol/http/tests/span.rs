use std::net::SocketAddr;

use super::*;
use crate::{
    protocol::http::{Version, describe},
    signal::{Address, Attribute, Description, Endpoints, Role, Status, Value},
};

fn inet(text: &str) -> Address {
    Address::Inet(text.parse::<SocketAddr>().expect("an address"))
}

fn endpoints() -> Endpoints {
    Endpoints::plain(inet("10.0.0.1:8000"), inet("10.0.0.2:50123"))
}

fn exchange(target: &str) -> Exchange {
    Exchange { method: "GET".into(), target: target.into(), status: Some(200), ..Exchange::default() }
}

fn server(exchange: &Exchange) -> Description {
    describe(exchange, Role::Server, &endpoints(), None)
}

fn client(exchange: &Exchange) -> Description {
    describe(exchange, Role::Client, &endpoints(), None)
}

fn text(description: &Description, key: &str) -> Option<String> {
    let attribute = description.attributes.iter().find(|attribute| attribute.key == key)?;
    match &attribute.value {
        Value::Str(text) => Some(text.to_string()),
        Value::Int(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

#[test]
fn a_server_span_says_what_the_conventions_ask_for() {
    let exchange = Exchange {
        host: Some("api.example.com:8080".into()),
        user_agent: Some("curl/8".into()),
        request_size: 5,
        response_size: 7,
        ..exchange("/games/17?full=1&token=abc")
    };
    let description = describe(&exchange, Role::Server, &endpoints(), Some("/games/{game_id}"));
    assert_eq!(description.name, "GET /games/{game_id}");
    assert_eq!(description.status, Status::Unset);
    assert_eq!(
        description.attributes,
        [
            Attribute::new("http.request.method", "GET"),
            Attribute::new("url.path", "/games/17"),
            Attribute::new("url.query", "full=1&token=REDACTED"),
            Attribute::new("url.scheme", "http"),
            Attribute::new("http.route", "/games/{game_id}"),
            Attribute::new("server.address", "api.example.com"),
            Attribute::new("server.port", 8080),
            Attribute::new("client.address", "10.0.0.2"),
            Attribute::new("network.peer.address", "10.0.0.2"),
            Attribute::new("network.peer.port", 50123),
            Attribute::new("network.protocol.version", "1.1"),
            Attribute::new("user_agent.original", "curl/8"),
            Attribute::new("http.request.body.size", 5),
            Attribute::new("http.response.status_code", 200),
            Attribute::new("http.response.body.size", 7),
        ]
    );
}

#[test]
fn a_client_span_says_what_the_conventions_ask_for() {
    let exchange = Exchange {
        host: Some("api.example.com".into()),
        status: Some(404),
        version: Version::Http10,
        ..exchange("/a?sig=abc&x")
    };
    let description = describe(&exchange, Role::Client, &endpoints(), Some("/never"));
    assert_eq!(description.name, "GET");
    assert_eq!(description.status, Status::Error(String::new()));
    assert_eq!(
        description.attributes,
        [
            Attribute::new("http.request.method", "GET"),
            Attribute::new("url.full", "http://api.example.com/a?sig=REDACTED&x".to_owned()),
            Attribute::new("server.address", "api.example.com"),
            Attribute::new("server.port", 50123),
            Attribute::new("network.peer.address", "10.0.0.2"),
            Attribute::new("network.peer.port", 50123),
            Attribute::new("network.protocol.version", "1.0"),
            Attribute::new("http.response.status_code", 404),
            Attribute::new("http.response.body.size", 0),
            Attribute::new("error.type", "404".to_owned()),
        ]
    );
}

#[test]
fn servers_fail_from_500_and_clients_from_400() {
    for (status, server_fails, client_fails) in
        [(399, false, false), (400, false, true), (499, false, true), (500, true, true)]
    {
        let exchange = Exchange { status: Some(status), ..exchange("/") };
        for (description, fails) in [(server(&exchange), server_fails), (client(&exchange), client_fails)] {
            assert_eq!(description.status != Status::Unset, fails, "{status}");
            assert_eq!(text(&description, "error.type"), fails.then(|| status.to_string()));
        }
    }
}

#[test]
fn a_closed_connection_is_an_error_and_a_lost_answer_is_not() {
    let cut = Exchange { status: None, outcome: Outcome::CutShort, ..exchange("/") };
    for description in [server(&cut), client(&cut)] {
        assert_eq!(text(&description, "error.type").as_deref(), Some("connection_closed"));
        assert_ne!(description.status, Status::Unset);
    }
    let left = Exchange { outcome: Outcome::CutShort, ..exchange("/") };
    assert_eq!(text(&server(&left), "error.type"), None, "the client of a stream went away");
    assert_eq!(text(&client(&left), "error.type").as_deref(), Some("connection_closed"));
    let lost = Exchange { status: None, outcome: Outcome::Lost, ..exchange("/") };
    assert_eq!((server(&lost).status, text(&server(&lost), "error.type")), (Status::Unset, None));
    let half = Exchange { response_size: 5, outcome: Outcome::Lost, ..exchange("/") };
    assert_eq!(text(&server(&half), "http.response.body.size"), None);
}

#[test]
fn unknown_methods_do_not_reach_names() {
    let brew = Exchange { method: "BREW".into(), ..exchange("/pot") };
    let description = describe(&brew, Role::Server, &endpoints(), Some("/pot"));
    assert_eq!(description.name, "HTTP /pot");
    assert_eq!(text(&description, "http.request.method").as_deref(), Some("_OTHER"));
    assert_eq!(text(&description, "http.request.method_original").as_deref(), Some("BREW"));
    assert_eq!(client(&brew).name, "HTTP");
}

#[test]
fn sensitive_values_are_redacted_however_their_keys_are_written() {
    for (query, shown) in [
        (
            "AWSAccessKeyId=1&Signature=2&sig=3&X-Goog-Signature=4",
            "AWSAccessKeyId=REDACTED&Signature=REDACTED&sig=REDACTED&X-Goog-Signature=REDACTED",
        ),
        ("Password=a=b&c=d", "Password=REDACTED&c=d"),
        ("%74oken=abc;%53ECRET=x&a=1", "%74oken=REDACTED;%53ECRET=REDACTED&a=1"),
        ("api_key=&key", "api_key=REDACTED&key"),
        ("monkey=1&tokens=2&%zz=3&%=4&&", "monkey=1&tokens=2&%zz=3&%=4&&"),
    ] {
        let exchange = Exchange { host: Some("h".into()), ..exchange(&format!("/p?{query}")) };
        assert_eq!(text(&server(&exchange), "url.query").as_deref(), Some(shown));
        assert_eq!(text(&client(&exchange), "url.full"), Some(format!("http://h/p?{shown}")));
    }
}

#[test]
fn the_scheme_is_what_the_client_used() {
    let scheme = |exchange: &Exchange| text(&server(exchange), "url.scheme").unwrap_or_default();
    assert_eq!(scheme(&exchange("/")), "http");
    assert_eq!(scheme(&Exchange { secure: true, ..exchange("/") }), "https");
    assert_eq!(scheme(&exchange("HTTPS://example.com/")), "https");
    let forwarded = Exchange { forwarded_proto: Some("HTTPS".into()), ..exchange("/") };
    assert_eq!(scheme(&forwarded), "https");
    assert_eq!(scheme(&Exchange { forwarded_proto: Some("<script>".into()), ..exchange("/") }), "http");
    let full = text(&client(&Exchange { host: Some("h".into()), ..forwarded }), "url.full");
    assert_eq!(full.as_deref(), Some("http://h/"), "a client's own field says nothing of its connection");
}

#[test]
fn the_server_is_whom_the_client_asked_for() {
    let address = |exchange: &Exchange, role| {
        let description = describe(exchange, role, &endpoints(), None);
        (
            text(&description, "server.address").unwrap_or_default(),
            text(&description, "server.port").unwrap_or_default(),
        )
    };
    let pair = |address: &str, port: &str| (address.to_owned(), port.to_owned());
    let host = |host: &str| Exchange { host: Some(host.into()), ..exchange("/") };
    assert_eq!(address(&host("example.com"), Role::Server), pair("example.com", "80"));
    assert_eq!(address(&host("[::1]:81"), Role::Server), pair("::1", "81"));
    assert_eq!(address(&host("[::1]"), Role::Server), pair("::1", "80"));
    assert_eq!(address(&host("user:pass@example.com:82"), Role::Client), pair("example.com", "82"));
    assert_eq!(address(&exchange("/"), Role::Server), pair("10.0.0.1", "8000"));
    assert_eq!(address(&exchange("/"), Role::Client), pair("10.0.0.2", "50123"));
    assert_eq!(address(&exchange("http://example.com/"), Role::Client), pair("example.com", "80"));
    let connect = Exchange { method: "CONNECT".into(), ..exchange("example.com:443") };
    assert_eq!(address(&connect, Role::Client), pair("example.com", "443"));
    let forwarded = Exchange { forwarded_host: Some("outside.example".into()), ..host("inside:9") };
    assert_eq!(address(&forwarded, Role::Server), pair("outside.example", "80"));
    assert_eq!(address(&forwarded, Role::Client), pair("inside", "9"));
}

#[test]
fn targets_in_every_form_give_paths_and_urls() {
    let with = |method: &str, target: &str| Exchange {
        method: method.to_owned().into(),
        host: Some("h".into()),
        ..exchange(target)
    };
    for (exchange, path, full) in [
        (with("GET", "/a//b/?"), "/a//b/", Some("http://h/a//b/")),
        (with("GET", "/a#x?y"), "/a", Some("http://h/a")),
        (with("GET", "/login?next=http://u:p@x/"), "/login", Some("http://h/login?next=http://u:p@x/")),
        (with("GET", "https://e.org:1/a?b"), "/a", Some("https://e.org:1/a?b")),
        (with("GET", "http://e.org?b"), "/", Some("http://e.org/?b")),
        (with("OPTIONS", "*"), "*", Some("http://h")),
        (with("CONNECT", "e.org:443"), "", None),
    ] {
        assert_eq!(exchange.path(), path);
        assert_eq!(text(&client(&exchange), "url.full").as_deref(), full);
    }
}

#[test]
fn unix_sockets_have_names_and_no_ports() {
    let endpoints = Endpoints::plain(Address::Unix("/run/app.sock".into()), Address::Unix(String::new()));
    let description = describe(&exchange("/"), Role::Server, &endpoints, None);
    assert_eq!(text(&description, "server.address").as_deref(), Some("/run/app.sock"));
    for key in ["server.port", "network.peer.address", "network.peer.port", "client.address"] {
        assert_eq!(text(&description, key), None);
    }
    let description = describe(&exchange("/"), Role::Client, &endpoints, None);
    assert_eq!(text(&description, "url.full"), None);
}
