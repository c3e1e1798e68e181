//! A pipe that nobody writes to. Children hold the reading end: end of file means that we are gone, even by SIGKILL, which
//! no signal to the children could promise (a parent-death signal fires when the spawning thread ends).

use std::{io, os::fd::OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;

/// The descriptor under which a child finds its end.
pub(crate) const LIFELINE_FD: i32 = 4;

/// Both ends, neither inherited by itself. One pipe serves all children. Dropping it ends them.
pub(crate) struct Lifeline {
    reader: OwnedFd,
    _writer: OwnedFd,
}

impl Lifeline {
    pub(crate) fn new() -> Result<Self, Error> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::Platform {
            what: "opening a pipe".to_owned(),
            source: error.into(),
        })?;
        Ok(Self {
            reader,
            _writer: writer,
        })
    }

    /// A child's end.
    pub(crate) fn reader(&self) -> io::Result<OwnedFd> {
        self.reader.try_clone()
    }
}
