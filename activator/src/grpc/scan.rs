//! Reads one string field of the first message of a gRPC call, byte by byte as it comes, without decoding the rest.
//!
//! The bytes come from anyone: each varint, length and wire type is checked, and nothing is allocated but the name.
//! The first occurrence counts. A message may hold several, of which a decoder takes the last; then the replica, which
//! knows its models by name itself, refuses what reached the wrong one.

/// Longest name that is read.
pub(crate) const MAX_NAME: usize = 1_024;

/// Why a name can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The message is compressed.
    #[error("its message is compressed and can't be looked into")]
    Compressed,
    /// No protobuf message.
    #[error("its message is malformed: {0}")]
    Malformed(&'static str),
    /// The body ended too early.
    #[error("its body ends before its first message does")]
    Cut,
    /// It does not come within the bytes that may be read for it.
    #[error("its model name is not among the first {0} bytes")]
    TooFar(usize),
}

/// What is known after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More bytes are needed.
    More,
    /// The value; `None` where the message has none or an empty one.
    Found(Option<String>),
}

/// The search for one field.
#[derive(Debug)]
pub(crate) struct Scanner {
    field: u32,
    /// Bytes of the message that are still to come.
    left: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Before the message: one byte of flags, four of length.
    Prefix {
        bytes: [u8; 5],
        have: usize,
    },
    Key(Varint),
    /// The length of a field: the wanted one or one to skip.
    Length {
        varint: Varint,
        wanted: bool,
    },
    SkipVarint(Varint),
    Skip(u64),
    Name {
        bytes: Vec<u8>,
        missing: usize,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    have: u32,
}

impl Varint {
    /// Adds a byte; the number once it is complete.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, Fault> {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if self.have == 9 && byte > 1 {
            return Err(Fault::Malformed("a number is too long"));
        }
        self.value |= bits << (7 * self.have);
        self.have += 1;
        Ok((byte < 0x80).then_some(self.value))
    }
}

impl Scanner {
    /// Looks for string field `field`.
    pub(crate) fn new(field: u32) -> Self {
        let state = State::Prefix { bytes: [0; 5], have: 0 };
        Self { field, left: 0, state }
    }

    /// Takes the next bytes of the body. Not to be called again after it found something or failed.
    pub(crate) fn push(&mut self, mut data: &[u8]) -> Result<Progress, Fault> {
        loop {
            if self.left == 0 && !matches!(self.state, State::Prefix { .. }) {
                return self.end();
            }
            if data.is_empty() {
                return Ok(Progress::More);
            }
            let used = self.step(data)?;
            data = &data[used..];
            if let State::Name { bytes, missing: 0 } = &mut self.state {
                return name(std::mem::take(bytes));
            }
        }
    }

    /// The message is over.
    fn end(&self) -> Result<Progress, Fault> {
        match &self.state {
            State::Key(varint) if varint.have == 0 => Ok(Progress::Found(None)),
            _ => Err(Fault::Malformed("a field is cut off")),
        }
    }

    /// Consumes at least one byte of `data`, none beyond the message; says how many.
    fn step(&mut self, data: &[u8]) -> Result<usize, Fault> {
        if let State::Prefix { bytes, have } = &mut self.state {
            bytes[*have] = data[0];
            *have += 1;
            if *have == 5 {
                let [flags, length @ ..] = *bytes;
                self.begin(flags, u32::from_be_bytes(length))?;
            }
            return Ok(1);
        }
        let used = match &mut self.state {
            State::Skip(missing) => {
                let used = usize::try_from(*missing).unwrap_or(usize::MAX).min(data.len());
                *missing -= used as u64;
                used
            }
            State::Name { bytes, missing } => {
                let used = (*missing).min(data.len());
                bytes.extend_from_slice(&data[..used]);
                *missing -= used;
                used
            }
            _ => 1,
        };
        self.left -= used as u64;
        self.state = match std::mem::replace(&mut self.state, State::Skip(0)) {
            State::Key(mut varint) => match varint.push(data[0])? {
                Some(key) => self.value_of(key)?,
                None => State::Key(varint),
            },
            State::Length { mut varint, wanted } => match varint.push(data[0])? {
                Some(length) => self.bytes(length, wanted)?,
                None => State::Length { varint, wanted },
            },
            State::SkipVarint(mut varint) => match varint.push(data[0])? {
                Some(_) => State::Key(Varint::default()),
                None => State::SkipVarint(varint),
            },
            State::Skip(0) => State::Key(Varint::default()),
            other => other,
        };
        Ok(used)
    }

    fn begin(&mut self, flags: u8, length: u32) -> Result<(), Fault> {
        match flags {
            0 => {}
            1 => return Err(Fault::Compressed),
            _ => return Err(Fault::Malformed("its flags are unknown")),
        }
        self.left = u64::from(length);
        self.state = State::Key(Varint::default());
        Ok(())
    }

    /// What follows a field's key.
    fn value_of(&self, key: u64) -> Result<State, Fault> {
        let number = u32::try_from(key >> 3).unwrap_or(0);
        // Field numbers have 29 bits and begin with 1.
        if number == 0 || number >= 1 << 29 {
            return Err(Fault::Malformed("a field number is out of range"));
        }
        let wanted = number == self.field;
        match key & 7 {
            2 => Ok(State::Length {
                varint: Varint::default(),
                wanted,
            }),
            _ if wanted => Err(Fault::Malformed("the model's name is not a string")),
            0 => Ok(State::SkipVarint(Varint::default())),
            1 => self.bytes(8, false),
            5 => self.bytes(4, false),
            _ => Err(Fault::Malformed("a wire type is unknown")),
        }
    }

    fn bytes(&self, length: u64, wanted: bool) -> Result<State, Fault> {
        if length > self.left {
            return Err(Fault::Malformed("a field is longer than its message"));
        }
        match usize::try_from(length) {
            Ok(missing) if wanted && missing <= MAX_NAME => Ok(State::Name {
                bytes: Vec::with_capacity(missing),
                missing,
            }),
            _ if wanted => Err(Fault::Malformed("the model's name is too long")),
            Ok(0) => Ok(State::Key(Varint::default())),
            _ => Ok(State::Skip(length)),
        }
    }
}

fn name(bytes: Vec<u8>) -> Result<Progress, Fault> {
    let name = String::from_utf8(bytes).map_err(|_| Fault::Malformed("the model's name is not UTF-8"))?;
    Ok(Progress::Found(Some(name).filter(|name| !name.is_empty())))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
