//! Packets, identities, sockets' fates, answers, rules and time, in any order, into the router.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../it/chaos/sequences.rs"]
mod sequences;

fuzz_target!(|bytes: &[u8]| sequences::run(bytes));
