//! Message flows that the recordings do not have.

use super::*;

#[test]
fn an_encrypted_connection_says_so_and_nothing_more() {
    for answer in [b"S".to_vec(), b"G".to_vec()] {
        let (mut parser, mut out) = (Postgres::new(), Vec::new());
        parser.data(Side::Request, b"\0\0\0\x08\x04\xd2\x16\x2f", at(0), &mut out);
        assert!(!parser.encrypted());
        parser.data(Side::Response, &answer, at(1), &mut out);
        assert!(parser.encrypted());
        parser.data(Side::Request, b"\x16\x03\x01\x02\x00\x01\x00", at(2), &mut out);
        parser.gap(Side::Response, 500, at(3), &mut out);
        parser.data(Side::Response, &query("SELECT 1"), at(4), &mut out);
        parser.close(at(5), &mut out);
        let protocol = "tls".to_owned();
        let upgrade =
            Event::Upgrade { protocol, at: at(1), opening: None, request: Vec::new(), response: Vec::new() };
        // Nothing reads what is encrypted by GSSAPI.
        assert_eq!(out, if answer == b"S" { vec![upgrade] } else { vec![] });
    }
}

#[test]
fn refused_encryption_goes_on_in_clear() {
    let mut startup = b"\0\0\0\x12\0\x03\0\0user\0ann\0\0".to_vec();
    startup[3] = startup.len() as u8;
    let events = play(&[
        asks(b"\0\0\0\x08\x04\xd2\x16\x30".to_vec()),
        answers(b"N".to_vec()),
        asks(b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec()),
        answers(b"N".to_vec()),
        asks(startup),
        answers(cat(&[message(b'R', &[0; 4]), message(b'K', &[1; 8]), ready(b'I')])),
        asks(query("SELECT 1")),
        answers(cat(&[row(b"1"), complete("SELECT 1"), ready(b'I')])),
    ]);
    let found = statements(&events);
    assert_eq!(tags(&found), ["SELECT 1"]);
    // A startup message without database means the user's.
    assert_eq!(found[0].session.as_ref().and_then(|session| session.database.as_deref()), Some("ann"));
}

#[test]
fn a_connection_already_in_use_is_understood_from_its_next_statement() {
    let events = play(&[
        answers(cat(&[row(b"old"), complete("SELECT 7"), ready(b'I')])),
        asks(query("SELECT 1")),
        answers(cat(&[row(b"1"), complete("SELECT 1"), ready(b'I')])),
        asks(cat(&[bind("", "_seen_before"), execute("", 0), sync()])),
        answers(cat(&[bound(), row(b"1"), complete("SELECT 3"), ready(b'T')])),
    ]);
    let found = statements(&events);
    assert_eq!(tags(&found), ["SELECT 1", "SELECT 3"]);
    assert_eq!(texts(&found), ["SELECT 1", "?"]);
    assert_eq!(found[1].name.as_deref(), Some("_seen_before"));
}

#[test]
fn an_answer_to_a_statement_sent_before_the_watch_is_not_given_to_the_next() {
    let events = play(&[
        answers(row(b"old")),
        asks(query("SELECT 1")),
        answers(cat(&[complete("SELECT 7"), ready(b'I'), row(b"1"), complete("SELECT 1"), ready(b'I')])),
    ]);
    let found = statements(&events);
    assert_eq!((found.len(), found[0].ended, &found[0].tag), (1, Ended::Gap, &None));
}

#[test]
fn a_preparation_answered_before_the_watch_does_not_hide_the_execution() {
    let events = play(&[
        answers(cat(&[parsed(), message(b't', &[0, 0]), message(b'n', b"")])),
        asks(cat(&[bind("", "s1"), execute("", 0), sync()])),
        answers(cat(&[bound(), complete("INSERT 0 1"), ready(b'I')])),
    ]);
    assert_eq!(tags(&statements(&events)), ["INSERT 0 1"]);
}

