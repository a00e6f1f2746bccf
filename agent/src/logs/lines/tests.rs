use proptest::prelude::*;

use super::*;

/// Who has written it, how long after the start in nanoseconds, and what.
type Write<'a> = (Writer, u64, &'a [u8]);

fn piece<'a>(writer: &'a Writer, time: u64, head: &'a [u8]) -> Piece<'a, Writer> {
    Piece { writer: *writer, act: writer, time, head, missing: 0, tail: b"" }
}

fn records(buffering: Buffering, writes: &[Write<'_>]) -> Vec<Record<Writer>> {
    let mut stream = Stream::new(buffering, 1000);
    let mut records = Vec::new();
    for (writer, time, bytes) in writes {
        stream.take(&piece(writer, *time, bytes), &mut records);
    }
    stream.finish(&mut records);
    // Those of several writers are complete in any order.
    records.sort_by_key(|record| record.time);
    records
}

fn texts(buffering: Buffering, writes: &[Write<'_>]) -> Vec<(Option<Writer>, String)> {
    records(buffering, writes).into_iter().map(|record| (record.act, record.text)).collect()
}

const A: Writer = (1, 10);
const B: Writer = (1, 20);
/// Another thread.
const OTHER: Writer = (2, 30);

#[test]
fn lines_are_records() {
    let writes: [Write<'_>; 2] = [(A, 1, b"one\ntwo\n\n"), (A, 2, b"three\r\nfour")];
    let texts: Vec<String> = texts(Buffering::None, &writes).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "two", "three", "four"]);
}

#[test]
fn pieces_of_lines_of_several_tasks_are_put_together() {
    let writes: [Write<'_>; 4] = [(A, 1, b"one "), (B, 2, b"other "), (A, 3, b"line\n"), (B, 4, b"line\n")];
    let expected = [(Some(A), "one line".to_owned()), (Some(B), "other line".to_owned())];
    assert_eq!(texts(Buffering::None, &writes), expected);
}

#[test]
fn a_traceback_is_one_record_however_it_is_written() {
    let text = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    g()\nKeyError: 'a'\n\n\
                During handling of the above exception, another exception occurred:\n\n\
                Traceback (most recent call last):\n  File \"b.py\", line 2, in <module>\n    h()\n\
                app.errors.Wrong: no\n";
    let whole: [Write<'_>; 1] = [(A, 1, text.as_bytes())];
    assert_eq!(texts(Buffering::None, &whole), [(Some(A), text.trim_end().to_owned())]);
    // As `traceback.print_exc` does, with another task between.
    let mut writes: Vec<Write<'_>> = Vec::new();
    for (line, time) in text.split_inclusive('\n').zip(1..) {
        writes.push((A, time * 2, line.as_bytes()));
        writes.push((B, time * 2 + 1, b"beside\n"));
    }
    let found = texts(Buffering::None, &writes);
    assert_eq!(found.iter().filter(|(writer, _)| *writer == Some(A)).count(), 1);
    assert!(found.contains(&(Some(A), text.trim_end().to_owned())));
}

#[test]
fn what_is_written_at_once_with_a_formatted_line_belongs_to_it() {
    let logged =
        b"ERROR:app:failed\nTraceback (most recent call last):\n  File \"a.py\", line 1, in f\nE: x\ny\n";
    let writes: [Write<'_>; 2] = [(A, 1, logged), (A, 2, b"INFO:app:next\nof next\n")];
    let found = texts(Buffering::None, &writes);
    assert_eq!(found.len(), 2);
    assert!(found[0].1.ends_with("E: x\ny") && found[1].1 == "INFO:app:next\nof next", "{found:?}");
    // Nothing says so of plain lines, or of what is written later.
    let writes: [Write<'_>; 2] = [(A, 1, b"INFO:app:first\n"), (A, 2, b"later\nand more\n")];
    assert_eq!(texts(Buffering::None, &writes).len(), 3);
}

#[test]
fn out_of_a_buffer_only_what_comes_alone_has_a_writer() {
    let writes: [Write<'_>; 3] = [(A, 1, b"alone\n"), (B, 2, b"one\ntwo\n"), (A, 3, b"alone again\n")];
    let writers: Vec<Option<Writer>> =
        texts(Buffering::Block, &writes).into_iter().map(|(writer, _)| writer).collect();
    assert_eq!(writers, [Some(A), None, None, Some(A)]);
}

#[test]
fn lines_that_are_flushed_one_by_one_are_their_threads() {
    let writers = |writes: &[Write<'_>]| -> Vec<Option<Writer>> {
        texts(Buffering::Line, writes).into_iter().map(|(writer, _)| writer).collect()
    };
    assert_eq!(writers(&[(A, 1, b"one\ntwo\n"), (B, 2, b"three\n")]), [Some(A), Some(A), Some(B)]);
    // With several threads only what comes alone, and after a pause.
    let found = writers(&[
        (A, 1, b"one\n"),
        (OTHER, 2, b"at the same time\n"),
        (A, 3 + CONTENDED, b"two\n"),
        (OTHER, 4 + 2 * CONTENDED, b"three\nfour\n"),
    ]);
    assert_eq!(found, [Some(A), None, Some(A), None, None]);
}

#[test]
fn a_buffer_may_end_within_a_line_that_another_goes_on_with() {
    let mut buffer = "a line\n".repeat(400).into_bytes();
    buffer.extend_from_slice(b"the begin");
    let writes: [Write<'_>; 2] = [(A, 1, &buffer), (B, 2, b"ning of a line\nand the next\n")];
    let found = texts(Buffering::Block, &writes);
    assert!(found.iter().all(|(writer, _)| writer.is_none()));
    assert_eq!(found[400].1, "the beginning of a line");
    assert_eq!(found[401].1, "and the next");
}

#[test]
fn what_was_not_captured_is_counted() {
    let mut stream = Stream::new(Buffering::None, 1000);
    let mut records = Vec::new();
    let piece = Piece { writer: A, act: &A, time: 1, head: b"one\ntwo", missing: 70, tail: b"end\nthree\n" };
    stream.take(&piece, &mut records);
    stream.finish(&mut records);
    let found: Vec<(&str, u64)> = records.iter().map(|record| (record.text.as_str(), record.cut)).collect();
    assert_eq!(found, [("one", 0), ("twoend", 70), ("three", 0)]);
}

#[test]
fn long_lines_are_cut() {
    let long = [b"x".repeat(5000), b"\nshort\n".to_vec()].concat();
    let found = records(Buffering::None, &[(A, 1, &long)]);
    assert_eq!((found[0].text.len(), found[0].cut), (1000, 4000));
    assert_eq!(found[1].text, "short");
}

#[test]
fn time_completes_records() {
    let mut stream = Stream::new(Buffering::None, 1000);
    let mut records = Vec::new();
    stream.take(&piece(&A, 1, b"a line\n"), &mut records);
    stream.take(&piece(&B, 1, b"a prompt> "), &mut records);
    stream.tick(SETTLED_AFTER, &mut records);
    assert!(records.is_empty());
    stream.tick(SETTLED_AFTER + 1, &mut records);
    assert_eq!((records.len(), stream.is_empty()), (1, false));
    stream.tick(UNFINISHED_KEPT + 1, &mut records);
    assert_eq!((records[1].text.as_str(), stream.is_empty()), ("a prompt> ", true));
}

#[test]
fn the_writers_of_a_stream_are_bounded() {
    let mut stream = Stream::new(Buffering::None, 1000);
    let mut records = Vec::new();
    for context in 0..1000 {
        stream.take(&piece(&(1, context), 1 + u64::from(context), b"piece"), &mut records);
    }
    assert_eq!((stream.open.len(), records.len()), (WRITERS_MAX, 1000 - WRITERS_MAX));
}

fn lines() -> impl Strategy<Value = Vec<(bool, String)>> {
    let line = prop_oneof![
        "[ -~]{0,30}",
        Just("INFO:app:message".to_owned()),
        Just("Traceback (most recent call last):".to_owned()),
        Just("  File \"a.py\", line 1, in f".to_owned()),
        Just("ValueError: no".to_owned()),
        Just(CHAINS[0].to_owned()),
        "[äß€\u{1F600}]{0,4}",
    ];
    prop::collection::vec((any::<bool>(), line), 0..20)
}

proptest! {
    /// However what is written at one time is cut, the records are the same.
    #[test]
    fn any_split_of_the_stream_gives_the_same_records(
        lines in lines(),
        cuts in prop::collection::vec(1_usize..20, 0..60),
    ) {
        let mut writes: Vec<(Writer, u64, Vec<u8>)> = Vec::new();
        for ((second, line), time) in lines.iter().zip(1..) {
            let writer = if *second { B } else { A };
            writes.push((writer, time / 3, format!("{line}\n").into_bytes()));
        }
        let whole: Vec<Write<'_>> =
            writes.iter().map(|(writer, time, bytes)| (*writer, *time, bytes.as_slice())).collect();
        let mut cut = Vec::new();
        let mut sizes = cuts.iter().cycle();
        for (writer, time, bytes) in &writes {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let size = sizes.next().map_or(rest.len(), |size| (*size).min(rest.len()));
                cut.push((*writer, *time, &rest[..size]));
                rest = &rest[size..];
            }
        }
        prop_assert_eq!(records(Buffering::None, &whole), records(Buffering::None, &cut));
    }

    /// Each line that is not blank is in exactly one record.
    #[test]
    fn nothing_is_lost(lines in lines(), buffered: bool) {
        let buffering = if buffered { Buffering::Block } else { Buffering::None };
        let writes: Vec<(Writer, Vec<u8>)> = lines
            .iter()
            .map(|(second, line)| (if *second { B } else { A }, format!("{line}\n").into_bytes()))
            .collect();
        let writes: Vec<Write<'_>> =
            writes.iter().zip(1..).map(|((writer, bytes), time)| (*writer, time, bytes.as_slice())).collect();
        let found = records(buffering, &writes);
        let mut found: Vec<&str> =
            found.iter().flat_map(|record| record.text.lines()).filter(|line| !line.trim().is_empty()).collect();
        let mut expected: Vec<&str> =
            lines.iter().map(|(_, line)| line.as_str()).filter(|line| !line.trim().is_empty()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}
