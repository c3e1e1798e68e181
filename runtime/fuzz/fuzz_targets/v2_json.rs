//! V2 bodies in JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| fuzzed::v2_json(body));