#[test]
fn executions_of_different_statements_are_exchanges_of_their_own() {
    let events = play(&[
        asks(cat(&[
            parse("", "SELECT 1"),
            bind("", ""),
            execute("", 0),
            parse("", "SELECT 2"),
            bind("", ""),
            execute("", 0),
            sync(),
        ])),
        answers(cat(&[
            parsed(),
            bound(),
            complete("SELECT 1"),
            parsed(),
            bound(),
            complete("SELECT 2"),
            ready(b'I'),
        ])),
    ]);
    let found = statements(&events);
    assert_eq!(texts(&found), ["SELECT 1", "SELECT 2"]);
    assert_eq!(tags(&found), ["SELECT 1", "SELECT 2"]);
    assert!(found.iter().all(|statement| statement.batch.is_none()));
}

#[test]
fn a_sync_between_them_separates_executions_of_the_same_statement() {
    let once = cat(&[bind("", "s"), execute("", 0), sync()]);
    let events = play(&[
        asks(cat(&[parse("s", "DELETE FROM t"), once.clone(), once.clone()])),
        answers(cat(&[
            parsed(),
            bound(),
            complete("DELETE 1"),
            ready(b'I'),
            bound(),
            complete("DELETE 2"),
            ready(b'I'),
        ])),
    ]);
    let found = statements(&events);
    assert_eq!(
        found.iter().map(|statement| (statement.rows, statement.batch)).collect::<Vec<_>>(),
        [(Some(1), None), (Some(2), None)]
    );
}

#[test]
fn a_batch_whose_answers_come_while_it_is_sent_is_still_one() {
    let once = || cat(&[bind("", "s"), execute("", 0)]);
    let events = play(&[
        asks(cat(&[parse("s", "DELETE FROM t"), once(), once()])),
        answers(cat(&[parsed(), bound(), complete("DELETE 1"), bound(), complete("DELETE 1")])),
        asks(cat(&[once(), sync()])),
        answers(cat(&[bound(), complete("DELETE 1"), ready(b'I')])),
    ]);
    let found = statements(&events);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].batch, found[0].rows), (Some(3), Some(3)));
}

#[test]
fn fetching_a_portal_in_portions_is_one_exchange_each() {
    let events = play(&[
        asks(cat(&[parse("", "SELECT n FROM t"), bind("c", ""), execute("c", 2), flush()])),
        answers(cat(&[parsed(), bound(), row(b"1"), row(b"2"), message(b's', b"")])),
        asks(cat(&[execute("c", 2), sync()])),
        answers(cat(&[row(b"3"), complete("SELECT 1"), ready(b'I')])),
    ]);
    let found = statements(&events);
    assert_eq!(
        found.iter().map(|statement| (statement.ended, statement.rows)).collect::<Vec<_>>(),
        [(Ended::Suspended, Some(2)), (Ended::Complete, Some(1))]
    );
    assert_eq!(texts(&found), ["SELECT n FROM t"; 2]);
}

#[test]
fn what_follows_an_error_is_skipped_up_to_the_sync_even_if_sent_later() {
    let events = play(&[
        asks(cat(&[parse("", "SELECT 1/0"), bind("", ""), execute("", 0), flush()])),
        answers(cat(&[parsed(), bound(), failure("22012")])),
        asks(cat(&[parse("", "SELECT 2"), bind("", ""), execute("", 0), sync(), query("SELECT 3")])),
        answers(cat(&[ready(b'I'), complete("SELECT 1"), ready(b'I')])),
    ]);
    let found = statements(&events);
    assert_eq!(texts(&found), ["SELECT 1/0", "SELECT 2", "SELECT 3"]);
    assert_eq!(
        found.iter().map(|statement| statement.ended).collect::<Vec<_>>(),
        [Ended::Complete, Ended::Skipped, Ended::Complete]
    );
}

#[test]
fn a_failing_bind_ends_its_execution_with_the_error() {
    let events = play(&[
        asks(cat(&[bind("", "gone"), execute("", 0), sync()])),
        answers(cat(&[failure("26000"), ready(b'I')])),
    ]);
    let found = statements(&events);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].error.as_ref().map(|error| error.sqlstate.as_str()), Some("26000"));
}

