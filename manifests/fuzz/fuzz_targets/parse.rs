//! Any bytes: no panic, every line within the text, and absolute paths change no service.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pilotlight_manifests::{absolute, check_set, parse};

fuzz_target!(|text: &str| {
    let parsed = parse(text, Path::new("/srv/models.yaml"));
    let lines = text.lines().count().max(1);
    for fault in parsed.faults.iter().chain(&parsed.warnings) {
        assert!((1..=lines).contains(&fault.line), "{fault}");
    }
    check_set(&parsed.services, "example.com");
    let again = parse(&absolute(text, Path::new("/srv")), Path::new("/elsewhere/models.yaml"));
    let storages = |parsed: &pilotlight_manifests::Parsed| -> Vec<_> {
        parsed.services.iter().map(|service| service.storage.clone()).collect()
    };
    assert_eq!(storages(&parsed), storages(&again));
});
