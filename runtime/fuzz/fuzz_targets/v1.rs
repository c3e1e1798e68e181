//! V1 bodies.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| fuzzed::v1(body));
