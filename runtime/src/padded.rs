//! A model whose runs have sizes of a ladder only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pilotlight_engine::{RunError, Signature, Tensor};

use crate::ladder::{Ladder, cut, pad};
use crate::metrics::Preparation;
use crate::model::{Model, Staged};
use crate::served::is_batchable;

/// Fills batches up to the next rung, and takes the results of what was added away again.
pub(crate) struct Padded {
    model: Arc<dyn Model>,
    ladder: Ladder,
    /// Sizes that were prepared ahead.
    prepared: BTreeSet<usize>,
    preparation: Preparation,
    /// Whether rows can be added: not where the signature has no batches, or the outputs turn out not to follow the inputs' rows.
    pads: AtomicBool,
}

/// Inputs that were filled up, or not (`rung` is 0 then), on their way to a run.
struct Filled {
    inner: Staged,
    rows: usize,
    rung: usize,
    /// What they were, for a model whose outputs do not have the rung's rows.
    kept: Option<Vec<Tensor>>,
}

impl Padded {
    pub(crate) fn new(
        model: Arc<dyn Model>,
        ladder: Ladder,
        prepared: BTreeSet<usize>,
        preparation: Preparation,
    ) -> Self {
        let pads = AtomicBool::new(is_batchable(model.signature()));
        Self {
            model,
            ladder,
            prepared,
            preparation,
            pads,
        }
    }

    fn rows(&self, inputs: &[Tensor]) -> Option<usize> {
        let rows = *inputs.first()?.shape().first()?;
        (self.pads.load(Ordering::Relaxed) && rows > 0).then_some(rows)
    }
}

impl Model for Padded {
    fn signature(&self) -> &Signature {
        self.model.signature()
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        self.run_staged(self.stage(inputs)?)
    }

    fn stage(&self, inputs: Vec<Tensor>) -> Result<Staged, RunError> {
        let plain = |inputs| {
            let inner = self.model.stage(inputs)?;
            Ok(Filled {
                inner,
                rows: 0,
                rung: 0,
                kept: None,
            })
        };
        let filled = match self.rows(&inputs) {
            None => plain(inputs)?,
            Some(rows) => {
                let rung = self.ladder.rung(rows);
                let kept = (rung != rows).then(|| inputs.clone());
                match pad(inputs, rows, rung) {
                    Err(inputs) => plain(inputs)?,
                    Ok(inputs) => Filled {
                        inner: self.model.stage(inputs)?,
                        rows,
                        rung,
                        kept,
                    },
                }
            }
        };
        Ok(Staged::new(filled))
    }

    fn run_staged(&self, staged: Staged) -> Result<Vec<Tensor>, RunError> {
        let Filled {
            inner,
            rows,
            rung,
            kept,
        } = staged.take()?;
        let size = if rung == 0 { 1 } else { rung };
        self.preparation.ran(self.prepared.contains(&size));
        let outputs = self.model.run_staged(inner)?;
        let Some(inputs) = kept else { return Ok(outputs) };
        if let Some(outputs) = cut(outputs, rung, rows) {
            return Ok(outputs);
        }
        tracing::warn!("the outputs do not follow the rows of the inputs; batches are not padded from now on");
        self.pads.store(false, Ordering::Relaxed);
        self.model.run(inputs)
    }

    fn is_pure(&self) -> bool {
        self.model.is_pure()
    }

    fn platform(&self) -> &'static str {
        self.model.platform()
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::{Data, DataType, Dim};
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Metrics;
    use crate::testing::{Mock, info, n, signature};

    fn on_ladder(model: Arc<dyn Model>, metrics: &Metrics) -> Padded {
        Padded::new(
            model,
            Ladder::new(8),
            BTreeSet::from([1, 2, 4]),
            metrics.preparation(true),
        )
    }

    fn doubling() -> Arc<Mock> {
        let shape = || vec![n(), Dim::Fixed(2)];
        let signature = signature(
            vec![info("x", DataType::F32, shape())],
            vec![info("y", DataType::F32, shape())],
        );
        Mock::new(signature, |inputs| {
            let (shape, data) = inputs.into_iter().next().unwrap().into_parts();
            assert!(
                [1, 2, 4, 8, 16].contains(&shape[0]),
                "a size off the ladder: {}",
                shape[0]
            );
            let Data::F32(v) = data else { panic!("FP32 is declared") };
            Ok(vec![
                Tensor::new(shape, Data::F32(v.iter().map(|x| 2.0 * x).collect())).unwrap(),
            ])
        })
    }

    proptest! {
        #[test]
        fn padding_changes_no_answer(rows in 1usize..17, from in -9f32..9.0) {
            let metrics = Metrics::new();
            let model = doubling();
            let padded = on_ladder(model, &metrics);
            let data: Vec<f32> = (0..2 * rows).map(|i| from + i as f32).collect();
            let wanted: Vec<f32> = data.iter().map(|x| 2.0 * x).collect();
            let outputs = padded.run(vec![Tensor::new(vec![rows, 2], Data::F32(data)).unwrap()]).unwrap();
            prop_assert_eq!(&outputs, &[Tensor::new(vec![rows, 2], Data::F32(wanted)).unwrap()]);
        }
    }

    #[test]
    fn a_model_whose_outputs_have_other_rows_runs_as_it_is() {
        let signature = signature(
            vec![info("x", DataType::F32, vec![n()])],
            vec![info("y", DataType::F32, vec![n()])],
        );
        let model = Mock::new(signature, |inputs| {
            let rows = inputs[0].shape()[0] as f32;
            Ok(vec![Tensor::new(vec![1], Data::F32(vec![rows])).unwrap()])
        });
        let metrics = Metrics::new();
        let padded = on_ladder(model.clone(), &metrics);
        let three = || vec![Tensor::new(vec![3], Data::F32(vec![0.0; 3])).unwrap()];
        let count = Tensor::new(vec![1], Data::F32(vec![3.0])).unwrap();
        assert_eq!(padded.run(three()).unwrap(), std::slice::from_ref(&count));
        assert_eq!(model.runs(), 2, "once more, without what was added");
        assert_eq!(padded.run(three()).unwrap(), [count]);
        assert_eq!(model.runs(), 3, "and never padded again");
    }

    #[test]
    fn runs_of_prepared_sizes_are_hits() {
        let metrics = Metrics::new();
        let padded = on_ladder(doubling(), &metrics);
        for rows in [1, 3, 5] {
            let x = Tensor::new(vec![rows, 2], Data::F32(vec![1.0; 2 * rows])).unwrap();
            padded.run(vec![x]).unwrap();
        }
        let text = metrics.render();
        for line in [
            "ml_prepared_runs_total{result=\"hit\"} 2",
            "ml_prepared_runs_total{result=\"miss\"} 1",
            "ml_prepared_models{state=\"prepared\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
