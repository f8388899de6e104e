//! Raw bytes into the parser, and what it accepts into the answers.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../it/chaos/packets.rs"]
mod packets;

fuzz_target!(|bytes: &[u8]| packets::run(bytes));
