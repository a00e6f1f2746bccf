use proptest::{collection::vec, prelude::*, sample};

use super::*;
use crate::protocol::http::{OPEN_LIMIT, frame::HEAD_LIMIT};

/// Pieces of which messages, broken ones too, are made.
const PIECES: [&str; 34] = [
    "GET /a HTTP/1.1\r\n",
    "GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "HEAD /h HTTP/1.1\r\n\r\n",
    "POST /p HTTP/1.1\r\nContent-Length: 7\r\n\r\n",
    "POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET /u HTTP/1.1\r\nUpgrade: x\r\n\r\n",
    "CONNECT c:1 HTTP/1.1\r\n\r\n",
    "BREW /c HTTP/1.0\n\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 500 No\nContent-Length: 0\n\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
    "HTTP/1.",
    "HTT",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: y\r\n",
    " folded\r\n",
    "\r\n",
    "\n",
    "\r",
    "0\r\n\r\n",
    "3\r\nabc\r\n",
    "a;x=y\r\n0123456789\r\n",
    "0\r\nT: 1\r\n\r\n",
    "hello",
    "1234567",
    "GET ",
    " HTTP/1.1\r\n",
    "HTTP/1.1 101 Go\r\nUpgrade: X\r\n\r\n",
];

#[derive(Clone, Debug)]
enum Act {
    Data(Side, Vec<u8>),
    Gap(Side, u64),
    Close,
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Request), Just(Side::Response)]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(sample::select(&PIECES[..]), 1..6).prop_map(|pieces| pieces.concat().into_bytes()),
        1 => vec(any::<u8>(), 0..40),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        16 => (side(), bytes()).prop_map(|(side, bytes)| Act::Data(side, bytes)),
        2 => (side(), 0..20_u64).prop_map(|(side, length)| Act::Gap(side, length)),
        1 => Just(Act::Close),
    ]
}

/// Events of a run in which every call's data is cut as `cuts` say, without what may depend on the cut.
fn run(acts: &[Act], mut cuts: impl FnMut() -> usize) -> Result<Vec<Event>, TestCaseError> {
    let mut http = Http::new();
    let mut events = Vec::new();
    for (time, act) in (1..).zip(acts) {
        let mark = Mark { time, ..Mark::default() };
        match act {
            Act::Data(side, bytes) => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(cuts().clamp(1, rest.len()));
                    http.data(*side, now, mark, &mut events);
                    rest = later;
                }
            }
            Act::Gap(side, length) => http.gap(*side, *length, mark, &mut events),
            Act::Close => http.close(mark, &mut events),
        }
        prop_assert!(http.open.len() <= OPEN_LIMIT);
        prop_assert!(http.request.held() + http.response.held() <= 4 * HEAD_LIMIT);
    }
    http.close(Mark::default(), &mut events);
    for event in &mut events {
        if let Event::Upgrade { response, .. } = event {
            response.clear();
        }
    }
    Ok(events)
}

/// Every exchange begins once, in order, and ends once, in order; a reply comes between.
fn check_order(events: &[Event]) -> Result<(), TestCaseError> {
    let (mut begun, mut ended, mut replied) = (0, 0, 0);
    for event in events {
        match event {
            Event::Begin { exchange, .. } => {
                prop_assert_eq!(*exchange, begun);
                begun += 1;
            }
            Event::Reply { exchange, .. } => {
                prop_assert_eq!(*exchange, ended);
                prop_assert!(*exchange < begun && *exchange >= replied);
                replied = *exchange + 1;
            }
            Event::End { exchange, detail: Detail::Http(detail), .. } => {
                prop_assert_eq!(*exchange, ended);
                ended += 1;
                prop_assert!(ended <= begun);
                prop_assert_eq!(detail.status.is_some(), replied == ended);
            }
            Event::Lost { bytes, .. } => prop_assert!(*bytes > 0 || detail_free(event)),
            _ => {}
        }
    }
    prop_assert_eq!(begun, ended);
    Ok(())
}

/// A malformed chunk is found at its first byte, which is skipped and not lost twice.
fn detail_free(event: &Event) -> bool {
    matches!(event, Event::Lost { reason: LossReason::Malformed, .. })
}

// Few cases: most of their time goes into making the bytes.
proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic_and_stay_bounded(acts in vec((side(), vec(any::<u8>(), 0..3000)), 1..20)) {
        let acts = acts.into_iter().map(|(side, bytes)| Act::Data(side, bytes)).collect::<Vec<_>>();
        let events = run(&acts, || 700)?;
        check_order(&events)?;
        prop_assert_eq!(events, run(&acts, || 13)?);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_events_come_however_the_stream_is_cut(
        acts in vec(act(), 1..25),
        cuts in vec(1..12_usize, 1..50),
    ) {
        let whole = run(&acts, || usize::MAX)?;
        check_order(&whole)?;
        prop_assert_eq!(&whole, &run(&acts, || 1)?);
        let mut cuts = cuts.iter().copied().cycle();
        prop_assert_eq!(&whole, &run(&acts, || cuts.next().unwrap_or(1))?);
    }

    #[test]
    fn a_truncated_conversation_ends_every_exchange(cut in 0..600_usize) {
        let conversation = [GET, GET_B, PIECES[4], "3\r\nabc\r\n0\r\n\r\n"].concat();
        let answers = [OK, CHUNKED, "3\r\nabc\r\n0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nrest"].concat();
        let side = |side, text: &str, from: usize| {
            let length = cut.saturating_sub(from).min(text.len());
            Act::Data(side, text.as_bytes()[..length].to_vec())
        };
        let acts = [side(Side::Request, &conversation, 0), side(Side::Response, &answers, conversation.len())];
        check_order(&run(&acts, || 5)?)?;
    }

    #[test]
    fn detection_takes_any_bytes(bytes in vec(any::<u8>(), 0..200), piece in sample::select(&PIECES[..])) {
        let _ = super::super::detect(&bytes);
        let _ = super::super::detect(&[piece.as_bytes(), &bytes].concat());
    }

    #[test]
    fn any_target_can_be_described(target in "\\PC{0,60}", host in "\\PC{0,20}", method in "[A-Z]{1,9}") {
        let exchange = Exchange { method: method.into(), target, host: Some(host), ..Exchange::default() };
        let endpoints = crate::signal::Endpoints::default();
        for role in [crate::signal::Role::Client, crate::signal::Role::Server] {
            let _ = super::super::describe(&exchange, role, &endpoints, None);
        }
    }
}
