use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    export::tests::{resource, span},
    signal::{Kind, Severity, Status},
};

const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// A span of trace 1: id, parent, from and to in microseconds.
fn at(id: u64, parent: u64, from: u64, to: u64) -> Span {
    Span {
        parent_span_id: (parent != 0).then(|| parent.to_be_bytes()),
        start: START + from * 1000,
        end: START + to * 1000,
        attributes: Vec::new(),
        ..span(id)
    }
}

/// A request with everything in it.
fn example() -> Vec<Span> {
    let web = resource("web");
    let scorer = resource("scorer");
    let db = |text: &'static str, rows: i64| {
        vec![Attribute::new("db.query.text", text), Attribute::new("db.response.returned_rows", rows)]
    };
    let status = |code: i64| vec![Attribute::new("http.response.status_code", code)];
    let with = |span: Span, service: &Arc<Resource>, kind, name: &str, attributes| Span {
        kind,
        name: name.to_owned(),
        attributes,
        resource: Arc::clone(service),
        ..span
    };
    let mut failed = with(
        at(7, 6, 7000, 9200),
        &scorer,
        Kind::Client,
        "INSERT scores",
        db("INSERT INTO scores (game_id, points) VALUES ($1, $2)", 0),
    );
    failed.attributes.remove(1);
    failed.attributes.push(Attribute::new("db.response.status_code", "23505"));
    failed.status = Status::Error("duplicate key value violates unique constraint".to_owned());
    let mut scored =
        with(at(6, 5, 6100, 11300), &scorer, Kind::Server, "POST /games/{game_id}/score", status(500));
    scored.parent_is_remote = true;
    scored.status = Status::Error(String::new());
    let mut posted = with(at(5, 1, 5900, 11900), &web, Kind::Client, "POST", status(500));
    posted.attributes.push(Attribute::new("url.full", "http://scorer:8000/games/7/score"));
    posted.status = Status::Error(String::new());
    vec![
        with(
            at(2, 1, 300, 3400),
            &web,
            Kind::Client,
            "SELECT games",
            db("SELECT id, name\n  FROM games\n WHERE id = $1", 1),
        ),
        with(
            at(3, 1, 3500, 3901),
            &web,
            Kind::Client,
            "GET",
            vec![Attribute::new("db.query.text", "GET session:?")],
        ),
        with(at(4, 1, 4000, 4150), &web, Kind::Producer, "send events", vec![]),
        failed,
        scored,
        posted,
        with(at(1, 0, 0, 12400), &web, Kind::Server, "GET /games/{game_id}", status(200)),
    ]
}

fn drawn(spans: &[Span], color: bool) -> String {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, color);
    console.spans(spans).unwrap();
    console.tick(START).unwrap();
    console.tick(START + 20 * SECOND).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn what_was_logged_stands_below_its_span() {
    let record =
        |time: u64, severity: Option<(Severity, &str)>, logger: Option<&str>, body: &str| LogRecord {
            time: START + time,
            severity: severity.map(|(severity, word)| (severity, word.to_owned())),
            logger: logger.map(str::to_owned),
            body: body.to_owned(),
            attributes: Vec::new(),
            span: Some((span(1).trace_id, 1_u64.to_be_bytes())),
            resource: resource("web"),
        };
    let mut console = Console::new(Vec::new(), false);
    let mut records = vec![
        record(2, Some((Severity::ERROR, "ERROR")), Some("app"), "second\n\x1b[2Jline"),
        record(1, None, None, "first"),
        LogRecord { span: None, ..record(3, None, None, "nobody's") },
    ];
    records.extend((10..20).map(|time| record(time, None, None, "more")));
    console.logs(&records);
    console.spans(&[at(1, 0, 0, 100)]).unwrap();
    console.finish().unwrap();
    let text = String::from_utf8(console.writer).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines[2], "» first");
    assert!(lines[3].starts_with("» ERROR app: second"), "{text}");
    assert!(lines.contains(&"… 4 lines more") && !text.contains("nobody"), "{text}");
    assert!(!text.contains('\x1b'), "nothing controls the terminal");
    assert!(console.lines.take(span(1).trace_id).is_empty());
}

#[test]
fn a_trace_is_drawn_as_a_tree() {
    let expected = "\
── 22:13:20.000 ── 7 spans, 2 services, 3 errors ────────────────── 01010101010101010101010101010101
 web     server    GET /games/{game_id}                12.4 ms  ████████████████  200
 web     client    ├─ SELECT games                     3.10 ms  ▐███▍             1 row
                   │     SELECT id, name FROM games WHERE id = $1
 web     client    ├─ GET                               401 µs      ▐             GET session:?
 web     producer  ├─ send events                       150 µs       ▎
 web     client    └─ POST                             6.00 ms         ▐███████▎  ✗ 500
                      │  http://scorer:8000/games/7/score
 scorer  server       └─ POST /games/{game_id}/score   5.20 ms         ▕██████▌   ✗ 500
 scorer  client          └─ INSERT scores              2.20 ms           ██▊      ✗ 23505
                               duplicate key value violates unique constraint
                               INSERT INTO scores (game_id, points) VALUES ($1, $2)

";
    assert_eq!(drawn(&example(), false), expected);
}

