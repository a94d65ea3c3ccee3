//! Single-flight: the first of several equal requests starts the work, the others wait for its result.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::sync::oneshot;

/// The result of a request in flight; `None` when it panicked.
type Request<V> = Shared<BoxFuture<'static, Option<V>>>;
type Requests<K, V> = Mutex<HashMap<K, Request<V>>>;

/// Requests in flight. A request belongs to no caller: it completes even if all who wait for it are dropped. Clones share
/// the requests.
pub struct SingleFlight<K, V: Clone> {
    requests: Arc<Requests<K, V>>,
}

impl<K, V: Clone> fmt::Debug for SingleFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SingleFlight")
    }
}

impl<K, V: Clone> Clone for SingleFlight<K, V> {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
        }
    }
}

impl<K, V: Clone> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self {
            requests: Arc::default(),
        }
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of the request for `key`, and whether another caller had started it; `None` when it panicked. Results are not
    /// cached: a later call starts a new request.
    pub async fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> (Option<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let tell = match self.enter(&key) {
            Ok(tell) => tell,
            Err(request) => return (request.await, true),
        };
        let guard = InFlightGuard {
            requests: self.requests.clone(),
            key,
        };
        let request = start();
        let task = tokio::spawn(async move {
            let value = request.await;
            // Removed from the map before the result is published; also on a panic.
            drop(guard);
            let _ = tell.send(value.clone());
            value
        });
        (task.await.ok(), false)
    }

    /// Whether a request for `key` is in flight.
    pub fn is_running(&self, key: &K) -> bool {
        lock(&self.requests).contains_key(key)
    }

    /// The request in flight for `key`, or else the sender for the result of the one that the caller must start.
    fn enter(&self, key: &K) -> Result<oneshot::Sender<V>, Request<V>> {
        let mut requests = lock(&self.requests);
        if let Some(request) = requests.get(key) {
            return Err(request.clone());
        }
        let (tell, told) = oneshot::channel();
        requests.insert(key.clone(), told.map(Result::ok).boxed().shared());
        Ok(tell)
    }
}

/// Removes a request from the map when it ends.
struct InFlightGuard<K: Eq + Hash, V: Clone> {
    requests: Arc<Requests<K, V>>,
    key: K,
}

impl<K: Eq + Hash, V: Clone> Drop for InFlightGuard<K, V> {
    fn drop(&mut self) {
        lock(&self.requests).remove(&self.key);
    }
}

fn lock<K, V: Clone>(requests: &Requests<K, V>) -> MutexGuard<'_, HashMap<K, Request<V>>> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_share_one_request_and_the_next_starts_anew() {
        let single_flight = Arc::new(SingleFlight::<&str, u32>::default());
        let (runs, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::default()));
        let ask = || {
            let (single_flight, runs, gate) = (single_flight.clone(), runs.clone(), gate.clone());
            tokio::spawn(async move {
                let start = || async move {
                    gate.notified().await;
                    runs.fetch_add(1, Ordering::SeqCst) + 1
                };
                single_flight.join("key", start).await
            })
        };
        let waiting: Vec<_> = (0..8).map(|_| ask()).collect();
        tokio::task::yield_now().await;
        gate.notify_one();
        let mut collapsed = 0;
        for task in waiting {
            let (value, shared) = task.await.expect("no panic");
            assert_eq!(value, Some(1));
            collapsed += u32::from(shared);
        }
        assert_eq!(collapsed, 7);
        gate.notify_one();
        assert_eq!(ask().await.expect("no panic"), (Some(2), false));
    }

    #[tokio::test]
    async fn a_panic_is_no_result_and_leaves_nothing_behind() {
        let single_flight = SingleFlight::<u8, u8>::default();
        assert_eq!(
            single_flight
                .join(1, || async { panic!("on purpose") })
                .await
                .0,
            None
        );
        assert_eq!(single_flight.join(1, || async { 7 }).await.0, Some(7));
    }
}
