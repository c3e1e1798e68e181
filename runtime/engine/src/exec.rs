//! Runs a plan on a Burn backend. This is all of the engine that is generic over the backend, together with `device`
//! and `value`; a crate for another backend instantiates `backend::load_on` and nothing else.

mod control;
mod memory;
mod parts;
mod prepare;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use burn_backend::Backend;

use crate::backend::{Accelerate, Place, Prepared, Width};
use crate::device::{self, DeviceOp, Operand};
use crate::explain::{ExplainedStep, Traced, Watched};
use crate::fault::{Fault, OpResult, caught, ensure, message};
use crate::item::Held;
use crate::kernel::{HostOp, Inputs, Kernel, ViewOp, is_float, shape_result};
use crate::plan::{Plan, Rows, Step};
use crate::value::Value;
use crate::{DataType, Item, ItemModel, Model, RunError, Signature, Staged, Tensor, host};

/// Up to this many elements in all, work on the host takes less time than calling a backend does.
const SMALL: usize = 1024;

/// A plan bound to a device.
pub(crate) struct Executor<A: Accelerate> {
    plan: Plan,
    constants: Vec<Option<Constant<A::Backend>>>,
    /// For each step what the backend made of its constants.
    prepared: Vec<Option<Prepared<A::Weights>>>,
    /// For each step the graphs that it runs.
    bodies: Vec<Vec<Executor<A>>>,
    place: Place<A::Backend>,
    /// Where batches may be run in parts.
    rows: Option<Rows>,
}

/// Where a run is, and what is left of its bounds.
struct Run<'a> {
    /// The step being executed.
    at: &'a AtomicUsize,
    /// Bodies of loops run so far, in all graphs together.
    iterations: &'a Cell<u64>,
    /// Who executed the step.
    by: Cell<&'static str>,
    /// Where what is told of every step goes, while the run is watched.
    trace: Option<&'a Mutex<Vec<Traced>>>,
    /// Runs on parts of the same batch that are under way at a time, this one included.
    beside: usize,
}

/// A weight: on the host where host kernels read it, on the device from its first use there on.
struct Constant<B: Backend> {
    host: Option<Arc<Tensor>>,
    device: OnceLock<Value<B>>,
}

impl<A: Accelerate> Executor<A> {
    /// Uploads what only the device reads; everything else follows at its first use.
    pub(crate) fn new(mut plan: Plan, place: Place<A::Backend>) -> OpResult<Self> {
        if place.width != Width::Full {
            ensure!(
                !has_narrow(&plan),
                "the model has 16-bit numbers of its own and is run as it is: ask for no precision"
            );
        }
        let mut bodies = Vec::with_capacity(plan.steps.len());
        for step in &mut plan.steps {
            bodies.push(control::bodies(&mut step.kernel, &place)?);
        }
        let rows = if A::ON_HOST { Rows::of(&plan) } else { None };
        let prepared = prepare::prepare_all::<A>(&mut plan);
        let filters = filters(&plan);
        let mut host_reads = vec![false; plan.constants.len()];
        let mut device_reads = host_reads.clone();
        for step in &plan.steps {
            for operand in step.inputs.iter().flatten() {
                let device = matches!(&step.kernel, Kernel::Device { op, .. } if !A::covers(op));
                host_reads[operand.value] |= !device;
                device_reads[operand.value] |= device;
            }
        }
        for &id in &plan.outputs {
            host_reads[id] = true;
        }
        let constants = std::mem::take(&mut plan.constants);
        let constants = constants.into_iter().enumerate().map(|(id, tensor)| {
            let Some(tensor) = tensor else { return Ok(None) };
            if !host_reads[id] && !device_reads[id] {
                // It is prepared weights only; this is the last owner of the plain ones.
                return Ok(None);
            }
            if host_reads[id] || !is_float(tensor.datatype()) || tensor.data().len() <= SMALL {
                return Ok(Some(Constant {
                    host: Some(tensor),
                    device: OnceLock::new(),
                }));
            }
            let mut uploaded = place.put(Value::Host(tensor))?;
            if filters[id] {
                uploaded = place.lay_out(uploaded);
            }
            Ok(Some(Constant {
                host: None,
                device: OnceLock::from(uploaded),
            }))
        });
        let constants = constants.collect::<OpResult<_>>()?;
        Ok(Self {
            plan,
            constants,
            prepared,
            bodies,
            place,
            rows,
        })
    }

