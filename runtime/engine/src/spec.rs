//! A node as an operator's constructor sees it: which inputs and outputs it has, and its attributes.
//!
//! Reading an attribute marks it as understood. One that nobody read is refused at load, since ignoring it would give
//! other results than the model's author meant.

use std::cell::Cell;

use bytes::Bytes;

use crate::decode;
use crate::fault::{OpResult, bail, ensure};
use crate::files::Files;
use crate::onnx::AttributeProto;
use crate::{DataType, Tensor};

/// Attributes that carry no meaning for inference; older exporters leave them behind.
const IGNORED: [&str; 3] = ["consumed_inputs", "is_test", "doc_string"];

/// See the module's head.
pub(crate) struct Spec<'a> {
    pub(crate) op: &'a str,
    /// The version of the node's domain that the model imports.
    pub(crate) opset: i64,
    /// For each input whether it is given.
    pub(crate) inputs: Vec<bool>,
    /// For each output whether someone may read it.
    pub(crate) outputs: Vec<bool>,
    attrs: Vec<(&'a AttributeProto, Cell<bool>)>,
    /// Where tensors lie whose data is in other files.
    files: Option<&'a Files>,
}

impl<'a> Spec<'a> {
    pub(crate) fn new(
        op: &'a str,
        opset: i64,
        inputs: Vec<bool>,
        outputs: Vec<bool>,
        attrs: &'a [AttributeProto],
    ) -> OpResult<Self> {
        for (i, a) in attrs.iter().enumerate() {
            let name = a.name.as_deref().unwrap_or_default();
            ensure!(
                attrs[..i].iter().all(|b| b.name.as_deref() != Some(name)),
                "attribute {name:?} is given twice"
            );
            ensure!(
                a.ref_attr_name.as_deref().unwrap_or_default().is_empty(),
                "attribute {name:?} refers to a function's"
            );
        }
        Ok(Self {
            op,
            opset,
            inputs,
            outputs,
            attrs: attrs.iter().map(|a| (a, Cell::new(false))).collect(),
            files: None,
        })
    }

    /// The same for a model that may read these files.
    pub(crate) fn within(mut self, files: &'a Files) -> Self {
        self.files = Some(files);
        self
    }

    pub(crate) fn has_input(&self, i: usize) -> bool {
        self.inputs.get(i).copied().unwrap_or(false)
    }

    pub(crate) fn has_output(&self, i: usize) -> bool {
        self.outputs.get(i).copied().unwrap_or(false)
    }

    /// Refuses a node with too few or too many inputs; the first `min` must be given.
    pub(crate) fn expect_inputs(&self, min: usize, max: usize) -> OpResult<()> {
        let n = self.inputs.len();
        ensure!(n >= min && n <= max, "it has {n} inputs instead of {min} to {max}");
        ensure!(
            self.inputs[..min].iter().all(|&given| given),
            "a required input is left out"
        );
        Ok(())
    }

    /// Attributes that no constructor has read.
    pub(crate) fn unread(&self) -> Option<&str> {
        self.attrs
            .iter()
            .filter(|(_, read)| !read.get())
            .map(|(a, _)| a.name.as_deref().unwrap_or_default())
            .find(|name| !IGNORED.contains(name))
    }

    /// Marks attributes as understood that have no effect on the result.
    pub(crate) fn ignore(&self, names: &[&str]) {
        for name in names {
            self.find(name);
        }
    }

