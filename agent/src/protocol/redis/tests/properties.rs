//! What holds for any bytes.

use proptest::{collection::vec, prelude::*};

use super::{
    golden::{RECORDINGS, connections},
    *,
};

/// Pieces of both directions, sound and broken.
const PIECES: &[&str] = &[
    "*1\r\n$4\r\nPING\r\n",
    "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n",
    "abcd",
    "\r\n",
    "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n",
    "*1\r\n$11\r\nUNSUBSCRIBE\r\n",
    "*1\r\n$12\r\nPUNSUBSCRIBE\r\n",
    "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n",
    "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
    "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$2\r\nON\r\n",
    "*1\r\n$5\r\nMULTI\r\n",
    "*1\r\n$4\r\nEXEC\r\n",
    "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n",
    "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
    "*1\r\n$5\r\nRESET\r\n",
    "PING\r\n",
    "*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    "*0\r\n",
    "*1\r\n$7\r\nMONITOR\r\n",
    "*",
    "*2",
    "$3",
    "\r",
    "\n",
    "+OK\r\n",
    "+QUEUED\r\n",
    "-ERR no\r\n",
    ":1\r\n",
    "$4\r\nabcd\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "_\r\n",
    "#t\r\n",
    "%1\r\n$1\r\na\r\n:1\r\n",
    "*2\r\n:1\r\n-ERR x\r\n",
    ">2\r\n$10\r\ninvalidate\r\n_\r\n",
    "|1\r\n+a\r\n:1\r\n",
    "$?\r\n",
    ";2\r\nab\r\n",
    ";0\r\n",
    "*?\r\n",
    ".\r\n",
    "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    "!6\r\nERR no\r\n",
    ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n",
    "~1\r\n",
    "=5\r\n",
    "*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n",
    "*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$2\r\nhi\r\n",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        9 => proptest::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..8),
    ];
    vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

fn op() -> impl Strategy<Value = Op> {
    let side = prop_oneof![Just(Side::Request), Just(Side::Response)];
    prop_oneof![
        10 => bytes().prop_map(Op::Request),
        10 => bytes().prop_map(Op::Response),
        1 => (side, bytes(), 1u64..20, bytes()).prop_map(|(side, before, missing, after)| {
            Op::Holed(side, before, missing, after)
        }),
    ]
}

/// A script of sizes, repeated for ever.
fn sizes(script: Vec<usize>) -> impl FnMut() -> usize {
    let mut script = script.into_iter().cycle();
    move || script.next().unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_a_recording_gives_the_same_events(
        recording in 0..RECORDINGS.len(),
        script in vec(1usize..40, 1..20),
    ) {
        for ops in connections(RECORDINGS[recording].1) {
            prop_assert_eq!(play_cut(&ops, &mut sizes(script.clone())), play(&ops));
        }
    }

    #[test]
    fn any_cut_of_any_calls_gives_the_same_events(
        mut ops in vec(op(), 0..24),
        script in vec(1usize..12, 1..20),
    ) {
        ops.push(Op::Close);
        prop_assert_eq!(play_cut(&ops, &mut sizes(script)), play(&ops));
    }

    #[test]
    fn every_exchange_begins_once_and_ends_once_in_order(mut ops in vec(op(), 0..40)) {
        ops.push(Op::Close);
        let (mut begun, mut ended, mut replied) = (0, 0, None);
        for event in play(&ops) {
            match event {
                Event::Begin { exchange, first, at, .. } => {
                    prop_assert_eq!(exchange, begun);
                    prop_assert!(first.time <= at.time);
                    begun += 1;
                }
                Event::Reply { exchange, .. } => {
                    prop_assert!(exchange < begun && exchange >= ended && replied < Some(exchange));
                    replied = Some(exchange);
                }
                Event::End { exchange, .. } => {
                    prop_assert_eq!(exchange, ended);
                    ended += 1;
                }
                Event::Lost { bytes, .. } => prop_assert!(bytes > 0),
                Event::Push { .. } => {}
                Event::Delivery { .. } | Event::Settle { .. } | Event::Sent { .. } | Event::Unread(_) => {
                    prop_assert!(false, "Redis has no such events");
                }
                Event::Upgrade { .. } => prop_assert!(false, "Redis never changes protocol"),
            }
        }
        prop_assert_eq!(begun, ended);
    }

    #[test]
    fn truncated_recordings_never_panic(recording in 0..RECORDINGS.len(), end in 0usize..4000) {
        for ops in connections(RECORDINGS[recording].1) {
            let mut left = end;
            let mut redis = Redis::new(false);
            let mut out = Vec::new();
            for (call, op) in ops.iter().enumerate() {
                let (side, bytes) = match op {
                    Op::Request(bytes) => (Side::Request, bytes),
                    Op::Response(bytes) => (Side::Response, bytes),
                    Op::Holed(..) | Op::Close => continue,
                };
                let taken = left.min(bytes.len());
                redis.data(side, &bytes[..taken], mark(call), &mut out);
                left -= taken;
            }
            redis.close(mark(ops.len()), &mut out);
            prop_assert!(batches(&out).len() <= ops.len());
        }
    }

    #[test]
    fn the_first_look_never_panics_and_keeps_its_word(bytes in bytes()) {
        let mut decided = None;
        for length in 0..=bytes.len() {
            let guess = super::super::detect(&bytes[..length]);
            if let Some(before) = decided {
                prop_assert_eq!(guess, before);
            } else if guess != crate::protocol::Guess::More {
                decided = Some(guess);
            }
        }
    }
}
