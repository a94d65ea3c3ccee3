//! Slots of something that is limited in number. The limit can change while slots are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A limited number of slots.
#[derive(Debug)]
pub struct Slots {
    taken: AtomicUsize,
    limit: AtomicUsize,
    /// Whether anybody waits for the last slot to be released.
    awaited: AtomicBool,
    empty: Notify,
}

/// A slot, released when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    /// All slots are free.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            awaited: AtomicBool::new(false),
            empty: Notify::new(),
        })
    }

    /// Changes the limit. Slots that are taken stay taken, also beyond it.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes a slot; `None` at the limit.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |taken: usize| (taken < limit).then_some(taken + 1);
        let taken = self
            .taken
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, more);
        taken.is_ok().then(|| Slot(self.clone()))
    }

    /// Waits until no slot is taken.
    pub async fn emptied(&self) {
        self.awaited.store(true, Ordering::SeqCst);
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            // From here on a release is noticed.
            empty.as_mut().enable();
            if self.taken.load(Ordering::SeqCst) == 0 {
                return;
            }
            empty.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.0;
        if slots.taken.fetch_sub(1, Ordering::SeqCst) == 1 && slots.awaited.load(Ordering::SeqCst) {
            slots.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_limit_holds_once_slots_are_released() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().expect("free"), slots.take().expect("free"));
        assert!(slots.take().is_none());
        slots.set_limit(3);
        let third = slots.take().expect("the limit is higher");
        slots.set_limit(1);
        drop((first, second));
        assert!(slots.take().is_none(), "the third is still taken");
        drop(third);
        let last = slots.take();
        assert!(last.is_some() && slots.take().is_none());
    }

    #[tokio::test]
    async fn the_last_release_is_noticed() {
        let slots = Slots::new(2);
        slots.emptied().await;
        let (first, second) = (slots.take(), slots.take());
        let mut emptied = std::pin::pin!(slots.emptied());
        assert!(futures_util::poll!(emptied.as_mut()).is_pending());
        drop(first);
        assert!(futures_util::poll!(emptied.as_mut()).is_pending());
        drop(second);
        emptied.await;
    }
}