    fn find(&self, name: &str) -> Option<&'a AttributeProto> {
        let (a, read) = self.attrs.iter().find(|(a, _)| a.name.as_deref() == Some(name))?;
        read.set(true);
        Some(a)
    }

    pub(crate) fn opt_int(&self, name: &str) -> OpResult<Option<i64>> {
        match self.find(name) {
            None => Ok(None),
            // proto3 writers omit a zero but keep the type.
            Some(a) => match a.i {
                Some(v) => Ok(Some(v)),
                None if a.r#type == Some(2) => Ok(Some(0)),
                None => bail!("attribute {name:?} is no integer"),
            },
        }
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> OpResult<i64> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> OpResult<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    pub(crate) fn opt_float(&self, name: &str) -> OpResult<Option<f32>> {
        match self.find(name) {
            None => Ok(None),
            Some(a) => match a.f {
                Some(v) => Ok(Some(v)),
                None if a.r#type == Some(1) => Ok(Some(0.0)),
                None => bail!("attribute {name:?} is no float"),
            },
        }
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> OpResult<f32> {
        Ok(self.opt_float(name)?.unwrap_or(default))
    }

    pub(crate) fn opt_string(&self, name: &str) -> OpResult<Option<&'a str>> {
        let Some(a) = self.find(name) else { return Ok(None) };
        match a.s.as_deref().map(std::str::from_utf8) {
            Some(Ok(s)) => Ok(Some(s)),
            None if a.r#type == Some(3) => Ok(Some("")),
            _ => bail!("attribute {name:?} is no string"),
        }
    }

    pub(crate) fn string(&self, name: &str, default: &'static str) -> OpResult<&'a str> {
        Ok(self.opt_string(name)?.unwrap_or(default))
    }

    pub(crate) fn ints(&self, name: &str) -> OpResult<Option<Vec<i64>>> {
        let Some(a) = self.find(name) else { return Ok(None) };
        ensure!(
            a.r#type.is_none_or(|t| t == 7 || t == 0),
            "attribute {name:?} is no list of integers"
        );
        Ok(Some(a.ints.clone()))
    }

    /// As `ints`, in the model's own memory; empty where it is not given.
    pub(crate) fn long_ints(&self, name: &str) -> OpResult<&'a [i64]> {
        let Some(a) = self.find(name) else { return Ok(&[]) };
        ensure!(
            a.r#type.is_none_or(|t| t == 7 || t == 0),
            "attribute {name:?} is no list of integers"
        );
        Ok(&a.ints)
    }

    /// As `strings`, in the model's own memory and not known to be UTF-8; empty where it is not given.
    pub(crate) fn long_strings(&self, name: &str) -> OpResult<&'a [Bytes]> {
        let Some(a) = self.find(name) else { return Ok(&[]) };
        ensure!(
            a.r#type.is_none_or(|t| t == 8 || t == 0),
            "attribute {name:?} is no list of strings"
        );
        Ok(&a.strings)
    }

    pub(crate) fn floats(&self, name: &str) -> OpResult<Option<Vec<f32>>> {
        let Some(a) = self.find(name) else { return Ok(None) };
        ensure!(
            a.r#type.is_none_or(|t| t == 6 || t == 0),
            "attribute {name:?} is no list of floats"
        );
        Ok(Some(a.floats.clone()))
    }

    pub(crate) fn strings(&self, name: &str) -> OpResult<Option<Vec<String>>> {
        let Some(a) = self.find(name) else { return Ok(None) };
        ensure!(
            a.r#type.is_none_or(|t| t == 8 || t == 0),
            "attribute {name:?} is no list of strings"
        );
        match a
            .strings
            .iter()
            .map(|s| String::from_utf8(s.to_vec()))
            .collect::<Result<Vec<_>, _>>()
        {
            Ok(list) => Ok(Some(list)),
            Err(_) => bail!("attribute {name:?} has a string that is not UTF-8"),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> OpResult<Option<Tensor>> {
        let Some(a) = self.find(name) else { return Ok(None) };
        match &a.t {
            Some(t) => match self
                .files
                .map_or_else(|| decode::tensor(t), |f| decode::tensor_in(t, f))
            {
                Ok(t) => Ok(Some(t)),
                Err(e) => bail!("attribute {name:?}: {e}"),
            },
            None => bail!("attribute {name:?} is no tensor"),
        }
    }

    /// An element type given as ONNX's number.
    pub(crate) fn data_type(&self, name: &str) -> OpResult<Option<DataType>> {
        self.opt_int(name)?
            .map(|v| decode::data_type(i32::try_from(v).unwrap_or(-1)))
            .transpose()
    }

    /// A list of sizes or steps, each at least `min`, of length `len` (any length where `None`).
    pub(crate) fn sizes(&self, name: &str, min: usize) -> OpResult<Option<Vec<usize>>> {
        let Some(list) = self.ints(name)? else { return Ok(None) };
        list.iter()
            .map(|&v| match usize::try_from(v) {
                // The upper bound keeps the arithmetic on sizes far from overflow.
                Ok(v) if v >= min && v <= 1 << 31 => Ok(v),
                _ => bail!("attribute {name:?} has {v} where at least {min} is allowed"),
            })
            .collect::<OpResult<Vec<_>>>()
            .map(Some)
    }
}
