//! A slice that several tasks write, each its own part of it.

use std::marker::PhantomData;

/// A mutable slice that can be handed to several tasks.
pub(crate) struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: it is only a slice; `part` makes its users promise that no two of them hold the same element.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
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
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(
            at <= self.len && len <= self.len - at,
            "a part reaches behind its slice"
        );
        // SAFETY: it lies within the slice that `new` was given, which is borrowed for 'a; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
