//! Any text as a profile: read whole or refused with places inside the text, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use portreeve::profile::{Layer, read_profile};

fuzz_target!(|text: &str| {
    let lines = text.split('\n').count();
    if let Err(faults) = read_profile(Layer::User, Path::new("fuzz.toml"), text) {
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(fault.line >= 1 && usize::try_from(fault.line).is_ok_and(|line| line <= lines) && fault.column >= 1);
        }
    }
});