#[test]
fn an_error_at_the_commit_of_an_implicit_transaction_belongs_to_the_statement() {
    let events = play(&[
        asks(cat(&[parse("", "INSERT INTO t VALUES ($1)"), bind("", ""), execute("", 0), sync()])),
        answers(cat(&[parsed(), bound(), complete("INSERT 0 1"), failure("23503"), ready(b'I')])),
    ]);
    let found = statements(&events);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].error.as_ref().map(|error| error.sqlstate.as_str()), Some("23503"));
    assert_eq!(found[0].rows, None);
}

#[test]
fn a_copy_in_an_extended_query_swallows_the_sync_sent_before_its_data() {
    let copy = cat(&[parse("", "COPY t FROM STDIN"), bind("", ""), execute("", 0), sync()]);
    let data = cat(&[message(b'd', b"1\n"), message(b'c', b""), sync()]);
    let begun = cat(&[parsed(), bound(), message(b'G', &[0, 0, 0])]);
    let done = cat(&[complete("COPY 1"), ready(b'I')]);
    let next = [asks(query("SELECT 1")), answers(cat(&[complete("SELECT 1"), ready(b'I')]))];
    let waiting = [asks(copy.clone()), answers(begun.clone()), asks(data.clone()), answers(done.clone())];
    let eager = [asks(cat(&[copy, data])), answers(cat(&[begun, done]))];
    for chunks in [&waiting[..], &eager[..]] {
        let found = statements(&play(&[chunks, &next[..]].concat()));
        assert_eq!(tags(&found), ["COPY 1", "SELECT 1"]);
        assert_eq!(found[0].kind, Kind::Copy);
    }
}

#[test]
fn closing_the_connection_cuts_what_is_open() {
    let events = play(&[asks(query("SELECT pg_sleep(9)"))]);
    let found = statements(&events);
    assert_eq!(found[0].ended, Ended::Cut);
    assert!(found[0].ended_early());
    assert!(matches!(events.last(), Some(Event::End { at, .. }) if at.time == 1));
}

#[test]
fn a_notification_leaves_a_digest_and_not_its_payload() {
    let body = b"\0\0\0\x07news\0secret\0";
    let events = play(&[
        answers(message(b'A', body)),
        answers(message(b'A', body)),
        answers(message(b'A', b"\0\0\0\x07news\0\0")),
    ]);
    let kinds: Vec<Kind> = statements(&events).into_iter().map(|statement| statement.kind).collect();
    assert!(
        matches!(&kinds[0], Kind::Notification { channel, pid: 7, payload_size: 6, .. } if channel == "news")
    );
    assert_eq!(kinds[0], kinds[1]);
    assert_ne!(kinds[0], kinds[2]);
    assert!(!format!("{events:?}").contains("secret"));
}

#[test]
fn the_statements_of_a_simple_query_are_one_exchange() {
    let sql = "UPDATE t SET a = 1; SELECT 1; SELECT 2;";
    let described = message(b'T', &[0, 0]);
    let events = play(&[
        asks(query(sql)),
        answers(cat(&[complete("UPDATE 7"), described.clone(), row(b"1"), complete("SELECT 1")])),
        answers(cat(&[described, row(b"1"), row(b"2"), complete("SELECT 2")])),
        answers(ready(b'I')),
    ]);
    assert!(
        matches!(&events[..], [Event::Begin { .. }, Event::Reply { at: reply, .. }, Event::End { at: end, .. }] if (*reply, *end) == (at(1), at(3))),
        "{events:?}"
    );
    let found = statements(&events);
    assert_eq!((texts(&found), tags(&found)), (vec![sql], vec!["SELECT 2"]));
    assert_eq!((found[0].rows, found[0].returns_rows, found[0].statements), (Some(3), true, Some(3)));
    assert_eq!((found[0].batch, found[0].ended), (None, Ended::Complete));
}

#[test]
fn rows_that_statements_affect_count_where_none_returns_any() {
    for (sql, tags, rows, returns) in [
        ("UPDATE t; DELETE FROM t", &["UPDATE 2", "DELETE 3"][..], Some(5), false),
        ("SELECT 1; UPDATE t", &["SELECT 1", "UPDATE 2"], Some(1), true),
        ("BEGIN; COMMIT", &["BEGIN", "COMMIT"], None, false),
        ("CLOSE ALL; SELECT 1; RESET ALL", &["CLOSE CURSOR ALL", "SELECT 1", "RESET"], Some(1), true),
    ] {
        let answer: Vec<Vec<u8>> = tags.iter().map(|tag| complete(tag)).collect();
        let found = statements(&play(&[asks(query(sql)), answers(cat(&[cat(&answer), ready(b'I')]))]));
        assert_eq!((found[0].rows, found[0].returns_rows), (rows, returns), "{sql}");
        assert_eq!(found[0].statements, Some(tags.len() as u32));
    }
}

