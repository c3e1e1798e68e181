//! Memory of results that nobody reads any more, for those that come next: pages that are in use already cost no faults.
//!
//! One store for the process, bounded in what it keeps. What a buffer holds when it is taken is left over from before.

use std::sync::{Mutex, PoisonError};

use crate::{Data, Tensor};

/// Shorter ones come from the allocator as quickly.
const LEAST: usize = 1 << 12;

/// Floats that all kept buffers have together: 512 MiB, so that even large batches find theirs again.
const KEPT: usize = 128 << 20;

/// A buffer is taken for no less than a half of it.
const SLACK: usize = 2;

static STORE: Mutex<Store> = Mutex::new(Store {
    free: Vec::new(),
    total: 0,
});

struct Store {
    free: Vec<Vec<f32>>,
    total: usize,
}

impl Store {
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let fits = |v: &Vec<f32>| v.capacity() >= len && v.capacity() <= SLACK * len;
        let best = self.free.iter().enumerate().filter(|(_, v)| fits(v));
        let (at, _) = best.min_by_key(|(_, v)| v.capacity())?;
        let buffer = self.free.swap_remove(at);
        self.total -= buffer.capacity();
        Some(buffer)
    }

    fn give(&mut self, buffer: Vec<f32>) {
        if self.total + buffer.capacity() <= KEPT {
            self.total += buffer.capacity();
            self.free.push(buffer);
        }
    }
}

/// A buffer of this length, with any content.
pub(crate) fn take(len: usize) -> Vec<f32> {
    let kept = (len >= LEAST).then(|| STORE.lock().unwrap_or_else(PoisonError::into_inner).take(len));
    match kept.flatten() {
        Some(mut buffer) => {
            buffer.resize(len, 0.0);
            buffer
        }
        None => vec![0.0; len],
    }
}

/// Keeps a buffer for another `take`, or lets it go where enough are kept.
pub(crate) fn give(buffer: Vec<f32>) {
    if buffer.capacity() >= LEAST {
        STORE.lock().unwrap_or_else(PoisonError::into_inner).give(buffer);
    }
}

/// Keeps a tensor's memory.
pub(crate) fn recycle(tensor: Tensor) {
    if let Data::F32(v) = tensor.into_parts().1 {
        give(v);
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Store};

    #[test]
    fn a_buffer_comes_back_for_a_length_near_its_own_and_no_more_than_the_bound_is_kept() {
        let mut store = Store {
            free: Vec::new(),
            total: 0,
        };
        store.give(Vec::with_capacity(100));
        assert!(store.take(101).is_none());
        assert!(store.take(49).is_none());
        assert_eq!(store.take(50).map(|b| b.capacity()), Some(100));
        assert!(store.take(50).is_none());
        store.give(Vec::with_capacity(KEPT - 10));
        store.give(Vec::with_capacity(11));
        assert_eq!((store.free.len(), store.total), (1, KEPT - 10));
    }
}
