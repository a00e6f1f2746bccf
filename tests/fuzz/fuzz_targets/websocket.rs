#![no_main]

use adder::protocol::{
    Mark, Parser as _, Side,
    websocket::{Opening, WebSocket, Window},
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
    late(rest);
});

/// A connection that is older than the agent, and what its stream refers back to. The window and the bytes that are given to `inflate`
/// are taken from the input.
fn late(input: &[u8]) {
    let Some(mut socket) = WebSocket::late(input) else { return };
    let mark = Mark::default();
    let mut out = Vec::new();
    for message in input.chunks(64) {
        socket.data(Side::Response, message, mark, &mut out);
        let front = message.get(2..18).unwrap_or(message);
        let (older, newer) = input.split_at(input.len() / 2);
        for length in [message.len(), message.len().saturating_sub(2)] {
            let window = Window { time: 0, front, length, history: [older, newer] };
            if socket.awaits(&window) {
                socket.resume(&window, &mut out);
            }
        }
    }
    socket.gap(Side::Response, 7, mark, &mut out);
    socket.close(mark, &mut out);
}
