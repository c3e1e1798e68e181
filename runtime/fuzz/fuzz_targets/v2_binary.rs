//! V2 bodies with binary tensors behind the JSON. The first two bytes are the length of the JSON.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight_runtime::protocol::read_v2;

fuzz_target!(|data: &[u8]| {
    let Some((len, body)) = data.split_first_chunk() else { return };
    let body = Bytes::copy_from_slice(body);
    for signature in fuzzed::models() {
        if let Ok(inputs) = read_v2(&body, Some(u16::from_le_bytes(*len).into()), &signature) {
            fuzzed::check(&signature, &inputs);
        }
    }
});