    fn execute(&self, inputs: Vec<Value<A::Backend>>, run: &Run<'_>) -> OpResult<Vec<Value<A::Backend>>> {
        let mut values: Vec<Option<Value<A::Backend>>> = Vec::new();
        values.resize_with(self.constants.len(), || None);
        for (&id, value) in self.plan.inputs.iter().zip(inputs) {
            values[id] = Some(value);
        }
        for (n, step) in self.plan.steps.iter().enumerate() {
            run.at.store(n, Ordering::Relaxed);
            let watch = run
                .trace
                .map(|trace| (trace, self.described(step, &values), Instant::now()));
            let results = self.step(n, step, &mut values, run)?;
            if let Some((trace, inputs, start)) = watch {
                let time = start.elapsed();
                trace.lock().unwrap_or_else(PoisonError::into_inner).push(Traced {
                    by: run.by.get(),
                    inputs,
                    outputs: results.iter().map(describe).collect(),
                    time,
                });
            }
            memory::check(&results, &values, run.beside)?;
            let mut results = results.into_iter();
            for output in &step.outputs {
                let result = results.next();
                if let Some(id) = *output {
                    ensure!(result.is_some(), "it has fewer outputs than the model reads");
                    values[id] = result;
                }
            }
        }
        run.at.store(usize::MAX, Ordering::Relaxed);
        let outputs = self.plan.outputs.iter().map(|&id| {
            let value = match &self.constants[id] {
                Some(c) => Self::on_host(c)?,
                None => values[id]
                    .clone()
                    .ok_or_else(|| Fault("an output was not computed".into()))?,
            };
            Ok(value)
        });
        // Only when this returns are the outputs' buffers unshared, so that they move instead of being copied.
        outputs.collect()
    }

    fn step(
        &self,
        n: usize,
        step: &Step,
        values: &mut [Option<Value<A::Backend>>],
        run: &Run<'_>,
    ) -> OpResult<Vec<Value<A::Backend>>> {
        run.by.set(match &step.kernel {
            Kernel::Host(_) => "host",
            Kernel::Shape { .. } => "shape",
            Kernel::View(_) => "view",
            Kernel::List(_) => "list",
            Kernel::Control(_) => "control",
            Kernel::Device { .. } => "burn",
        });
        match &step.kernel {
            Kernel::Host(op) => self.host_step(op.as_ref(), step, values),
            Kernel::Shape { scalar, op } => {
                let first = step.inputs.first().copied().flatten();
                let value = self.take(first.ok_or_else(|| Fault("input 0 is missing".into()))?, values)?;
                Ok(vec![Value::Host(Arc::new(shape_result(*scalar, op, &value.shape())?))])
            }
            Kernel::View(op) => self.view_step(op.as_ref(), step, values),
            Kernel::List(op) => {
                let operands = self.operands(step, values)?.into_iter();
                let operands = operands.map(|o| o.map(Value::into_held).transpose());
                let results = op.run(&operands.collect::<OpResult<Vec<_>>>()?)?;
                Ok(results.into_iter().map(Value::from).collect())
            }
            Kernel::Control(control) => {
                let operands = self.operands(step, values)?;
                control::run(control, &self.bodies[n], operands, run.iterations)
            }
            Kernel::Device { op, host } => {
                let mut operands = self.operands(step, values)?;
                if A::covers(op) {
                    let weights = self.prepared[n].as_ref().map(|p| &p.weights);
                    let result = A::run(op, weights, &mut operands)?;
                    if let Some(result) = result {
                        run.by.set("kernel");
                        operands.into_iter().flatten().for_each(Value::recycle);
                        return Ok(vec![result]);
                    }
                    // The backend's primitives want the plain weights.
                    ensure!(weights.is_none(), "element types other than FP32 with weights of FP32");
                }
                if let Some(host) = host
                    && !belongs_on_device(op, &operands)
                {
                    run.by.set("host");
                    let inputs = operands.into_iter().map(|o| o.map(Value::into_host).transpose());
                    return Self::on_the_host(host.as_ref(), &inputs.collect::<OpResult<Vec<_>>>()?);
                }
                for (operand, o) in operands.iter_mut().zip(&step.inputs) {
                    if let Some(o) = o
                        && let Some(constant) = &self.constants[o.value]
                    {
                        *operand = Some(self.on_device(constant)?);
                    }
                }
                self.place.put_operands(op, &mut operands)?;
                Ok(vec![self.place.settle(device::run(op, operands, &self.place)?)])
            }
        }
    }

