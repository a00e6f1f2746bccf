//! What holds for any input.

use proptest::prelude::*;

use super::{
    super::sql::{Tokens, analyse, sanitize, split},
    *,
};

fn play_in_pieces(chunks: &[Chunk], sizes: &[usize]) -> Vec<Event> {
    let (mut parser, mut out) = (Postgres::new(), Vec::new());
    let mut sizes = sizes.iter().cycle();
    for (side, bytes) in chunks {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            parser.data(*side, piece, Mark::default(), &mut out);
            rest = tail;
        }
    }
    parser.close(Mark::default(), &mut out);
    out
}

fn recordings() -> Vec<Vec<Chunk>> {
    [
        include_str!("../testdata/asyncpg.wire"),
        include_str!("../testdata/psycopg2.wire"),
        include_str!("../testdata/psycopg3.wire"),
        include_str!("../testdata/cancel.wire"),
    ]
    .into_iter()
    .map(recording)
    .collect()
}

#[test]
fn bytes_that_come_one_by_one_give_the_same_events() {
    for chunks in recordings() {
        assert_eq!(play_in_pieces(&chunks, &[1]), play_in_pieces(&chunks, &[usize::MAX]));
    }
}

/// Bytes that look like the protocol often enough to get deep into it.
fn nearly_messages() -> impl Strategy<Value = Vec<Chunk>> {
    let kind = prop::sample::select(b"QPBEDCSHXFpdcf123TDCsIZGHWtnNAKRvV".to_vec());
    let body =
        prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(b'S'), Just(b'C'), any::<u8>()], 0..40);
    let one = (any::<bool>(), kind, body, 0_u8..20).prop_map(|(side, kind, body, noise)| {
        let mut bytes = message(kind, &body);
        if noise == 0 {
            bytes[1] ^= 0x7f;
        } else if noise == 1 {
            bytes.truncate(3);
        }
        (if side { Side::Request } else { Side::Response }, bytes)
    });
    prop::collection::vec(one, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_recordings_give_the_same_events_however_they_are_cut(
        which in 0..3_usize,
        sizes in prop::collection::vec(1..900_usize, 1..20),
    ) {
        let chunks = &recordings()[which];
        prop_assert_eq!(play_in_pieces(chunks, &sizes), play_in_pieces(chunks, &[usize::MAX]));
    }

    #[test]
    fn a_response_stream_with_a_gap_gives_the_same_events_however_it_is_cut(
        head in 1..400_usize,
        hidden in 1..3000_usize,
        sizes in prop::collection::vec(1..300_usize, 1..20),
    ) {
        let rows: Vec<u8> = (0..300_u32).flat_map(|number| row(format!("row {number}").as_bytes())).collect();
        let answer = cat(&[rows, complete("SELECT 300"), ready(b'T')]);
        let play = |sizes: &[usize]| {
            let (mut parser, mut out) = (Postgres::new(), Vec::new());
            parser.data(Side::Request, &query("SELECT 1"), Mark::default(), &mut out);
            let mut sizes = sizes.iter().cycle();
            for (part, gap) in [(&answer[..head], hidden), (&answer[head + hidden..], 0)] {
                let mut rest = part;
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                    parser.data(Side::Response, piece, Mark::default(), &mut out);
                    rest = tail;
                }
                parser.gap(Side::Response, gap as u64, Mark::default(), &mut out);
            }
            out
        };
        let whole = play(&[usize::MAX]);
        let found = statements(&whole);
        prop_assert_eq!(tags(&found), ["SELECT 300"]);
        prop_assert_eq!(play(&sizes), whole);
    }

    #[test]
    fn whatever_reads_and_writes_are_lost_no_statement_gets_the_outcome_of_another(
        which in 0..3_usize,
        hidden in prop::collection::vec(0..140_usize, 2..5),
    ) {
        let chunks = &recordings()[which];
        let (mut parser, mut out) = (Postgres::new(), Vec::new());
        for (time, (side, bytes)) in chunks.iter().enumerate() {
            if hidden.contains(&time) {
                parser.gap(*side, bytes.len() as u64, at(time), &mut out);
            } else {
                parser.data(*side, bytes, at(time), &mut out);
            }
        }
        parser.close(at(chunks.len()), &mut out);
        let missing = gaps::missing(&statements(&play(chunks)), &statements(&out), &format!("without {hidden:?}"));
        prop_assert!(missing <= 20, "without {:?}, {} are missing", hidden, missing);
    }

    #[test]
    fn calls_with_losses_give_the_same_events_however_they_are_cut(
        chunks in nearly_messages(),
        gaps in prop::collection::vec((0..60_usize, any::<bool>(), 0..200_u64), 0..4),
        sizes in prop::collection::vec(1..12_usize, 1..20),
    ) {
        let play = |sizes: &[usize]| {
            let (mut parser, mut out) = (Postgres::new(), Vec::new());
            let mut sizes = sizes.iter().cycle();
            for (time, (side, bytes)) in chunks.iter().enumerate() {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                    parser.data(*side, piece, at(time), &mut out);
                    rest = tail;
                }
                for (_, request, length) in gaps.iter().filter(|gap| gap.0 == time) {
                    let side = if *request { Side::Request } else { Side::Response };
                    parser.gap(side, *length, at(time), &mut out);
                }
            }
            parser.close(at(chunks.len()), &mut out);
            out
        };
        let whole = play(&[usize::MAX]);
        prop_assert_eq!(&play(&[1]), &whole);
        prop_assert_eq!(&play(&sizes), &whole);
    }

    #[test]
    fn no_prefix_takes_back_a_decision(chunks in nearly_messages()) {
        for side in [Side::Request, Side::Response] {
            let bytes = chunks.iter().filter(|chunk| chunk.0 == side).flat_map(|chunk| chunk.1.clone());
            let bytes: Vec<u8> = bytes.take(300).collect();
            let guesses: Vec<_> = (0..=bytes.len()).map(|end| detect(&bytes[..end])).collect();
            let decided = guesses.iter().skip_while(|guess| **guess == crate::protocol::Guess::More);
            prop_assert!(decided.clone().all(|guess| Some(guess) == decided.clone().next()), "{:?}", bytes);
        }
    }

    #[test]
    fn no_input_panics_and_every_exchange_ends_once(
        chunks in nearly_messages(),
        gaps in prop::collection::vec((0..60_usize, any::<bool>(), 0..200_u64), 0..4),
    ) {
        let (mut parser, mut out) = (Postgres::new(), Vec::new());
        for (time, (side, bytes)) in chunks.iter().enumerate() {
            parser.data(*side, bytes, at(time), &mut out);
            for (_, request, length) in gaps.iter().filter(|gap| gap.0 == time) {
                let side = if *request { Side::Request } else { Side::Response };
                parser.gap(side, *length, at(time), &mut out);
            }
        }
        parser.close(at(chunks.len()), &mut out);
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for event in &out {
            match event {
                Event::Begin { exchange, .. } => begun.push(*exchange),
                Event::End { exchange, .. } => ended.push(*exchange),
                Event::Reply { exchange, .. } => prop_assert!(begun.contains(exchange) && !ended.contains(exchange)),
                _ => {}
            }
        }
        prop_assert_eq!(&begun, &(0..begun.len() as u64).collect::<Vec<_>>());
        ended.sort_unstable();
        prop_assert_eq!(begun, ended);
    }

    #[test]
    fn random_bytes_are_no_panic_and_no_claim(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let (mut parser, mut out) = (Postgres::new(), Vec::new());
        for side in [Side::Request, Side::Response] {
            for piece in bytes.chunks(100) {
                parser.data(side, piece, Mark::default(), &mut out);
            }
        }
        parser.close(Mark::default(), &mut out);
        if bytes.len() > 8 {
            prop_assert!(!matches!(detect(&bytes), crate::protocol::Guess::Yes(_)));
        }
    }

    #[test]
    fn sql_of_any_kind_is_cut_into_tokens_that_are_the_whole_text(
        sql in "(SELECT|FROM|IN|WITH|AS|E|U&|B|['\"$;,()./*\\\\ -]|[0-9a-zé]|\n){0,40}",
    ) {
        let joined: String = Tokens::new(&sql).map(|token| token.text).collect();
        prop_assert_eq!(&joined, &sql);
        let _ = analyse(&sql);
        let _ = split(&sql);
        let clean = sanitize(&sql);
        prop_assert_eq!(sanitize(&clean).is_empty(), clean.is_empty());
    }
}
