//! Tests of the whole protocol; helpers for all of them.

mod detect;
mod exchanges;
mod loss;
mod properties;
mod recorded;
mod span;

use super::{Exchange, Http, Outcome};
use crate::protocol::{Detail, Event, LossReason, Mark, Parser, Side};

/// A connection under test. Marks count the calls from 1.
struct Wire {
    http: Http,
    calls: u64,
    events: Vec<Event>,
}

impl Wire {
    fn new() -> Self {
        Self { http: Http::new(), calls: 0, events: Vec::new() }
    }

    fn mark(&mut self) -> Mark {
        self.calls += 1;
        Mark { time: self.calls, ..Mark::default() }
    }

    fn request(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let mark = self.mark();
        self.http.data(Side::Request, bytes.as_ref(), mark, &mut self.events);
        self
    }

    fn response(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let mark = self.mark();
        self.http.data(Side::Response, bytes.as_ref(), mark, &mut self.events);
        self
    }

    fn gap(&mut self, side: Side, length: u64) -> &mut Self {
        let mark = self.mark();
        self.http.gap(side, length, mark, &mut self.events);
        self
    }

    fn close(&mut self) -> &mut Self {
        let mark = self.mark();
        self.http.close(mark, &mut self.events);
        self
    }

    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// One word for each event.
    fn story(&mut self) -> Vec<String> {
        self.events().iter().map(word).collect()
    }

    fn ended(&mut self) -> Vec<Exchange> {
        let ended = self.events().into_iter().filter_map(|event| match event {
            Event::End { detail: Detail::Http(exchange), .. } => Some(*exchange),
            _ => None,
        });
        ended.collect()
    }
}

fn word(event: &Event) -> String {
    match event {
        Event::Begin { exchange, first, at, .. } => format!("begin {exchange} at {}-{}", first.time, at.time),
        Event::Reply { exchange, at } => format!("reply {exchange} at {}", at.time),
        Event::End { exchange, at, detail: Detail::Http(detail) } => {
            let status = detail.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            let how = match detail.outcome {
                Outcome::Complete => "",
                Outcome::CutShort => " cut short",
                Outcome::Lost => " lost",
            };
            format!("end {exchange} at {}: {} {} {status}{how}", at.time, detail.method, detail.target)
        }
        Event::Upgrade { protocol, request, response, .. } => format!(
            "upgrade {protocol} {:?} {:?}",
            String::from_utf8_lossy(request),
            String::from_utf8_lossy(response)
        ),
        Event::Lost { reason, bytes } => format!("lost {bytes} {reason:?}"),
        other => format!("{other:?}"),
    }
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const GET_B: &str = "GET /b HTTP/1.1\r\nHost: x\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn losses(events: &[Event]) -> Vec<(LossReason, u64)> {
    let losses = events.iter().filter_map(|event| match event {
        Event::Lost { reason, bytes } => Some((*reason, *bytes)),
        _ => None,
    });
    losses.collect()
}
