#![no_main]

use adder::protocol::http2::Http2;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // Its first byte says whether the connection is seen from its beginning.
    let Some((first, rest)) = input.split_first() else { return };
    adder_fuzz::drive(rest, || Http2::new(first & 1 == 0, false));
});