#[test]
fn colours_come_only_when_wanted_and_change_nothing_else() {
    let plain = drawn(&example(), false);
    let colored = drawn(&example(), true);
    assert!(!plain.contains('\u{1b}') && colored.contains("\u{1b}[36m"));
    // Trailing blanks may stand before a colour's end.
    let lines = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(&without_colors(&colored)), lines(&plain));
}

#[test]
fn no_line_is_longer_than_the_terminal() {
    let mut spans = example();
    let long = "x".repeat(300);
    for span in &mut spans {
        span.name.push_str(&long);
        span.attributes.push(Attribute::new("db.query.text", long.clone()));
    }
    spans[6].resource = resource(&long);
    for columns in [72, 80, 100, 160] {
        let mut out = Vec::new();
        let mut console = Console::new(&mut out, false).with_width(columns);
        console.spans(&spans).unwrap();
        console.finish().unwrap();
        for line in String::from_utf8(out).unwrap().lines() {
            assert!(text::width(line) <= columns, "{columns}: {line}");
        }
    }
}

#[test]
fn nothing_that_steers_a_terminal_gets_through() {
    let mut evil = at(1, 0, 0, 10);
    evil.name = "GET \u{1b}[2J\u{7}\u{9b}31m\u{202e}\r\n".to_owned();
    evil.attributes = vec![Attribute::new("db.query.text", "\u{1b}]0;title\u{7}")];
    evil.status = Status::Error("\u{8}\u{1b}c".to_owned());
    evil.resource = resource("\u{1b}[31mweb");
    let text = drawn(&[evil], false);
    assert!(
        text.chars().all(|c| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c))),
        "{text:?}"
    );
}

#[test]
fn a_trace_waits_for_its_root_and_for_silence() {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, false);
    console.spans(&[at(2, 1, 5, 6)]).unwrap();
    console.tick(START).unwrap();
    console.tick(START + 5 * SECOND).unwrap();
    assert!(console.writer.is_empty());
    console.spans(&[at(1, 0, 0, 10)]).unwrap();
    console.tick(START + 5 * SECOND).unwrap();
    console.tick(START + 5 * SECOND + SECOND / 10).unwrap();
    assert!(console.writer.is_empty());
    console.tick(START + 6 * SECOND).unwrap();
    assert!(String::from_utf8_lossy(console.writer).contains("2 spans"));
    assert!(console.traces.is_empty() && console.numbers.is_empty() && console.spans == 0);
}

#[test]
fn a_root_with_a_parent_elsewhere_waits_longer_for_it() {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, false);
    console.spans(&[Span { parent_is_remote: true, ..at(2, 1, 5, 6) }]).unwrap();
    console.tick(START).unwrap();
    console.tick(START + SECOND).unwrap();
    assert!(console.writer.is_empty());
    console.tick(START + 2 * SECOND).unwrap();
    assert!(String::from_utf8_lossy(console.writer).contains("← from outside"));
}

#[test]
fn orphans_are_drawn_after_a_while_and_marked() {
    let text = drawn(&[at(2, 1, 5, 6), at(3, 2, 5, 6)], false);
    assert_eq!(text.matches("? parent not seen").count(), 1, "{text}");
    assert!(text.contains("└─ SELECT games"), "{text}");
}

#[test]
fn spans_that_come_late_continue_their_trace() {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, false);
    console.spans(&[at(1, 0, 0, 10)]).unwrap();
    console.tick(START).unwrap();
    console.tick(START + SECOND).unwrap();
    console.spans(&[at(2, 1, 20, 30)]).unwrap();
    console.tick(START + 2 * SECOND).unwrap();
    console.tick(START + 3 * SECOND).unwrap();
    let text = String::from_utf8_lossy(console.writer);
    assert!(text.contains("1 span, continued") && text.contains("↑ belongs above"), "{text}");
}

#[test]
fn spans_in_a_circle_are_drawn_once() {
    let text = drawn(&[at(1, 2, 0, 10), at(2, 1, 0, 10), at(3, 3, 0, 10)], false);
    assert_eq!(text.matches("SELECT games").count(), 3, "{text}");
}

#[test]
fn deep_trees_stay_on_the_page() {
    let spans: Vec<Span> = (1..=40).map(|id| at(id, id - 1, id, 100 - id)).collect();
    let text = drawn(&spans, false);
    assert_eq!(text.matches("SELECT").count(), 40, "{text}");
    assert!(text.lines().all(|line| text::width(line) <= WIDTH), "{text}");
}

