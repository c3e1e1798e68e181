//! What changed and wasn't told yet, merged by backend. Bounded by the number of backends; of the ends of one backend that
//! nobody takes only the latest are kept.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use pilotlight_activator::BackendId;
use tokio::sync::Notify;

use crate::platform::Exit;

/// Ends kept per backend. More than a consumer that keeps up ever meets.
const MOST_EXITS: usize = 256;

#[derive(Default)]
pub(super) struct Outbox {
    pending: Mutex<Pending>,
    arrived: Notify,
}

#[derive(Default)]
struct Pending {
    order: VecDeque<BackendId>,
    exits: HashMap<BackendId, VecDeque<Exit>>,
}

impl Outbox {
    /// The replicas of this backend are others than they were.
    pub(super) fn changed(&self, backend: &BackendId) {
        self.pending.lock().entry(backend);
        self.arrived.notify_one();
    }

    /// One of them ended.
    pub(super) fn exited(&self, backend: &BackendId, exit: Exit) {
        {
            let mut pending = self.pending.lock();
            let exits = pending.entry(backend);
            exits.push_back(exit);
            if exits.len() > MOST_EXITS {
                exits.pop_front();
            }
        }
        self.arrived.notify_one();
    }

    /// The backend that changed first and the ends since it was last told. One consumer.
    pub(super) async fn next(&self) -> (BackendId, Vec<Exit>) {
        loop {
            if let Some(next) = self.pending.lock().pop() {
                return next;
            }
            self.arrived.notified().await;
        }
    }
}

impl Pending {
    fn entry(&mut self, backend: &BackendId) -> &mut VecDeque<Exit> {
        let order = &mut self.order;
        self.exits.entry(backend.clone()).or_insert_with(|| {
            order.push_back(backend.clone());
            VecDeque::new()
        })
    }

    fn pop(&mut self) -> Option<(BackendId, Vec<Exit>)> {
        let backend = self.order.pop_front()?;
        let exits = self.exits.remove(&backend).unwrap_or_default();
        Some((backend, exits.into()))
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_activator::EndpointId;

    use super::*;
    use crate::platform::{ExitCause, Revision};

    fn exit(number: usize) -> Exit {
        let endpoint = EndpointId::new(number.to_string());
        Exit {
            endpoint,
            revision: Revision::new("r"),
            cause: ExitCause::Ended,
        }
    }

    #[tokio::test]
    async fn changes_of_one_backend_are_one_event_in_the_order_of_the_first() {
        let (outbox, a, b) = (Outbox::default(), BackendId::new("a"), BackendId::new("b"));
        outbox.changed(&a);
        outbox.exited(&b, exit(1));
        outbox.exited(&a, exit(2));
        outbox.changed(&a);
        assert_eq!(outbox.next().await, (a, vec![exit(2)]));
        assert_eq!(outbox.next().await, (b, vec![exit(1)]));
        assert!(outbox.pending.lock().exits.is_empty());
    }

    #[tokio::test]
    async fn the_ends_that_nobody_takes_are_bounded() {
        let (outbox, a) = (Outbox::default(), BackendId::new("a"));
        for number in 0..1000 {
            outbox.exited(&a, exit(number));
        }
        let (_, exits) = outbox.next().await;
        assert_eq!((exits.len(), exits.last()), (MOST_EXITS, Some(&exit(999))));
    }
}
