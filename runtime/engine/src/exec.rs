//! Runs a plan on a Burn backend. This is all of the engine that is generic over the backend, together with `device`
//! and `value`; a crate for another backend instantiates `compile` and nothing else.

mod control;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use burn_backend::tensor::Device;

use crate::backend::Accelerate;
use crate::device::{self, Conv, DeviceOp, Operand};
use crate::fault::{Fault, OpResult, ensure};
use crate::kernel::{HostOp, Inputs, Kernel, ViewOp, is_float, shape_result};
use crate::plan::{Plan, Step};
use crate::value::Value;
use crate::item::Held;
use crate::{Item, ItemModel, Model, RunError, Signature, Tensor, host};

/// Up to this many elements in all, work on the host takes less time than calling a backend does.
const SMALL: usize = 1024;

/// The operand of a convolution that is packed.
const WEIGHTS: usize = 1;

/// A plan bound to a device.
pub(crate) struct Executor<B: Accelerate> {
    plan: Plan,
    constants: Vec<Option<Constant<B>>>,
    /// For each step the weights of its convolution, where the backend has packed them.
    packed: Vec<Option<B::Convolution>>,
    /// For each step the graphs that it runs.
    bodies: Vec<Vec<Executor<B>>>,
    device: Device<B>,
}

/// Where a run is, and what is left of its bounds.
struct Run<'a> {
    /// The step being executed.
    at: Cell<usize>,
    /// Bodies of loops run so far, in all graphs together.
    iterations: &'a Cell<u64>,
}

/// A weight: on the host where host kernels read it, on the device from its first use there on.
struct Constant<B: Accelerate> {
    host: Option<Arc<Tensor>>,
    device: OnceLock<Value<B>>,
}

impl<B: Accelerate> Executor<B> {
    /// Uploads what only the device reads; everything else follows at its first use.
    pub(crate) fn new(mut plan: Plan, device: Device<B>) -> OpResult<Self> {
        let mut bodies = Vec::with_capacity(plan.steps.len());
        for step in &mut plan.steps {
            bodies.push(control::bodies(&mut step.kernel, &device)?);
        }
        let packed: Vec<_> = plan.steps.iter().map(|s| pack::<B>(s, &plan.constants)).collect();
        let mut host_reads = vec![false; plan.constants.len()];
        let mut device_reads = host_reads.clone();
        for (step, packed) in plan.steps.iter().zip(&packed) {
            for (i, operand) in step.inputs.iter().enumerate() {
                let Some(operand) = operand else { continue };
                let device = matches!(step.kernel, Kernel::Device { .. });
                host_reads[operand.value] |= !device;
                device_reads[operand.value] |= device && !(packed.is_some() && i == WEIGHTS);
            }
        }
        for &id in &plan.outputs {
            host_reads[id] = true;
        }
        let constants = std::mem::take(&mut plan.constants);
        let constants = constants.into_iter().enumerate().map(|(id, tensor)| {
            let Some(tensor) = tensor else { return Ok(None) };
            if !host_reads[id] && !device_reads[id] {
                // Packed weights only; this is the last owner of the plain ones.
                return Ok(None);
            }
            if host_reads[id] || !is_float(tensor.datatype()) || tensor.data().len() <= SMALL {
                return Ok(Some(Constant {
                    host: Some(tensor),
                    device: OnceLock::new(),
                }));
            }
            let uploaded = Value::Float(Value::<B>::Host(tensor).into_float(&device)?);
            Ok(Some(Constant {
                host: None,
                device: OnceLock::from(uploaded),
            }))
        });
        let constants = constants.collect::<OpResult<_>>()?;
        Ok(Self {
            plan,
            constants,
            packed,
            bodies,
            device,
        })
    }

