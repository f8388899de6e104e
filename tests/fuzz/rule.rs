//! Any text as a rule: refused, or printed as a text that is read as the same rule.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portreeve::profile::Rule;

fuzz_target!(|text: &str| {
    if let Ok(rule) = text.parse::<Rule>() {
        assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }
});
