#![no_main]

use adder::logs::{
    self,
    lines::{Buffering, Piece, Record, Stream},
    redact::Redactor,
};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 512;

/// Writes of up to three writers: a control byte and a length for each, then its bytes; cut into pieces.
fn read(mut input: &[u8], buffering: Buffering, size: usize) -> Vec<Record<u32>> {
    let mut stream = Stream::new(buffering, MAX_BYTES);
    let mut records = Vec::new();
    let mut time = 1;
    while let [control, length, rest @ ..] = input {
        let (head, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        input = rest;
        let act = u32::from(control % 3);
        time += u64::from(control >> 2);
        for head in head.chunks(size) {
            let piece = Piece { writer: (1, act), act: &act, time, head, missing: 0, tail: b"" };
            stream.take(&piece, &mut records);
        }
        if control & 0x80 != 0 {
            stream.tick(time + 1_000_000 * u64::from(*control), &mut records);
        }
    }
    stream.finish(&mut records);
    // Those of several writers are complete in any order.
    records.sort_by(|a, b| (a.time, a.act, &a.text).cmp(&(b.time, b.act, &b.text)));
    records
}

fuzz_target!(|input: &[u8]| {
    let whole = read(input, Buffering::None, usize::MAX);
    assert_eq!(read(input, Buffering::None, 3), whole);
    let redactor = Redactor::new(&[], true);
    for record in whole.into_iter().chain(read(input, Buffering::Block, usize::MAX)) {
        let mut parsed = logs::parse(&record.text);
        redactor.record(&mut parsed);
    }
});
