#![no_main]

use adder::protocol::redis::Redis;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| adder_fuzz::drive(input, || Redis::new(true)));