#[test]
fn a_large_trace_is_drawn_in_parts() {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, false);
    let spans: Vec<Span> = (1..=MAX_TRACE_SPANS as u64 + 1).map(|id| at(id, 0, 0, 1)).collect();
    console.spans(&spans).unwrap();
    assert_eq!(console.spans, 1);
    console.finish().unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("500 spans") && text.contains("1 span, continued"), "{text}");
}

#[test]
fn too_many_open_traces_are_evicted_oldest_first_and_counted() {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, false);
    for id in 0..MAX_SPANS as u64 + 7 {
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&id.to_be_bytes());
        console.spans(&[Span { trace_id, ..at(1, 0, 0, 1) }]).unwrap();
    }
    assert_eq!(console.evicted(), Evicted { traces: 7, spans: 7 });
    assert_eq!(
        (console.spans, console.traces.len(), console.numbers.len()),
        (MAX_SPANS, MAX_SPANS, MAX_SPANS)
    );
    console.traces.clear();
    console.finish().unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("20007 spans in all; 7 spans of 7 traces came too fast to be drawn"), "{text}");
}

#[test]
fn the_summary_tells_operations_apart() {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, false);
    for _ in 0..99 {
        console.summary.add(&at(1, 0, 0, 1000));
    }
    console.summary.add(&Span { status: Status::Error(String::new()), ..at(1, 0, 0, 90_000) });
    console.summary.add(&Span { name: "GET".to_owned(), ..at(1, 0, 0, 20) });
    console.summary.add(&Span { resource: resource("scorer"), kind: Kind::Server, ..at(1, 0, 0, 2_000_000) });
    console.finish().unwrap();
    let expected = "\x20service  kind    operation      count  errors      p50      p99
 ───────────────────────────────────────────────────────────────
 scorer   server  SELECT games       1       0   2.00 s   2.00 s
 web      client  SELECT games     100       1  1.00 ms  1.00 ms
          client  GET                1       0  20.1 µs  20.1 µs

 102 spans in all
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn operations_beyond_the_bound_are_counted_together() {
    let mut out = Vec::new();
    let mut console = Console::new(&mut out, false);
    for id in 0..600 {
        console.summary.add(&Span { name: format!("GET /{id}"), ..at(1, 0, 0, 10) });
    }
    console.finish().unwrap();
    let text = String::from_utf8(out).unwrap();
    let others: Vec<&str> = text.lines().filter(|line| line.starts_with(" others")).collect();
    assert_eq!(others.len(), 1);
    assert!(others[0].contains(" 100 "), "{others:?}");
}

#[test]
fn nothing_seen_is_said() {
    let mut out = Vec::new();
    Console::new(&mut out, false).finish().unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "No spans were seen.\n");
}

#[test]
fn durations_have_three_digits() {
    for (nanoseconds, expected) in [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_234, "1.23 µs"),
        (9_996, "10.0 µs"),
        (999_499, "999 µs"),
        (999_500, "1.00 ms"),
        (12_400_000, "12.4 ms"),
        (1_500_000_000, "1.50 s"),
        (59_999_999_999, "60.0 s"),
        (125_000_000_000, "2m 05s"),
        (7_380_000_000_000, "2h 03m"),
        (u64::MAX, "213503 d"),
    ] {
        assert_eq!(text::duration(nanoseconds), expected);
    }
}

#[test]
fn wide_characters_count_twice() {
    assert_eq!(text::left("東京タワー", 6), "東京… ");
    assert_eq!(text::right("é", 3), "  é");
    assert_eq!(text::width("e\u{301}"), 1);
}

/// The text without its colours.
fn without_colors(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

proptest! {
    #[test]
    fn buckets_are_near_the_duration(value in any::<u64>()) {
        let error = summary::middle_of_bucket(value).abs_diff(value);
        prop_assert!(error <= value / 128 + 1);
    }

    #[test]
    fn any_spans_in_any_order_are_drawn_once(
        spans in prop::collection::vec((1_u64..12, 0_u64..12, any::<u64>(), any::<u64>(), any::<bool>(), 0_u8..3), 0..60),
        cuts in prop::collection::vec(0_usize..60, 0..4),
    ) {
        let spans: Vec<Span> = spans
            .into_iter()
            .map(|(id, parent, start, end, parent_is_remote, trace)| Span {
                trace_id: [trace; 16],
                start,
                end,
                parent_is_remote,
                ..at(id, parent, 0, 0)
            })
            .collect();
        let mut out = Vec::new();
        let mut console = Console::new(&mut out, false);
        let mut now = START;
        let mut begin = 0;
        for cut in cuts {
            let end = cut.clamp(begin, spans.len().max(begin)).min(spans.len());
            console.spans(&spans[begin.min(end)..end]).unwrap();
            begin = end;
            now += SECOND / 5;
            console.tick(now).unwrap();
        }
        console.spans(&spans[begin..]).unwrap();
        console.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        let drawn = text.lines().take_while(|line| !line.starts_with(" service")).filter(|l| l.contains("SELECT"));
        prop_assert_eq!(drawn.count(), spans.len(), "{}", text);
    }
}