#[test]
fn a_simple_query_ends_with_the_error_of_one_of_its_statements() {
    let answer = cat(&[complete("SELECT 1"), failure("22012")]);
    for rest in [ready(b'I'), Vec::new()] {
        let events =
            play(&[asks(query("SELECT 1; SELECT 1/0; SELECT 3")), answers(answer.clone()), answers(rest)]);
        let found = statements(&events);
        assert_eq!((found.len(), found[0].ended, found[0].rows), (1, Ended::Complete, None));
        assert_eq!(found[0].error.as_ref().map(|error| error.sqlstate.as_str()), Some("22012"));
        assert_eq!(found[0].statements, Some(2));
    }
}

#[test]
fn a_copy_among_other_statements_is_a_simple_query() {
    let copied =
        cat(&[message(b'H', &[0, 0, 0]), message(b'd', b"1\n"), message(b'c', b""), complete("COPY 1")]);
    for (sql, answer, kind) in [
        ("COPY t TO STDOUT", copied.clone(), Kind::Copy),
        ("COPY t TO STDOUT; BEGIN", cat(&[copied.clone(), complete("BEGIN")]), Kind::Simple),
        ("BEGIN; COPY t TO STDOUT", cat(&[complete("BEGIN"), copied]), Kind::Simple),
    ] {
        let found = statements(&play(&[asks(query(sql)), answers(cat(&[answer, ready(b'T')]))]));
        assert_eq!((found.len(), &found[0].kind), (1, &kind), "{sql}");
    }
}

#[test]
fn a_script_of_very_many_statements_is_one_exchange() {
    let script = "INSERT INTO t VALUES (1);".repeat(100);
    let answer = complete("INSERT 0 1").repeat(100);
    let events = play(&[asks(query(&script)), answers(cat(&[answer, ready(b'I')]))]);
    let found = statements(&events);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].batch, found[0].statements, found[0].rows), (None, Some(100), Some(100)));
}

#[test]
fn a_long_text_is_kept_up_to_its_bound() {
    let sql = format!("SELECT '{}'", "é".repeat(20_000));
    let events = play(&[asks(query(&sql)), answers(cat(&[complete("SELECT 1"), ready(b'I')]))]);
    let found = statements(&events);
    let text = found[0].text.as_deref().unwrap();
    assert!(found[0].truncated && sql.starts_with(text));
    assert!((16 * 1024 - 3..=16 * 1024).contains(&text.len()));
    assert_eq!(found[0].batch, None);
}

#[test]
fn the_statements_of_a_closed_name_are_forgotten_and_old_ones_make_room() {
    let mut chunks = Vec::new();
    for number in 0..1100 {
        chunks.push(asks(cat(&[parse(&format!("s{number}"), "SELECT 1"), flush()])));
        chunks.push(answers(parsed()));
    }
    chunks.push(asks(cat(&[message(b'C', b"Ss1099\0"), sync()])));
    chunks.push(answers(cat(&[message(b'3', b""), ready(b'I')])));
    for name in ["s0", "s1098", "s1099"] {
        chunks.push(asks(cat(&[bind("", name), execute("", 0), sync()])));
        chunks.push(answers(cat(&[bound(), complete("SELECT 1"), ready(b'I')])));
    }
    assert_eq!(texts(&statements(&play(&chunks))), ["?", "SELECT 1", "?"]);
}

#[test]
fn a_queue_without_answers_is_bounded_and_counted() {
    let chunks: Vec<Chunk> = (0..10_000).map(|_| asks(query("SELECT 1"))).collect();
    let events = play(&chunks);
    assert_eq!(statements(&events).len(), 10_000);
    assert!(events.iter().any(|event| matches!(event, Event::Lost { reason: LossReason::TooLarge, .. })));
}
