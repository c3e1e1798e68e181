//! Messages of `ModelInfer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|message: &[u8]| fuzzed::grpc(message));