    fn execute(&self, inputs: Vec<Value<B>>, run: &Run<'_>) -> OpResult<Vec<Value<B>>> {
        let mut values: Vec<Option<Value<B>>> = Vec::new();
        values.resize_with(self.constants.len(), || None);
        for (&id, value) in self.plan.inputs.iter().zip(inputs) {
            values[id] = Some(value);
        }
        for (n, step) in self.plan.steps.iter().enumerate() {
            run.at.set(n);
            let results = self.step(n, step, &mut values, run)?;
            let mut results = results.into_iter();
            for output in &step.outputs {
                let result = results.next();
                if let Some(id) = *output {
                    ensure!(result.is_some(), "it has fewer outputs than the model reads");
                    values[id] = result;
                }
            }
        }
        run.at.set(usize::MAX);
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
        values: &mut [Option<Value<B>>],
        run: &Run<'_>,
    ) -> OpResult<Vec<Value<B>>> {
        match &step.kernel {
            Kernel::Host(op) => self.host_step(op.as_ref(), step, values),
            Kernel::Shape { scalar, op } => {
                let first = step.inputs.first().copied().flatten();
                let value = self.take(first.ok_or_else(|| Fault("input 0 is missing".into()))?, values, false)?;
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
                control::run(control, &self.bodies[n], operands, &self.device, run.iterations)
            }
            Kernel::Device {
                op: DeviceOp::Conv(attrs),
                ..
            } if let Some(weights) = &self.packed[n] => self.packed_conv(weights, attrs, step, values),
            Kernel::Device { op, host } => {
                if let Some(host) = host
                    && !self.belongs_on_device(op, step, values)
                {
                    return self.host_step(host.as_ref(), step, values);
                }
                let operands = step
                    .inputs
                    .iter()
                    .map(|o| o.map(|o| self.take(o, values, true)).transpose())
                    .collect::<OpResult<Vec<_>>>()?;
                Ok(vec![device::run(op, operands, &self.device)?])
            }
        }
    }

    /// All operands where they lie.
    fn operands(&self, step: &Step, values: &mut [Option<Value<B>>]) -> OpResult<Vec<Option<Value<B>>>> {
        let take = |o: &Option<crate::plan::Operand>| o.map(|o| self.take(o, values, false)).transpose();
        step.inputs.iter().map(take).collect()
    }

    fn packed_conv(
        &self,
        weights: &B::Convolution,
        attrs: &Conv,
        step: &Step,
        values: &mut [Option<Value<B>>],
    ) -> OpResult<Vec<Value<B>>> {
        let mut float = |i: usize| {
            let operand = step.inputs.get(i).copied().flatten();
            operand
                .map(|o| self.take(o, values, true)?.into_float(&self.device))
                .transpose()
        };
        let x = float(0)?.ok_or_else(|| Fault("input 0 is missing".into()))?;
        let (bias, residual) = (float(2)?, float(3)?);
        Ok(vec![Value::Float(B::conv2d_fused(weights, attrs, x, bias, residual)?)])
    }

    fn host_step(&self, op: &dyn HostOp, step: &Step, values: &mut [Option<Value<B>>]) -> OpResult<Vec<Value<B>>> {
        let inputs = self.host_inputs(&step.inputs, values)?;
        Ok(host::run(op, &Inputs(&inputs))?
            .into_iter()
            .map(|t| Value::Host(Arc::new(t)))
            .collect())
    }

    fn view_step(&self, op: &dyn ViewOp, step: &Step, values: &mut [Option<Value<B>>]) -> OpResult<Vec<Value<B>>> {
        let first = step.inputs.first().copied().flatten();
        let first = first.ok_or_else(|| Fault("input 0 is missing".into()))?;
        let rest = self.host_inputs(&step.inputs[1..], values)?;
        let value = self.take(first, values, false)?;
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
        values: &mut [Option<Value<B>>],
    ) -> OpResult<Vec<Option<Arc<Tensor>>>> {
        operands
            .iter()
            .map(|o| o.map(|o| self.take(o, values, false)?.into_host()).transpose())
            .collect()
    }

