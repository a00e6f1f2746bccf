#![no_main]

use adder::protocol::postgres::Postgres;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| adder_fuzz::drive(input, Postgres::new));
