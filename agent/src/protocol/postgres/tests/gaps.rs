//! Hidden bytes.

use super::*;

/// Plays chunks of which long ones of one side show only their head and tail.
fn play_clipped(chunks: &[Chunk], clipped: Side, head: usize, tail: usize) -> Vec<Event> {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    for (time, (side, bytes)) in chunks.iter().enumerate() {
        let mark = at(time);
        if *side != clipped || bytes.len() <= head + tail {
            parser.data(*side, bytes, mark, &mut out);
            continue;
        }
        parser.data(*side, &bytes[..head], mark, &mut out);
        parser.gap(*side, (bytes.len() - head - tail) as u64, mark, &mut out);
        parser.data(*side, &bytes[bytes.len() - tail..], mark, &mut out);
    }
    parser.close(at(chunks.len()), &mut out);
    out
}

fn lost(events: &[Event]) -> u64 {
    events.iter().map(|event| if let Event::Lost { bytes, .. } = event { *bytes } else { 0 }).sum()
}

#[test]
fn a_long_result_of_which_only_head_and_tail_were_captured_ends_with_its_tag() {
    let rows: Vec<u8> = (0..500_u32).flat_map(|number| row(format!("row {number}").as_bytes())).collect();
    let answer = cat(&[bound(), rows, complete("SELECT 500"), ready(b'T')]);
    let chunks = [
        asks(cat(&[bind("", "s"), execute("", 0), sync()])),
        answers(answer),
        asks(query("COMMIT")),
        answers(cat(&[complete("COMMIT"), ready(b'I')])),
    ];
    for head in [5, 6, 64, 100, 101, 102, 103, 104, 105] {
        for tail in 22..60 {
            let events = play_clipped(&chunks, Side::Response, head, tail);
            let found = statements(&events);
            assert_eq!(tags(&found), ["SELECT 500", "COMMIT"], "{head} {tail}");
            assert_eq!(found[0].rows, Some(500));
            assert!(found.iter().all(|statement| statement.ended == Ended::Complete));
            assert!(lost(&events) > 0);
        }
    }
}

#[test]
fn the_libraries_statements_end_rightly_when_long_answers_are_clipped() {
    for wire in [
        include_str!("../testdata/asyncpg.wire"),
        include_str!("../testdata/psycopg2.wire"),
        include_str!("../testdata/psycopg3.wire"),
    ] {
        let chunks = recording(wire);
        let whole = statements(&play(&chunks));
        let clipped = statements(&play_clipped(&chunks, Side::Response, 64, 160));
        assert_eq!(texts(&clipped), texts(&whole));
        for (clipped, whole) in clipped.iter().zip(&whole) {
            if clipped.ended == Ended::Gap {
                continue;
            }
            assert_eq!(
                (&clipped.tag, &clipped.error, clipped.ended),
                (&whole.tag, &whole.error, whole.ended)
            );
            assert!(clipped.rows.is_none() || clipped.rows == whole.rows, "{clipped:?} {whole:?}");
        }
        let unknown = clipped.iter().filter(|statement| statement.ended == Ended::Gap).count();
        assert!(unknown <= 2, "{unknown}");
    }
}

#[test]
fn a_gap_inside_a_row_loses_nothing() {
    let big = row(&[b'x'; 10_000]);
    let answer = cat(&[big, complete("SELECT 1"), ready(b'I')]);
    let events = play_clipped(&[asks(query("SELECT 1")), answers(answer)], Side::Response, 20, 200);
    assert_eq!(lost(&events), 0);
    assert_eq!(statements(&events)[0].rows, Some(1));
}

#[test]
fn a_gap_inside_a_statement_keeps_the_beginning_of_its_text() {
    let sql = format!("SELECT '{}'", "x".repeat(5000));
    let chunks = [asks(query(&sql)), answers(cat(&[complete("SELECT 1"), ready(b'I')]))];
    let events = play_clipped(&chunks, Side::Request, 100, 100);
    let found = statements(&events);
    assert_eq!((lost(&events), found.len()), (0, 1));
    assert!(found[0].truncated && sql.starts_with(found[0].text.as_deref().unwrap()));
    assert_eq!(found[0].tag.as_deref(), Some("SELECT 1"));
}

