//! Messages of `ModelInfer`. What is read is sent again and has to be read as the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight_runtime::protocol::{grpc_request, read_grpc};

fuzz_target!(|message: &[u8]| {
    for signature in fuzzed::models() {
        if let Ok(inputs) = read_grpc(Bytes::copy_from_slice(message), &signature) {
            fuzzed::check(&signature, &inputs);
            let again = grpc_request("m", &signature, &inputs);
            let again = read_grpc(again.into(), &signature).expect("our own message");
            // NaN is not itself.
            assert_eq!(format!("{inputs:?}"), format!("{again:?}"));
        }
    }
});
