//! How the activator's wakes reach the controller.
//!
//! The activator needs a [`Waker`] before it can be built, and the controller needs the activator. So the pair comes first:
//! [`channel`] gives the activator's end, a [`WakeHandle`], and the controller's, a [`Wakes`].

use std::{collections::HashMap, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use pilotlight_activator::{BackendId, WakeError, WakeReason, Waker};
use tokio::sync::{Notify, watch};

type Answer = Option<Result<(), WakeError>>;

/// The activator's end. Cheap to clone. Wakes of one backend that the controller hasn't seen yet are one wake, so what is
/// pending is bounded by the number of backends.
#[derive(Clone, Debug)]
pub struct WakeHandle {
    queue: Arc<Queue>,
}

/// The controller's end. Dropping it answers every wake, pending and later, with a platform error.
#[derive(Debug)]
pub struct Wakes {
    queue: Arc<Queue>,
}

/// One backend to wake. Dropping it unanswered tells those who wait that the platform failed.
#[derive(Debug)]
pub struct Wake {
    /// Which backend.
    pub backend: BackendId,
    answer: watch::Sender<Answer>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    pending: HashMap<BackendId, watch::Sender<Answer>>,
}

/// The two ends.
pub fn channel() -> (WakeHandle, Wakes) {
    let queue = Arc::new(Queue::default());
    (WakeHandle { queue: queue.clone() }, Wakes { queue })
}

impl Waker for WakeHandle {
    fn wake(&self, backend: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
        // Registered here and not at the first poll, so that dropping the future takes nothing back.
        let receiver = {
            let mut state = self.queue.state.lock();
            if state.closed {
                return async { Err(stopped()) }.boxed();
            }
            state
                .pending
                .entry(backend.clone())
                .or_insert_with(|| watch::channel(None).0)
                .subscribe()
        };
        self.queue.arrived.notify_one();
        answered(receiver).boxed()
    }
}

async fn answered(mut receiver: watch::Receiver<Answer>) -> Result<(), WakeError> {
    match receiver.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(answer)) => answer.clone(),
        _ => Err(stopped()),
    }
}

fn stopped() -> WakeError {
    WakeError {
        reason: WakeReason::PlatformError,
        message: "the controller has stopped; restart the server".into(),
    }
}

impl Wakes {
    /// All pending wakes, at least one. Dropping the future loses none.
    pub async fn next(&mut self) -> Vec<Wake> {
        loop {
            let wakes = self.take();
            if !wakes.is_empty() {
                return wakes;
            }
            self.queue.arrived.notified().await;
        }
    }

    fn take(&self) -> Vec<Wake> {
        self.queue
            .state
            .lock()
            .pending
            .drain()
            .map(|(backend, answer)| Wake { backend, answer })
            .collect()
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.closed = true;
        state.pending.clear();
    }
}

impl Wake {
    /// Tells everyone who asked.
    pub fn answer(self, result: Result<(), WakeError>) {
        self.answer.send_replace(Some(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_of_one_backend_are_one_and_all_are_answered() {
        let (handle, mut wakes) = channel();
        let waiting: Vec<_> = (0..100).map(|_| handle.wake(&BackendId::new("ns/a"))).collect();
        let mut taken = wakes.next().await;
        assert_eq!(taken.len(), 1);
        taken.remove(0).answer(Ok(()));
        for wake in waiting {
            assert_eq!(wake.await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_dropped_future_does_not_take_the_wake_back() {
        let (handle, mut wakes) = channel();
        drop(handle.wake(&BackendId::new("ns/a")));
        assert_eq!(wakes.next().await[0].backend, BackendId::new("ns/a"));
    }

    #[tokio::test]
    async fn a_stopped_controller_answers_with_a_typed_error() {
        let (handle, wakes) = channel();
        let before = handle.wake(&BackendId::new("ns/a"));
        drop(wakes);
        assert_eq!(before.await.unwrap_err().reason, WakeReason::PlatformError);
        assert_eq!(
            handle.wake(&BackendId::new("ns/a")).await.unwrap_err().reason,
            WakeReason::PlatformError
        );
    }
}
