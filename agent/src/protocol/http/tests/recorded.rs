//! Conversations that were recorded between real libraries, piece by piece as they were sent.

use super::*;

/// httpx 0.28 and uvicorn with httptools: JSON, an upload in chunks, `HEAD`, a stream.
const HTTPX: [(Side, &str); 11] = [
    (
        Side::Request,
        "GET /games/17?full=1 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\
     User-Agent: python-httpx/0.28.1\r\n\
     traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    ),
    (
        Side::Response,
        "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\nserver: uvicorn\r\n\
     content-length: 11\r\ncontent-type: application/json\r\n\r\n{\"id\":\"17\"}",
    ),
    (
        Side::Request,
        "POST /games HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\
     User-Agent: python-httpx/0.28.1\r\nContent-Length: 12\r\n\
     Content-Type: application/json\r\n\r\n{\"name\":\"x\"}",
    ),
    (
        Side::Response,
        "HTTP/1.1 201 Created\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\nserver: uvicorn\r\n\
     content-length: 8\r\ncontent-type: application/json\r\n\r\n{\"n\":12}",
    ),
    (
        Side::Request,
        "POST /games HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\
     User-Agent: python-httpx/0.28.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ),
    (Side::Request, "5\r\ndefgh\r\n0\r\n\r\n"),
    (
        Side::Response,
        "HTTP/1.1 201 Created\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\nserver: uvicorn\r\n\
     content-length: 7\r\ncontent-type: application/json\r\n\r\n{\"n\":8}",
    ),
    (
        Side::Request,
        "HEAD /games/18 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\
     User-Agent: python-httpx/0.28.1\r\n\r\n",
    ),
    (
        Side::Response,
        "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\nserver: uvicorn\r\n\
     content-length: 11\r\ncontent-type: application/json\r\n\r\n",
    ),
    (
        Side::Request,
        "GET /stream HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\
     User-Agent: python-httpx/0.28.1\r\n\r\n",
    ),
    (
        Side::Response,
        "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\nserver: uvicorn\r\n\
     content-type: text/plain; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n7\r\n\
     part 0\n\r\n7\r\npart 1\n\r\n7\r\npart 2\n\r\n0\r\n\r\n",
    ),
];

/// aiohttp 3.14 and uvicorn with httptools: a failure, `Expect: 100-continue`, a path that is not there.
const AIOHTTP: [(Side, &str); 8] = [
    (
        Side::Request,
        "GET /boom HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.14.5\r\n\r\n",
    ),
    (
        Side::Response,
        "HTTP/1.1 500 Internal Server Error\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\n\
     server: uvicorn\r\ncontent-length: 4\r\ncontent-type: text/plain; charset=utf-8\r\n\r\n\
     boom",
    ),
    (
        Side::Request,
        "POST /games HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.14.5\r\n\
     Content-Length: 10\r\nContent-Type: application/octet-stream\r\nExpect: 100-continue\r\n\
     \r\n",
    ),
    (Side::Response, "HTTP/1.1 100 Continue\r\n\r\n"),
    (Side::Request, "zzzzzzzzzz"),
    (
        Side::Response,
        "HTTP/1.1 201 Created\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\nserver: uvicorn\r\n\
     content-length: 8\r\ncontent-type: application/json\r\n\r\n{\"n\":10}",
    ),
    (
        Side::Request,
        "GET /nope HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
     Accept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.14.5\r\n\r\n",
    ),
    (
        Side::Response,
        "HTTP/1.1 404 Not Found\r\ndate: Sun, 22 Nov 2026 17:39:58 GMT\r\nserver: uvicorn\r\n\
     content-length: 9\r\ncontent-type: text/plain; charset=utf-8\r\n\r\nNot Found",
    ),
];

fn replay(conversation: &[(Side, &str)]) -> Wire {
    let mut wire = Wire::new();
    for (side, bytes) in conversation {
        match side {
            Side::Request => wire.request(bytes),
            Side::Response => wire.response(bytes),
        };
    }
    wire.close();
    wire
}

#[test]
fn httpx_and_uvicorn_are_understood() {
    let mut wire = replay(&HTTPX);
    let events = wire.events();
    assert_eq!(losses(&events), []);
    let Some(Event::Begin { incoming: Some(incoming), .. }) = events.first() else { panic!("{events:?}") };
    assert_eq!(incoming.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    wire.events = events;
    let ended = wire.ended();
    let seen =
        ended.iter().map(|end| (&*end.method, &*end.target, end.status, end.request_size, end.response_size));
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            ("GET", "/games/17?full=1", Some(200), 0, 11),
            ("POST", "/games", Some(201), 12, 8),
            ("POST", "/games", Some(201), 8, 7),
            ("HEAD", "/games/18", Some(200), 0, 0),
            ("GET", "/stream", Some(200), 0, 21),
        ]
    );
    assert!(ended.iter().all(|end| end.user_agent.as_deref() == Some("python-httpx/0.28.1")));
    assert!(ended.iter().all(|end| end.outcome == Outcome::Complete));
}

#[test]
fn aiohttp_and_uvicorn_are_understood() {
    let mut wire = replay(&AIOHTTP);
    assert_eq!(
        wire.story(),
        [
            "begin 0 at 1-1",
            "reply 0 at 2",
            "end 0 at 2: GET /boom 500",
            "begin 1 at 3-3",
            "reply 1 at 6",
            "end 1 at 6: POST /games 201",
            "begin 2 at 7-7",
            "reply 2 at 8",
            "end 2 at 8: GET /nope 404",
        ]
    );
}

#[test]
fn a_recorded_conversation_may_be_joined_anywhere() {
    for start in 0..HTTPX.len() {
        let ended = replay(&HTTPX[start..]).ended();
        let whole = replay(&HTTPX).ended();
        assert!(whole.ends_with(&ended), "only whole exchanges, and those as they were: {ended:?}");
        let requests = HTTPX[start..]
            .iter()
            .filter(|(side, bytes)| *side == Side::Request && bytes.contains("HTTP/1.1"));
        assert_eq!(ended.len(), requests.count());
    }
}