    /// All operands where they lie.
    fn operands(
        &self,
        step: &Step,
        values: &mut [Option<Value<A::Backend>>],
    ) -> OpResult<Vec<Option<Value<A::Backend>>>> {
        let take = |o: &Option<crate::plan::Operand>| o.map(|o| self.take(o, values)).transpose();
        step.inputs.iter().map(take).collect()
    }

    fn host_step(
        &self,
        op: &dyn HostOp,
        step: &Step,
        values: &mut [Option<Value<A::Backend>>],
    ) -> OpResult<Vec<Value<A::Backend>>> {
        Self::on_the_host(op, &self.host_inputs(&step.inputs, values)?)
    }

    fn on_the_host(op: &dyn HostOp, inputs: &[Option<Arc<Tensor>>]) -> OpResult<Vec<Value<A::Backend>>> {
        let results = host::run(op, &Inputs(inputs))?;
        Ok(results.into_iter().map(|t| Value::Host(Arc::new(t))).collect())
    }

    fn view_step(
        &self,
        op: &dyn ViewOp,
        step: &Step,
        values: &mut [Option<Value<A::Backend>>],
    ) -> OpResult<Vec<Value<A::Backend>>> {
        let first = step.inputs.first().copied().flatten();
        let first = first.ok_or_else(|| Fault("input 0 is missing".into()))?;
        let rest = self.host_inputs(&step.inputs[1..], values)?;
        let value = self.take(first, values)?;
        let views = op.views(&value.shape(), &Inputs(&rest))?;
        let apply = |moves: Vec<_>| moves.iter().try_fold(value.clone(), Value::apply);
        if views.len() == 1 {
            // The common case, without a second owner of the buffer.
            return Ok(vec![views[0].iter().try_fold(value, Value::apply)?]);
        }
        views.into_iter().map(apply).collect()
    }

    fn host_inputs(
        &self,
        operands: &[Option<crate::plan::Operand>],
        values: &mut [Option<Value<A::Backend>>],
    ) -> OpResult<Vec<Option<Arc<Tensor>>>> {
        operands
            .iter()
            .map(|o| o.map(|o| self.take(o, values)?.into_host()).transpose())
            .collect()
    }

    /// The value of an operand, moved out at its last use.
    fn take(
        &self,
        operand: crate::plan::Operand,
        values: &mut [Option<Value<A::Backend>>],
    ) -> OpResult<Value<A::Backend>> {
        let missing = || Fault("an input was not computed".into());
        match &self.constants[operand.value] {
            Some(c) => Self::on_host(c),
            None if operand.last => values[operand.value].take().ok_or_else(missing),
            None => values[operand.value].clone().ok_or_else(missing),
        }
    }

    fn on_device(&self, constant: &Constant<A::Backend>) -> OpResult<Value<A::Backend>> {
        if let Some(value) = constant.device.get() {
            return Ok(value.clone());
        }
        let Some(tensor) = constant.host.clone() else {
            return Err(Fault("a constant is gone".into()));
        };
        // A single number goes into the instruction itself.
        if !is_float(tensor.datatype()) || tensor.data().len() == 1 {
            return Ok(Value::Host(tensor));
        }
        let uploaded = self.place.put(Value::Host(tensor))?;
        Ok(constant.device.get_or_init(|| uploaded).clone())
    }

    fn on_host(constant: &Constant<A::Backend>) -> OpResult<Value<A::Backend>> {
        match (&constant.host, constant.device.get()) {
            (Some(t), _) => Ok(Value::Host(t.clone())),
            (None, Some(value)) => Ok(value.clone()),
            (None, None) => Err(Fault("a constant is gone".into())),
        }
    }

