#![no_main]

use adder::protocol::tls::{Records, begins};
use libfuzzer_sys::fuzz_target;

/// The lengths of the records that begin, and what the handshake says, must not depend on how the stream is cut.
fn read(bytes: &[u8], size: usize) -> (Vec<u16>, String) {
    let mut records = Records::default();
    let mut begun = Vec::new();
    let mut greetings = String::new();
    for piece in bytes.chunks(size.max(1)) {
        records.data(piece, &mut begun);
    }
    if let Some(greeting) = records.greeting() {
        greetings = format!("{greeting:?}");
    }
    (begun, greetings)
}

/// How many bytes belong to records.
fn records(stream: &[u8]) -> usize {
    let mut at = 0;
    while let Some([_, _, _, high, low, ..]) = stream.get(at..)
        && begins(&stream[at..]) == Some(true)
    {
        at += 5 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    at.min(stream.len())
}

fuzz_target!(|input: &[u8]| {
    // A stream of records; where something else is, what is found behind it depends on where the pieces begin.
    let Some((length, rest)) = input.split_first() else { return };
    let stream = [&[22, 3, 1, 0, *length][..], rest].concat();
    let stream = &stream[..records(&stream)];
    let whole = read(stream, stream.len());
    for size in [1, 2, 7] {
        assert_eq!(read(stream, size), whole);
    }
    let mut records = Records::default();
    let mut begun = Vec::new();
    for (place, piece) in rest.chunks(9).enumerate() {
        if place % 3 == 2 {
            records.gap(u64::from(piece[0]) << (place % 16));
        }
        records.data(piece, &mut begun);
    }
});
