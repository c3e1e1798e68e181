//! Times the ways to compute each problem that a preparation meets.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn_backend::ops::{FloatTensorOps as _, IntTensorOps as _};
use burn_backend::{Backend as _, FloatDType, IntDType, read_sync};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;

use super::launch::{Cube, float};
use crate::choices::{Choices, Problem, Way, agrees, fastest};

/// Launches that are timed as one, after a first that compiles.
const LAUNCHES: u32 = 5;

/// A preparation under way.
#[derive(Debug)]
pub(super) struct Tuning {
    found: Mutex<Choices>,
    /// Nothing is timed from then on, and what is not known is computed by the standing choice.
    until: Instant,
}

impl Tuning {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            found: Mutex::default(),
            until: Instant::now() + limit,
        }
    }

    /// What was chosen so far.
    pub(super) fn choices(&self) -> Choices {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn known(&self, problem: &Problem) -> Option<Way> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).of(problem)
    }

    /// Chooses, where the problem is new and there is time. `standing`: the ways, those first that would be taken without this;
    /// `launches` gives what launches one of them on numbers that are like those of runs.
    pub(super) fn see<R: CubeRuntime, F: Fn(Way) -> Option<CubeTensor<R>>>(
        &self,
        problem: Problem,
        standing: &[Way],
        strict: bool,
        on: &CubeTensor<R>,
        launches: impl FnOnce() -> F,
    ) {
        if self.known(&problem).is_some() || Instant::now() >= self.until {
            return;
        }
        let launch = launches();
        let mut timed = Vec::new();
        let mut wanted = None;
        for &way in standing {
            let attempt = catch_unwind(AssertUnwindSafe(|| time(way, &launch, &on.device)));
            // A kernel that panics or fails is one that does not fit.
            let Ok(Some((out, seconds))) = attempt else { continue };
            let same = match &wanted {
                None => true,
                Some(wanted) => {
                    matches!(difference(&out, wanted), Some((error, largest)) if agrees(error, largest, strict))
                }
            };
            if same {
                timed.push((way, seconds));
                wanted.get_or_insert(out);
            }
        }
        if let Some(way) = fastest(&timed) {
            self.found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(problem, way);
        }
    }
}

fn time<R: CubeRuntime>(
    way: Way,
    launch: &impl Fn(Way) -> Option<CubeTensor<R>>,
    device: &R::CubeDevice,
) -> Option<(CubeTensor<R>, f64)> {
    let out = launch(way)?;
    Cube::<R>::sync(device).ok()?;
    let start = Instant::now();
    for _ in 0..LAUNCHES {
        launch(way)?;
    }
    Cube::<R>::sync(device).ok()?;
    Some((out, start.elapsed().as_secs_f64()))
}

/// The largest difference, and the largest number of what was wanted.
fn difference<R: CubeRuntime>(found: &CubeTensor<R>, wanted: &CubeTensor<R>) -> Option<(f64, f64)> {
    let full = |t: &CubeTensor<R>| Cube::<R>::float_cast(t.clone(), FloatDType::F32);
    let (found, wanted) = (full(found), full(wanted));
    let largest = |t| {
        let largest = Cube::<R>::float_max(Cube::<R>::float_abs(t));
        let data = read_sync(Cube::<R>::float_into_data(largest)).ok()?;
        data.iter::<f64>().next()
    };
    // The largest of numbers and NaN may be a number; their sum is not one.
    let sound = read_sync(Cube::<R>::float_into_data(Cube::<R>::float_sum(found.clone()))).ok()?;
    if sound.iter::<f64>().any(f64::is_nan) {
        return None;
    }
    Some((largest(Cube::<R>::float_sub(found, wanted.clone()))?, largest(wanted)?))
}

/// A tensor of this shape, width and order in memory with numbers between -1 and 1 that no two neighbours share: those of a
/// preparation are zeros, on which every kernel agrees.
pub(super) fn pattern<R: CubeRuntime>(like: &CubeTensor<R>) -> CubeTensor<R> {
    let last = like.meta.shape().num_dims() == 4 && like.meta.strides()[1] == 1;
    let laid = if last {
        permute_nchw_to_nhwc(like.clone())
    } else {
        like.clone()
    };
    let shape = laid.meta.shape().clone();
    let count = shape.num_elements() as i64;
    // A period that no dimension of a model has, small enough for every width.
    let numbers = Cube::<R>::int_arange(0..count, &like.device, IntDType::I32);
    let numbers = Cube::<R>::int_remainder_scalar(numbers, 4093i64.into());
    let numbers = Cube::<R>::int_into_float(numbers, FloatDType::F32);
    let numbers = Cube::<R>::float_sin(Cube::<R>::float_mul_scalar(numbers, 0.7f32.into()));
    let numbers = Cube::<R>::float_cast(Cube::<R>::float_reshape(numbers, shape), float(like.dtype));
    if last { permute_nhwc_to_nchw(numbers) } else { numbers }
}
