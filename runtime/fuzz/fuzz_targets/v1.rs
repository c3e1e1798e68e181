//! V1 bodies. What is read is written as an answer too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight_runtime::Signature;
use pilotlight_runtime::protocol::{read_v1, write_v1};

fuzz_target!(|body: &[u8]| {
    for signature in fuzzed::models() {
        if let Ok(inputs) = read_v1(body, &signature) {
            fuzzed::check(&signature, &inputs);
            let echo = Signature { outputs: signature.inputs.clone(), inputs: signature.inputs };
            assert!(!write_v1(&echo, &inputs).is_empty());
        }
    }
});
