//! What is compiled ahead for a model and kept, so that a wake compiles nothing.
//!
//! `key` says what a preparation holds for, `store` keeps it, `make` makes one (`pilotlight runtime prepare`); [`Devices`] loads
//! models and takes over what was prepared for them.

mod key;
mod make;
mod store;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(crate) use make::prepare;
use pilotlight_cuda::{Choices, Precision, Tuned};
use pilotlight_engine::LoadOptions;

use self::key::Key;
use self::store::Store;
use crate::device::Place;
use crate::ladder::Ladder;
use crate::metrics::Metrics;
use crate::model::{Model, Onnx, load_onnx};
use crate::padded::Padded;

/// Loads models on the device that was chosen.
pub(crate) struct Devices {
    place: Place,
    options: LoadOptions,
    /// Sizes of batches, where they are kept to.
    ladder: Option<Ladder>,
    store: Store,
}

impl Devices {
    /// `pad` says whether batches are padded to the ladder: on a GPU they are unless it says no, on the CPU they are not unless it
    /// says yes. Gets the folder of kernels ready where the device compiles any.
    pub(crate) fn new(place: Place, options: LoadOptions, most: usize, pad: Option<bool>, folder: PathBuf) -> Self {
        let devices = Self {
            ladder: pad.unwrap_or(place != Place::Cpu).then(|| Ladder::new(most)),
            place,
            options,
            store: Store::new(folder),
        };
        if let Err(error) = devices.open_kernels() {
            tracing::warn!(%error, "compiled kernels are not kept: the next start compiles them again");
        }
        devices
    }

    /// The device.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Reads a model file and takes over what was prepared for it. Blocks.
    ///
    /// # Errors
    /// The engine's words.
    pub(crate) fn load(&self, path: &Path, metrics: &Metrics) -> Result<Arc<dyn Model>, String> {
        let Some(ladder) = self.ladder else {
            return self.plain(path, Choices::default());
        };
        let record = match self.key(path) {
            Ok(key) => self.store.find(&key),
            Err(error) => {
                tracing::warn!(%error, "it can't be told whether the model was prepared");
                None
            }
        };
        let sizes: BTreeSet<usize> = record.iter().flat_map(|r| r.rungs.keys().copied()).collect();
        let state = record.is_some();
        let choices = record.map(|r| r.choices).unwrap_or_default();
        tracing::info!(model = %path.display(), prepared = ?sizes, tuned = choices.len(), "sizes of batches that were prepared");
        let model = self.plain(path, choices)?;
        let preparation = metrics.preparation(state);
        Ok(Arc::new(Padded::new(model, ladder, sizes, preparation)))
    }

    /// The model as it is, with the kernels that a preparation chose.
    fn plain(&self, path: &Path, choices: Choices) -> Result<Arc<dyn Model>, String> {
        match &self.place {
            Place::Cpu => load_onnx(path, &self.options),
            Place::Cuda(gpu, precision) => {
                let model = pilotlight_cuda::load(path, gpu, *precision, choices)?;
                Ok(Arc::new(Onnx(model)))
            }
        }
    }

    /// The model for a preparation, and what will be chosen by its runs; nothing on the CPU, whose kernels are chosen at load.
    fn tuning(&self, path: &Path, limit: Duration) -> Result<(Arc<dyn Model>, Option<Tuned>), String> {
        match &self.place {
            Place::Cpu => Ok((load_onnx(path, &self.options)?, None)),
            Place::Cuda(gpu, precision) => {
                let (model, tuned) = pilotlight_cuda::tune(path, gpu, *precision, limit)?;
                Ok((Arc::new(Onnx(model)), Some(tuned)))
            }
        }
    }

    fn key(&self, model: &Path) -> io::Result<Key> {
        Ok(Key {
            model: self.store.digest(model)?,
            ..self.process_key()?
        })
    }

    /// The key but for the model.
    fn process_key(&self) -> io::Result<Key> {
        let (device, driver, precision) = match &self.place {
            Place::Cpu => ("cpu".to_owned(), String::new(), Precision::F32),
            Place::Cuda(gpu, precision) => (gpu.name.clone(), gpu.driver.clone(), *precision),
        };
        Ok(Key {
            model: String::new(),
            build: self.store.digest(Path::new("/proc/self/exe"))?,
            device,
            driver,
            precision: precision.to_string(),
        })
    }

    fn open_kernels(&self) -> Result<(), String> {
        if self.place == Place::Cpu {
            return Ok(());
        }
        let key = self.process_key().map_err(|e| e.to_string())?;
        let folder = self.store.kernels(&key, SystemTime::now());
        pilotlight_cuda::use_kernels(&folder.map_err(|e| e.to_string())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::iris;

    fn devices(folder: &Path, pad: Option<bool>) -> Devices {
        Devices::new(Place::Cpu, LoadOptions::default(), 4, pad, folder.to_owned())
    }

    #[test]
    fn what_was_prepared_is_taken_over_by_the_next_load() {
        let folder = tempfile::tempdir().unwrap();
        let devices = devices(folder.path(), Some(true));
        let before = Metrics::new();
        let _model = devices.load(&iris(), &before).unwrap();
        assert!(before.render().contains("ml_prepared_models{state=\"unprepared\"} 1"));
        let record = make::make(&devices, &iris(), 2, Duration::ZERO, |_, _| {}).unwrap();
        assert_eq!(record.rungs.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
        let after = Metrics::new();
        let _model = devices.load(&iris(), &after).unwrap();
        assert!(after.render().contains("ml_prepared_models{state=\"prepared\"} 1"));
    }

    #[test]
    fn a_preparation_for_another_model_is_not_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let devices = devices(&folder.path().join("store"), Some(true));
        make::make(&devices, &iris(), 2, Duration::ZERO, |_, _| {}).unwrap();
        let other = folder.path().join("other.onnx");
        let mut bytes = std::fs::read(iris()).unwrap();
        // An unknown field of the model: it reads the same and has another digest.
        bytes.extend_from_slice(&[0xa2, 0x06, 0x01, b'x']);
        std::fs::write(&other, bytes).unwrap();
        let metrics = Metrics::new();
        let _model = devices.load(&other, &metrics).unwrap();
        assert!(metrics.render().contains("ml_prepared_models{state=\"unprepared\"} 1"));
    }

    #[test]
    fn on_the_cpu_batches_are_not_padded_unless_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(devices(folder.path(), None).ladder, None);
        assert_eq!(devices(folder.path(), Some(true)).ladder, Some(Ladder::new(4)));
    }
}