    fn check(&self, inputs: &[Tensor]) -> Result<(), RunError> {
        let infos = &self.plan.signature.inputs;
        if inputs.len() != infos.len() {
            let reason = format!("the model takes {} inputs and {} are given", infos.len(), inputs.len());
            return Err(RunError::Input {
                name: String::new(),
                reason,
            });
        }
        for (tensor, info) in inputs.iter().zip(infos) {
            let error = |reason| {
                Err(RunError::Input {
                    name: info.name.clone(),
                    reason,
                })
            };
            if tensor.datatype() != info.datatype {
                return error(format!(
                    "it has type {} where {} is needed",
                    tensor.datatype(),
                    info.datatype
                ));
            }
            if let Err(fault) = crate::shape::bounded(tensor.shape()) {
                return error(fault.0);
            }
            let Some(dims) = &info.shape else { continue };
            let fits = |(d, &size): (&crate::Dim, &usize)| !matches!(d, crate::Dim::Fixed(want) if *want != size);
            if dims.len() != tensor.shape().len() || !dims.iter().zip(tensor.shape()).all(fits) {
                return error(format!("it has shape {:?} where {dims:?} is needed", tensor.shape()));
            }
        }
        Ok(())
    }
}

impl<A: Accelerate> Model for Executor<A> {
    fn signature(&self) -> &Signature {
        &self.plan.signature
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        self.check(&inputs)?;
        self.tensors(inputs, None)
    }

    fn stage(&self, inputs: Vec<Tensor>) -> Result<Staged, RunError> {
        self.check(&inputs)?;
        let values = || inputs.into_iter().map(|t| self.staged(t)).collect::<OpResult<Vec<_>>>();
        let values = caught(values).map_err(|fault| RunError::Node {
            node: String::new(),
            op: String::new(),
            reason: format!("copying the inputs to the device: {fault}"),
        })?;
        Ok(Staged::new(values))
    }

    fn run_staged(&self, staged: Staged) -> Result<Vec<Tensor>, RunError> {
        self.outputs(staged.take()?, None, Self::read)
    }
}

impl<A: Accelerate> Watched for Executor<A> {
    fn passes(&self) -> Vec<(&'static str, usize)> {
        self.plan.passes.clone()
    }

    fn inputs(&self) -> &[crate::TensorInfo] {
        &self.plan.signature.inputs
    }

    fn steps(&self) -> Vec<ExplainedStep> {
        let steps = self.plan.steps.iter().zip(&self.prepared);
        let explained = steps.map(|(step, prepared)| ExplainedStep {
            name: step.name.clone(),
            op: step.op.clone(),
            fused: match &step.kernel {
                Kernel::Device { op, .. } => op.drawn_in(&step.inputs.iter().map(Option::is_some).collect::<Vec<_>>()),
                _ => String::new(),
            },
            packed_bytes: prepared.as_ref().map_or(0, |p| p.bytes),
            ..ExplainedStep::default()
        });
        explained.collect()
    }

