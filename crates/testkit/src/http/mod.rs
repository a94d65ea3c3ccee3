//! Clients that report exactly how a response ended.
//!
//! [`Raw`] is hand-written HTTP/1.1, blocking, for use from test threads: it sends any bytes and reports
//! how a body ended. [`Web`] is reqwest, for h2 and for ordinary requests. Neither ever waits longer than
//! [`WAIT`] for a byte.

mod raw;
mod reply;
mod web;

use std::path::Path;
use std::sync::{Barrier, OnceLock};
use std::time::Duration;

pub use raw::{Connect, Raw};
pub use reply::{Cut, End, Head, Reply};
pub use web::{Fetched, Web, chain};

/// The longest wait for the next byte.
pub const WAIT: Duration = Duration::from_secs(30);

/// One GET on a connection of its own.
#[track_caller]
pub fn get(url: &str, ca: Option<&Path>, path: &str) -> Reply {
    Raw::connect(url, ca).get(path)
}

/// Runs a future on the runtime that all clients of this process share.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// The runtime that all clients of this process share.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

/// Runs `task` in `n` threads at once; returns the results in order.
pub fn at_once<T: Send>(n: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(n);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|number| {
                let (task, barrier) = (&task, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    task(number)
                })
            })
            .collect();
        let results = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        results
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
