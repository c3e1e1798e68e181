//! What a preparation holds for.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Everything that compiled kernels depend on. A change of any of it makes a preparation useless, or worse, wrong: CubeCL's own
/// names of kernels hold neither the GPU nor the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// SHA-256 of the model file, in hex.
    pub(crate) model: String,
    /// SHA-256 of this program's file, in hex.
    pub(crate) build: String,
    /// The GPU's model; `cpu` for the processor.
    pub(crate) device: String,
    /// The driver's version; empty for the processor.
    pub(crate) driver: String,
    /// `f32`, `tf32`, `f16` or `bf16`.
    pub(crate) precision: String,
}

/// Digits of a digest in names of files: 64 bits. A record tells its whole key besides.
const DIGITS: usize = 16;

impl Key {
    /// Folder of the model within the store.
    pub(crate) fn folder(&self) -> &str {
        &self.model[..DIGITS.min(self.model.len())]
    }

    /// The record's name in that folder.
    pub(crate) fn file(&self) -> String {
        let parts = [&self.build, &self.device, &self.driver, &self.precision];
        format!("{}.json", digest(&parts))
    }

    /// The folder of kernels, which all models of a program on a kind of GPU share.
    pub(crate) fn kernels(&self) -> String {
        digest(&[&self.build, &self.device, &self.driver])
    }

    /// Whether this took the place of `old`: the same model on the same kind of device, by another program or driver.
    pub(crate) fn supersedes(&self, old: &Self) -> bool {
        self != old && self.model == old.model && self.device == old.device && self.precision == old.precision
    }
}

/// Parts that differ in where one ends and the next begins have different digests.
fn digest(parts: &[&String]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut text = hex(&hasher.finalize());
    text.truncate(DIGITS);
    text
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(super) fn sample() -> Key {
    Key {
        model: "a".repeat(64),
        build: "b".repeat(64),
        device: "NVIDIA H100".into(),
        driver: "580.65".into(),
        precision: "f16".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_any_part_is_another_preparation() {
        let key = sample();
        let mut others = vec![key.clone(); 5];
        others[0].model = "c".repeat(64);
        others[1].build.push('0');
        others[2].device = "NVIDIA H200".into();
        others[3].driver = "581".into();
        others[4].precision = "bf16".into();
        let name = |key: &Key| format!("{}/{}", key.folder(), key.file());
        let mut names: Vec<String> = others.iter().chain([&key]).map(name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 6);
    }

    #[test]
    fn kernels_are_shared_by_models_and_never_by_gpus_drivers_or_programs() {
        let key = sample();
        let with = |change: &dyn Fn(&mut Key)| {
            let mut other = key.clone();
            change(&mut other);
            other.kernels() == key.kernels()
        };
        assert!(with(&|k| k.model = "c".repeat(64)));
        assert!(with(&|k| k.precision = "f32".into()), "their names say the type");
        assert!(!with(&|k| k.build.push('0')));
        assert!(!with(&|k| k.device.push('x')));
        assert!(!with(&|k| k.driver.push('1')));
        assert!(!with(&|k| {
            k.device.push('5');
            k.driver.remove(0);
        }));
    }

    #[test]
    fn a_new_program_or_driver_takes_the_place_of_the_old_one() {
        let key = sample();
        let mut old = key.clone();
        old.driver = "550".into();
        old.build = "0".repeat(64);
        assert!(key.supersedes(&old));
        assert!(!key.supersedes(&key));
        old.precision = "f32".into();
        assert!(!key.supersedes(&old), "another precision stands beside it");
    }
}