    /// Small tensors on the host stay there; so does what the device can't do.
    fn belongs_on_device(&self, op: &device::DeviceOp, step: &Step, values: &[Option<Value<B>>]) -> bool {
        let mut elements = 0usize;
        let mut on_device = false;
        let mut look = |o: crate::plan::Operand| {
            let value = match &self.constants[o.value] {
                Some(Constant { host: Some(t), .. }) => {
                    elements = elements.saturating_add(t.data().len());
                    return Some(Operand {
                        datatype: t.datatype(),
                        shape: t.shape().to_vec(),
                    });
                }
                Some(c) => c.device.get()?,
                None => values[o.value].as_ref()?,
            };
            on_device |= value.on_device();
            let shape = value.shape();
            elements = elements.saturating_add(shape.iter().product());
            Some(Operand {
                datatype: value.datatype(),
                shape,
            })
        };
        let operands: Vec<_> = step.inputs.iter().map(|o| o.and_then(&mut look)).collect();
        (on_device || elements > SMALL) && op.accepts(&operands)
    }

    /// The value of an operand, moved out at its last use.
    fn take(
        &self,
        operand: crate::plan::Operand,
        values: &mut [Option<Value<B>>],
        for_device: bool,
    ) -> OpResult<Value<B>> {
        let missing = || Fault("an input was not computed".into());
        match &self.constants[operand.value] {
            Some(c) if for_device => self.on_device(c),
            Some(c) => Self::on_host(c),
            None if operand.last => values[operand.value].take().ok_or_else(missing),
            None => values[operand.value].clone().ok_or_else(missing),
        }
    }

    fn on_device(&self, constant: &Constant<B>) -> OpResult<Value<B>> {
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
        let uploaded = Value::Float(Value::<B>::Host(tensor).into_float(&self.device)?);
        Ok(constant.device.get_or_init(|| uploaded).clone())
    }

    fn on_host(constant: &Constant<B>) -> OpResult<Value<B>> {
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
            let Some(dims) = &info.shape else { continue };
            let fits = |(d, &size): (&crate::Dim, &usize)| !matches!(d, crate::Dim::Fixed(want) if *want != size);
            if dims.len() != tensor.shape().len() || !dims.iter().zip(tensor.shape()).all(fits) {
                return error(format!("it has shape {:?} where {dims:?} is needed", tensor.shape()));
            }
        }
        Ok(())
    }
}

impl<B: Accelerate> Model for Executor<B> {
    fn signature(&self) -> &Signature {
        &self.plan.signature
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        self.check(&inputs)?;
        self.outputs(inputs.into_iter().map(|t| Value::Host(Arc::new(t))).collect(), |value| {
            let tensor = value.into_host()?;
            Ok(Arc::try_unwrap(tensor).unwrap_or_else(|shared| (*shared).clone()))
        })
    }
}

impl<B: Accelerate> ItemModel for Executor<B> {
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
        self.outputs(inputs.collect(), |value| Ok(value.into_held()?.into()))
    }
}

impl<B: Accelerate> Executor<B> {
    /// Runs the plan and reads its outputs; a fault or a panic becomes an error that names the node.
    fn outputs<T>(&self, inputs: Vec<Value<B>>, read: impl Fn(Value<B>) -> OpResult<T>) -> Result<Vec<T>, RunError> {
        let iterations = Cell::new(0);
        let run = Run {
            at: Cell::new(usize::MAX),
            iterations: &iterations,
        };
        // The executor is only read while it runs; a constant's cell is either set or not.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let outputs = self.execute(inputs, &run)?;
            outputs.into_iter().map(read).collect::<OpResult<Vec<_>>>()
        }));
        let reason = match result {
            Ok(Ok(outputs)) => return Ok(outputs),
            Ok(Err(fault)) => fault.0,
            Err(panic) => format!("the backend panicked: {}", message(&*panic)),
        };
        let step = self.plan.steps.get(run.at.get());
        let (node, op) = step.map_or_else(Default::default, |s| (s.name.clone(), s.op.clone()));
        Err(RunError::Node { node, op, reason })
    }
}

/// A convolution's constant weights, as the backend wants them.
fn pack<B: Accelerate>(step: &Step, constants: &[Option<Arc<Tensor>>]) -> Option<B::Convolution> {
    let Kernel::Device {
        op: DeviceOp::Conv(attrs),
        ..
    } = &step.kernel
    else {
        return None;
    };
    let weights = step.inputs.get(WEIGHTS).copied().flatten()?;
    B::pack(constants[weights.value].as_deref()?, attrs)
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
