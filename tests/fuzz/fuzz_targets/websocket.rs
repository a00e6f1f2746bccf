#![no_main]

use adder::protocol::{
    Side,
    websocket::{Opening, WebSocket},
};
use libfuzzer_sys::fuzz_target;

const TARGETS: [&str; 4] = [
    "/chat",
    "/?v=10&encoding=json&compress=zlib-stream",
    "/?v=10&encoding=json&compress=zstd-stream",
    "/?v=10&encoding=json",
];
const EXTENSIONS: [&str; 3] = ["", "permessage-deflate", "permessage-deflate; server_no_context_takeover"];

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let choice = usize::from(*choice);
    let opening = Opening {
        target: TARGETS[choice % TARGETS.len()].to_owned(),
        extensions: EXTENSIONS[choice / 4 % EXTENSIONS.len()].to_owned(),
    };
    let inbound = if choice & 0x80 == 0 { Side::Response } else { Side::Request };
    adder_fuzz::drive_until_lost(rest, || WebSocket::new(&opening, inbound));
});