#[test]
fn a_gap_that_hides_requests_does_not_shift_the_answers() {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    let answer = |tag: &str| cat(&[complete(tag), ready(b'I')]);
    parser.data(Side::Request, &query("SELECT 0"), at(0), &mut out);
    parser.data(Side::Response, &answer("SELECT 0"), at(1), &mut out);
    parser.gap(Side::Request, 33, at(2), &mut out);
    parser.data(Side::Response, &answer("SELECT 100"), at(3), &mut out);
    parser.data(Side::Request, &query("SELECT 2"), at(4), &mut out);
    parser.data(Side::Response, &answer("SELECT 2"), at(5), &mut out);
    assert_eq!(tags(&statements(&out)), ["SELECT 0", "SELECT 2"]);
}

#[test]
fn requests_are_found_again_behind_a_sync() {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    let batch = cat(&[bind("", "s"), execute("", 0)]).repeat(100);
    parser.data(Side::Request, &batch[..50], at(0), &mut out);
    parser.gap(Side::Request, batch.len() as u64 - 110, at(0), &mut out);
    let tail = cat(&[batch[batch.len() - 60..].to_vec(), sync(), query("SELECT 2")]);
    parser.data(Side::Request, &tail, at(0), &mut out);
    let done = cat(&[cat(&[bound(), complete("DELETE 1")]).repeat(100), ready(b'I')]);
    parser.data(Side::Response, &done, at(1), &mut out);
    let before = statements(&out).len();
    parser.data(Side::Request, &query("SELECT 3"), at(2), &mut out);
    parser.data(Side::Response, &cat(&[complete("SELECT 2"), ready(b'I')]), at(3), &mut out);
    parser.data(Side::Response, &cat(&[complete("SELECT 3"), ready(b'I')]), at(4), &mut out);
    let after = statements(&out);
    assert_eq!(tags(&after[before..]), ["SELECT 2", "SELECT 3"]);
    // Of the batch that was cut through, not all executions are known, and so not its rows.
    assert_eq!((after[0].ended, after[0].rows), (Ended::Complete, None));
}

/// Plays calls, each marked with its number, in pieces of at most this size, and closes.
fn play_calls(calls: &[Chunk], size: usize) -> Vec<Event> {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    for (time, (side, bytes)) in calls.iter().enumerate() {
        for piece in bytes.chunks(size) {
            parser.data(*side, piece, at(time), &mut out);
        }
    }
    parser.close(at(calls.len()), &mut out);
    out
}

#[test]
fn requests_are_found_again_at_the_beginning_of_a_write_however_it_is_cut() {
    let calls =
        [asks(b"MMIT\0".to_vec()), asks(query("COMMIT")), answers(cat(&[complete("COMMIT"), ready(b'I')]))];
    for size in [1, 2, 3, 7, usize::MAX] {
        let events = play_calls(&calls, size);
        assert_eq!(tags(&statements(&events)), ["COMMIT"], "in pieces of {size}");
        assert_eq!(lost(&events), 5);
        assert!(events.iter().any(
            |event| matches!(event, Event::Begin { first, at: end, .. } if *first == at(1) && *end == at(1))
        ));
    }
}

#[test]
fn a_write_is_begun_by_its_first_byte_only() {
    // What follows the malformed bytes of the same write is in the midst of something.
    let calls = [asks(cat(&[b"MMIT\0".to_vec(), query("COMMIT")]))];
    for size in [1, 5, usize::MAX] {
        let events = play_calls(&calls, size);
        assert_eq!((statements(&events).len(), lost(&events)), (0, 17), "in pieces of {size}");
    }
}

#[test]
fn requests_are_found_again_behind_a_sync_however_they_are_cut() {
    let text = b"xyzzyS\0\0\0\x04no message".to_vec();
    for calls in [
        vec![asks(cat(&[text.clone(), sync()])), asks(query("zzz"))],
        vec![asks(cat(&[text.clone(), sync(), query("zzz")]))],
        vec![asks(text.clone()), asks(cat(&[text, sync(), query("zzz")]))],
    ] {
        let answered = [&calls[..], &[answers(cat(&[ready(b'I'), complete("ZZZ"), ready(b'I')]))]].concat();
        for size in [1, 3, 7, usize::MAX] {
            let events = play_calls(&answered, size);
            assert_eq!(tags(&statements(&events)), ["ZZZ"], "in pieces of {size}");
            assert_eq!(play_calls(&answered, 2), events);
        }
    }
}

