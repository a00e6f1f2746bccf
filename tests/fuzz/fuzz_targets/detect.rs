#![no_main]

use adder::protocol::{Guess, amqp, http, http2, postgres, redis};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for detect in [http::detect, postgres::detect, redis::detect, amqp::detect, http2::detect] {
        let mut decided = None;
        for end in 0..=bytes.len().min(512) {
            let guess = detect(&bytes[..end]);
            match decided {
                Some(before) => assert_eq!(guess, before, "a decision holds"),
                None if guess == Guess::More => {}
                None => decided = Some(guess),
            }
        }
    }
});
