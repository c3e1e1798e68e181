//! A fuzz target, in `fuzz_targets`, and no library.
