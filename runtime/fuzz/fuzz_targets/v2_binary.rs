//! V2 bodies with binary tensors behind the JSON. The first two bytes are the length of the JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::v2_binary(data));