    fn watch(&self, inputs: Vec<Tensor>) -> Result<Vec<Traced>, RunError> {
        self.check(&inputs)?;
        let trace = Mutex::new(Vec::new());
        self.tensors(inputs, Some(&trace))?;
        Ok(trace.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Type and dimensions.
fn describe<B: Backend>(value: &Value<B>) -> String {
    format!("{}{:?}", value.datatype(), value.shape())
}

impl<A: Accelerate> ItemModel for Executor<A> {
    fn signature(&self) -> &Signature {
        &self.plan.signature
    }

    fn run_items(&self, inputs: Vec<Item>) -> Result<Vec<Item>, RunError> {
        let wanted = self.plan.inputs.len();
        if inputs.len() != wanted {
            return Err(RunError::Input {
                name: String::new(),
                reason: format!("the model takes {wanted} inputs and {} are given", inputs.len()),
            });
        }
        let inputs = inputs.into_iter().map(|item| Value::from(Held::from(item)));
        self.outputs(inputs.collect(), None, |value| Ok(value.into_held()?.into()))
    }
}

impl<A: Accelerate> Executor<A> {
    /// What a step is about to read.
    fn described(&self, step: &Step, values: &[Option<Value<A::Backend>>]) -> Vec<String> {
        let one = |o: &Option<crate::plan::Operand>| match o.map(|o| (o.value, &self.constants[o.value])) {
            None => "packed".to_owned(),
            Some((_, Some(c))) => Self::on_host(c).as_ref().map_or_else(|_| String::new(), describe),
            Some((id, None)) => values[id].as_ref().map_or_else(String::new, describe),
        };
        step.inputs.iter().map(one).collect()
    }

    fn tensors(&self, inputs: Vec<Tensor>, trace: Option<&Mutex<Vec<Traced>>>) -> Result<Vec<Tensor>, RunError> {
        let inputs = inputs.into_iter().map(|t| Value::Host(Arc::new(t)));
        self.outputs(inputs.collect(), trace, Self::read)
    }

    /// An input where its first reader most likely wants it.
    fn staged(&self, tensor: Tensor) -> OpResult<Value<A::Backend>> {
        let large = is_float(tensor.datatype()) && tensor.data().len() > SMALL;
        let value = Value::Host(Arc::new(tensor));
        if large && !A::ON_HOST {
            self.place.put(value)
        } else {
            Ok(value)
        }
    }

    fn read(value: Value<A::Backend>) -> OpResult<Tensor> {
        let tensor = value.into_host()?;
        Ok(Arc::try_unwrap(tensor).unwrap_or_else(|shared| (*shared).clone()))
    }

    /// Runs the plan and reads its outputs; a fault or a panic becomes an error that names the node.
    fn outputs<T: Send>(
        &self,
        inputs: Vec<Value<A::Backend>>,
        trace: Option<&Mutex<Vec<Traced>>>,
        read: impl Fn(Value<A::Backend>) -> OpResult<T> + Send,
    ) -> Result<Vec<T>, RunError> {
        let at = AtomicUsize::new(usize::MAX);
        let work = || {
            let iterations = Cell::new(0);
            let run = Run {
                at: &at,
                iterations: &iterations,
                by: Cell::new(""),
                trace,
                beside: 1,
            };
            let cut = if trace.is_none() { self.cut(&inputs) } else { None };
            let outputs = match cut {
                Some(cut) => self.in_parts(cut, &inputs, &at)?,
                None => self.execute(inputs, &run)?,
            };
            outputs.into_iter().map(read).collect::<OpResult<Vec<_>>>()
        };
        // The executor is only read while it runs; a constant's cell is either set or not.
        let result = catch_unwind(AssertUnwindSafe(work));
        let reason = match result {
            Ok(Ok(outputs)) => return Ok(outputs),
            Ok(Err(fault)) => fault.0,
            Err(panic) => format!("the backend panicked: {}", message(&*panic)),
        };
        let step = self.plan.steps.get(at.load(Ordering::Relaxed));
        let (node, op) = step.map_or_else(Default::default, |s| (s.name.clone(), s.op.clone()));
        Err(RunError::Node { node, op, reason })
    }
}

/// Small tensors on the host stay there; so does what the device can't do.
fn belongs_on_device<B: Backend>(op: &DeviceOp, operands: &[Option<Value<B>>]) -> bool {
    let mut elements = 0usize;
    let mut on_device = false;
    let mut look = |value: &Value<B>| {
        on_device |= value.on_device();
        let shape = value.shape();
        elements = elements.saturating_add(shape.iter().product());
        Operand {
            datatype: value.datatype(),
            shape,
        }
    };
    let operands: Vec<_> = operands.iter().map(|o| o.as_ref().map(&mut look)).collect();
    (on_device || elements > SMALL) && op.accepts(&operands)
}

/// Whether a plan has 16-bit numbers of its own, outside of the graphs in it.
fn has_narrow(plan: &Plan) -> bool {
    let narrow = |t: DataType| matches!(t, DataType::F16 | DataType::BF16);
    let infos = plan.signature.inputs.iter().chain(&plan.signature.outputs);
    let casts = plan.steps.iter().any(|s| match &s.kernel {
        Kernel::Device {
            op: DeviceOp::Cast(to), ..
        } => narrow(*to),
        _ => false,
    });
    casts || infos.map(|i| i.datatype).any(narrow) || plan.constants.iter().flatten().any(|t| narrow(t.datatype()))
}

/// For each value whether it is the weights of a convolution and nothing else.
fn filters(plan: &Plan) -> Vec<bool> {
    let mut filters = vec![false; plan.constants.len()];
    let mut others = filters.clone();
    for step in &plan.steps {
        let convolution = matches!(
            &step.kernel,
            Kernel::Device {
                op: DeviceOp::Conv(_),
                ..
            }
        );
        for (i, operand) in step.inputs.iter().enumerate() {
            let Some(operand) = operand else { continue };
            filters[operand.value] |= convolution && i == 1;
            others[operand.value] |= !convolution || i != 1;
        }
    }
    filters
        .iter()
        .zip(others)
        .map(|(&filter, other)| filter && !other)
        .collect()
}
