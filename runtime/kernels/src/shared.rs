//! A slice that several tasks write, each its own part of it.

use std::marker::PhantomData;

/// A mutable slice that can be handed to several tasks.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is only a slice of floats; `part` makes its users promise that no two of them hold the same element.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// `len` elements from `at` on.
    ///
    /// # Safety
    /// While the result is in use, nobody else holds a part with one of these elements.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(
            at <= self.len && len <= self.len - at,
            "a part reaches behind its slice"
        );
        // SAFETY: it lies within the slice that `new` was given, which is borrowed for 'a; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
