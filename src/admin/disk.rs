//! Reads of the store for the API: on threads that may block, with their problems.

use std::io;

use super::error::{Problem, ProblemCode};

/// Runs something that blocks on the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other).and_then(|done| done)
}

pub(super) fn unreadable(error: &io::Error) -> Problem {
    let detail = format!("the store cannot be read: {error}");
    Problem::new(ProblemCode::StoreFailed, detail)
}

pub(super) fn not_cached(what: &str) -> Problem {
    Problem::new(ProblemCode::NotFound, format!("{what} is not in the cache"))
}