#[test]
fn a_message_cut_short_behind_a_loss_is_counted_the_same_however_it_is_cut() {
    for short in [&b"Q\0\0\0\x20SELECT 1"[..], b"Q\0\0", b"S\0\0\0\x04Q", b"P\0\0\0\x40name"] {
        let calls = [asks(b"MMIT\0".to_vec()), asks(short.to_vec()), answers(b"HTTP/1.1".to_vec())];
        let whole = play_calls(&calls, usize::MAX);
        for size in [1, 3] {
            assert_eq!(play_calls(&calls, size), whole, "{} in pieces of {size}", short.escape_ascii());
        }
    }
}

#[test]
fn skipped_bytes_are_reported_in_portions_however_they_are_cut() {
    for side in [Side::Request, Side::Response] {
        let play = |size: usize| {
            let (mut parser, mut out) = (Postgres::new(), Vec::new());
            for piece in vec![b'x'; 200_000].chunks(size) {
                parser.data(side, piece, at(0), &mut out);
            }
            let before = lost(&out);
            parser.close(at(1), &mut out);
            (before, lost(&out))
        };
        assert_eq!(play(usize::MAX), (5 + 3 * (1 << 16), 200_000));
        assert_eq!(play(1), play(usize::MAX));
    }
}

#[test]
fn hidden_answers_of_several_batches_end_them_as_gap_and_not_with_another_ones_tag() {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    let three = cat(&[query("SELECT 1"), query("SELECT 2"), query("SELECT 3")]);
    parser.data(Side::Request, &three, at(0), &mut out);
    parser.gap(Side::Response, 21, at(1), &mut out);
    parser.data(Side::Response, &cat(&[complete("SELECT 2"), ready(b'I')]), at(2), &mut out);
    parser.data(Side::Response, &cat(&[complete("SELECT 3"), ready(b'I')]), at(3), &mut out);
    let found = statements(&out);
    assert_eq!(found.iter().map(|statement| statement.ended).collect::<Vec<_>>(), [Ended::Gap; 3]);
    assert!(found.iter().all(|statement| statement.tag.is_none()));
}

#[test]
fn of_a_simple_query_with_hidden_answers_only_what_is_certain_is_told() {
    let rows: Vec<u8> = (0..500_u32).flat_map(|number| row(format!("row {number}").as_bytes())).collect();
    let one = cat(&[rows.clone(), complete("SELECT 500"), ready(b'I')]);
    let two = cat(&[complete("UPDATE 3"), one.clone()]);
    for (sql, answer, rows) in
        [("SELECT a FROM t;", &one, Some(500)), ("UPDATE t; SELECT a FROM t", &two, None)]
    {
        let events = play_clipped(&[asks(query(sql)), answers(answer.clone())], Side::Response, 3, 30);
        let found = statements(&events);
        assert_eq!(
            (found.len(), found[0].ended, found[0].tag.as_deref()),
            (1, Ended::Complete, Some("SELECT 500"))
        );
        assert_eq!((found[0].rows, found[0].statements), (rows, None), "{sql}");
        // All that is seen is that it is over.
        let events = play_clipped(&[asks(query(sql)), answers(answer.clone())], Side::Response, 30, 6);
        let found = statements(&events);
        assert_eq!((found.len(), found[0].ended), (1, Ended::Gap), "{sql}");
    }
}

#[test]
fn hidden_answers_to_an_execution_and_a_simple_query_are_not_told_apart() {
    let calls = [
        asks(cat(&[bind("", "s"), execute("", 0), query("SELECT 2")])),
        answers(cat(&[bound(), row(b"x"), complete("SELECT 1"), complete("SELECT 2"), ready(b'I')])),
    ];
    let found = statements(&play_clipped(&calls, Side::Response, 2, 30));
    assert_eq!(found.iter().map(|statement| statement.ended).collect::<Vec<_>>(), [Ended::Gap; 2]);
}

