//! Functions of every element, in the operand's own memory where nobody else reads it.

use burn_flex::Flex;
use pilotlight_kernels::{self as kernels, Function, Pair};

use super::operand::{at, dims, floats, made, own, spread};
use super::{Operands, Outcome};
use crate::device::{Arith, Unary};
use crate::kernel::Inputs;
use crate::value::Value;

/// The kernels' function, where they have it.
pub(super) fn function(f: Unary) -> Option<Function> {
    Some(match f {
        Unary::Abs => Function::Abs,
        Unary::Neg => Function::Neg,
        Unary::Exp => Function::Exp,
        Unary::Sqrt => Function::Sqrt,
        Unary::Reciprocal => Function::Reciprocal,
        Unary::Tanh => Function::Tanh,
        Unary::Sigmoid => Function::Sigmoid,
        Unary::Erf => Function::Erf,
        Unary::Relu => Function::Clamp(0.0, f32::INFINITY),
        Unary::LeakyRelu(alpha) => Function::LeakyRelu(alpha),
        Unary::Gelu => Function::Gelu,
        Unary::HardSigmoid(alpha, beta) => Function::HardSigmoid(alpha, beta),
        Unary::Log | Unary::Floor | Unary::Ceil | Unary::Sin | Unary::Cos => return None,
    })
}

/// Operand: x
pub(super) fn unary(f: Unary, operands: Operands<'_>) -> Outcome {
    match function(f) {
        Some(function) => map(function, operands),
        None => Ok(None),
    }
}

fn map(function: Function, operands: Operands<'_>) -> Outcome {
    if at(operands, 0).is_none() {
        return Ok(None);
    }
    let Some(x) = operands[0].take() else { return Ok(None) };
    let shape = dims(&x);
    let mut out = own(x)?;
    kernels::map(function, &mut out);
    made(shape, out)
}

/// Operands: x, min?, max?
pub(super) fn clip(min: Option<f64>, max: Option<f64>, operands: Operands<'_>) -> Outcome {
    if at(operands, 0).is_none() {
        return Ok(None);
    }
    let bound = |i: usize, default: Option<f64>| match operands.get(i).and_then(Option::as_ref) {
        None => Ok(default),
        Some(Value::Host(t)) => Inputs(&[Some(t.clone())]).opt_f64(0),
        Some(other) => Inputs(&[Some(other.clone().into_host()?)]).opt_f64(0),
    };
    let (low, high) = (bound(1, min)?, bound(2, max)?);
    let (low, high) = (
        low.map_or(f32::NEG_INFINITY, |v| v as f32),
        high.map_or(f32::INFINITY, |v| v as f32),
    );
    map(Function::Clamp(low, high), operands)
}

/// Operands: any number
pub(super) fn arith(f: Arith, operands: Operands<'_>) -> Outcome {
    let pair = match f {
        Arith::Add => Pair::Add,
        Arith::Sub => Pair::Sub,
        Arith::Mul => Pair::Mul,
        Arith::Div => Pair::Div,
        Arith::Pow => return power(operands),
    };
    let [a, b] = operands else { return Ok(None) };
    combine(pair, a, b)
}

/// `None` where the shapes stretch each other, or one is stretched in other ways than `spread` does.
pub(super) fn combine(pair: Pair, a: &mut Option<Value<Flex>>, b: &mut Option<Value<Flex>>) -> Outcome {
    let (Some(x), Some(y)) = (&*a, &*b) else {
        return Ok(None);
    };
    let (xs, ys) = (dims(x), dims(y));
    let (Some(x), Some(y)) = (floats(x), floats(y)) else {
        return Ok(None);
    };
    if x.is_empty() || y.is_empty() {
        return Ok(None);
    }
    let rank = xs.len().max(ys.len());
    let led = |mut dims: Vec<usize>| {
        dims.splice(0..0, std::iter::repeat_n(1, rank - dims.len()));
        dims
    };
    // Of two alike, the one whose memory may be written on is the left one.
    let writable = |v: &Option<Value<Flex>>| matches!(v, Some(Value::Host(t)) if std::sync::Arc::strong_count(t) == 1);
    let forward = spread(&xs, &ys).filter(|_| xs.len() >= ys.len() || ys.iter().product::<usize>() == 1);
    if let Some(inner) = forward
        && !(xs == ys && !writable(a) && writable(b))
    {
        return left(pair, a, b.as_ref(), inner, led(xs));
    }
    let backward = spread(&ys, &xs).filter(|_| ys.len() >= xs.len() || xs.iter().product::<usize>() == 1);
    match backward {
        Some(inner) => left(swapped(pair), b, a.as_ref(), inner, led(ys)),
        None => Ok(None),
    }
}

fn swapped(pair: Pair) -> Pair {
    match pair {
        Pair::Sub => Pair::SubFrom,
        Pair::SubFrom => Pair::Sub,
        Pair::Div => Pair::DivInto,
        Pair::DivInto => Pair::Div,
        same => same,
    }
}

fn left(pair: Pair, a: &mut Option<Value<Flex>>, b: Option<&Value<Flex>>, inner: usize, shape: Vec<usize>) -> Outcome {
    let (Some(x), Some(y)) = (a.take(), b.and_then(floats)) else {
        return Ok(None);
    };
    let mut out = own(x)?;
    kernels::pair(pair, &mut out, y, inner);
    made(shape, out)
}

/// Squares and roots; other powers are rare.
fn power(operands: Operands<'_>) -> Outcome {
    let (Some(_), Some(&[exponent])) = (at(operands, 0), at(operands, 1)) else {
        return Ok(None);
    };
    if dims(operands[1].as_ref().unwrap_or(&Value::Nothing)).len() > operands[0].as_ref().map_or(0, |x| dims(x).len()) {
        return Ok(None);
    }
    if exponent == 2.0 {
        map(Function::Square, operands)
    } else if exponent == 0.5 {
        map(Function::Sqrt, operands)
    } else {
        Ok(None)
    }
}
