#![no_main]

use adder::protocol::amqp::Amqp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| adder_fuzz::drive(input, Amqp::new));