#[test]
fn a_client_that_waits_for_answers_is_paired_again_at_its_next_statement() {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    let answer = |tag: &str| cat(&[complete(tag), ready(b'I')]);
    parser.data(Side::Request, &query("SELECT 1"), at(0), &mut out);
    parser.gap(Side::Response, 20, at(1), &mut out);
    parser.data(Side::Request, &query("SELECT 2"), at(2), &mut out);
    parser.data(Side::Response, &answer("SELECT 2"), at(3), &mut out);
    let found = statements(&out);
    assert_eq!(
        found.iter().map(|statement| statement.ended).collect::<Vec<_>>(),
        [Ended::Gap, Ended::Complete]
    );
    assert_eq!(tags(&found), ["-", "SELECT 2"]);
}

#[test]
fn bytes_that_are_no_message_are_counted_and_passed_over() {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    parser.data(Side::Response, b"HTTP/1.1 200 OK\r\n\r\n", at(0), &mut out);
    parser.data(Side::Response, &cat(&[complete("SELECT 1"), ready(b'I')]), at(1), &mut out);
    parser.data(Side::Request, &query("SELECT 2"), at(2), &mut out);
    parser.data(Side::Response, &cat(&[complete("SELECT 2"), ready(b'I')]), at(3), &mut out);
    assert_eq!(tags(&statements(&out)), ["SELECT 2"]);
    assert_eq!(lost(&out), 19);
}

/// Asserts that every statement with a known end has an outcome that it also had when nothing was hidden, and returns
/// how many are missing.
pub(super) fn missing(whole: &[Statement], found: &[Statement], how: &str) -> usize {
    let known: Vec<&Statement> = found.iter().filter(|statement| !statement.ended_early()).collect();
    for statement in known.iter().filter(|statement| statement.text.is_some()) {
        let same = whole.iter().any(|other| {
            (&other.text, &other.error) == (&statement.text, &statement.error)
                && (other.tag == statement.tag || (statement.batch.is_some() && statement.tag.is_some()))
        });
        assert!(same, "{how}: {statement:?}");
    }
    whole.len().saturating_sub(known.len())
}

fn recordings() -> [Vec<Chunk>; 3] {
    [
        include_str!("../testdata/asyncpg.wire"),
        include_str!("../testdata/psycopg2.wire"),
        include_str!("../testdata/psycopg3.wire"),
    ]
    .map(recording)
}

#[test]
fn whatever_single_read_or_write_is_lost_no_statement_gets_the_outcome_of_another() {
    for chunks in recordings() {
        let whole = statements(&play(&chunks));
        for hidden in 0..chunks.len() {
            let (mut parser, mut out) = (Postgres::new(), Vec::new());
            for (time, (side, bytes)) in chunks.iter().enumerate() {
                if time == hidden {
                    parser.gap(*side, bytes.len() as u64, at(time), &mut out);
                } else {
                    parser.data(*side, bytes, at(time), &mut out);
                }
            }
            parser.close(at(chunks.len()), &mut out);
            let missing = missing(&whole, &statements(&out), &format!("without chunk {hidden}"));
            assert!(
                missing <= 4,
                "without {:?} {}, {missing} are missing",
                chunks[hidden].0,
                chunks[hidden].1.escape_ascii()
            );
        }
    }
}

#[test]
fn wherever_the_watch_begins_no_statement_gets_the_outcome_of_another() {
    for chunks in recordings() {
        let whole = statements(&play(&chunks));
        for start in 0..chunks.len() {
            let (seen, rest) = chunks.split_at(start);
            let before = statements(&play(seen)).iter().filter(|statement| !statement.ended_early()).count();
            let missing = missing(&whole, &statements(&play(rest)), &format!("from chunk {start}"));
            assert!(missing <= before + 4, "from chunk {start}, {missing} are missing, {before} were over");
        }
    }
}

#[test]
fn wherever_requests_are_clipped_no_statement_gets_the_outcome_of_another() {
    for chunks in recordings() {
        let whole = statements(&play(&chunks));
        for head in (40..400).step_by(7) {
            let mut found = statements(&play_clipped(&chunks, Side::Request, head, 30));
            // A text cut short is not found among the whole ones.
            found.retain(|statement| !statement.truncated);
            missing(&whole, &found, &format!("requests clipped to {head}"));
        }
    }
}
