//! An arbitrary TCP peer against the stack.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../it/chaos/peer.rs"]
mod peer;

fuzz_target!(|bytes: &[u8]| {
    peer::run(bytes);
});
