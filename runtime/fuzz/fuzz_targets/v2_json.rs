//! V2 bodies in JSON. What is read is written as an answer too, which is JSON.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight_runtime::Signature;
use pilotlight_runtime::protocol::{read_v2, write_v2};

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    for signature in fuzzed::models() {
        if let Ok(inputs) = read_v2(&body, None, &signature) {
            fuzzed::check(&signature, &inputs);
            let echo = Signature { outputs: signature.inputs.clone(), inputs: signature.inputs };
            // Opaque bytes have no form in JSON.
            let _ = write_v2(&echo, &inputs);
        }
    }
});
