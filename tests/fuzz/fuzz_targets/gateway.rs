#![no_main]

use adder::protocol::{discord::Gateway, websocket::CONTENT_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let compress = ["", "&compress=zlib-stream", "&compress=zstd-stream"][usize::from(*choice) % 3];
    let Some(mut gateway) = Gateway::of(&format!("v=10&encoding=json{compress}")) else { return };
    for piece in rest.chunks(usize::from(*choice) + 1) {
        let mut content = Vec::new();
        if gateway.is_compressed() {
            gateway.begin();
            let _ = gateway.inflate(piece, &mut content, CONTENT_MAX);
            assert!(content.len() <= CONTENT_MAX, "a bomb has gone off");
        } else {
            content.extend_from_slice(piece);
        }
        let _ = gateway.read(&content);
    }
});
