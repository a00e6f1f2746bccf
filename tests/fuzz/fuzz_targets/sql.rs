#![no_main]

use adder::protocol::postgres::sql::{sanitize, summary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|sql: &str| {
    let sanitized = sanitize(sql);
    assert_eq!(sanitize(&sanitized), sanitized, "nothing is left to remove");
    let _ = summary(sql);
});
