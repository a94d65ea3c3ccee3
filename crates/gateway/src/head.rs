//! Reads heads of HTTP/1 requests within limits of time and size, and refuses those that exceed them.
//!
//! It counts bytes and time; [`super::direct_request`] or pingora parses.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use oci::error::{ErrorCode, body};

/// The time limit of a last response before the connection is closed.
pub(super) const REFUSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much a client may send after the end of its connection, in bytes.
const LINGER_BYTES: usize = 256 << 10;

/// Room for a head, in bytes; most need no more.
const ROOM: usize = 1024;

/// The limits of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    /// From its first byte to its end.
    pub within: Duration,
    /// In bytes; blank lines before it may take as many again.
    pub bytes: usize,
}

/// The end of a connection's wait for a request: the deadline of its first byte, or the shutdown.
///
/// One timer serves all requests of a connection. It is set anew when it fires before the deadline, so that a request
/// that moves the deadline leaves it as it is.
pub(super) struct IdleEnd {
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
    /// `None` once it was ready.
    shutdown: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Why a connection no longer waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Deadline,
    Shutdown,
}

impl IdleEnd {
    /// `shutdown` is ready once no request is waited for.
    pub fn new(deadline: Instant, shutdown: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            deadline,
            timer: Box::pin(sleep_until(deadline)),
            shutdown: Some(Box::pin(shutdown)),
        }
    }

    /// Moves the deadline.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Why the wait has ended. A shutdown is told once.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(shutdown) = &mut self.shutdown
            && shutdown.as_mut().poll(cx).is_ready()
        {
            self.shutdown = None;
            return Poll::Ready(Ended::Shutdown);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= self.deadline {
                return Poll::Ready(Ended::Deadline);
            }
            self.timer.as_mut().reset(self.deadline);
        }
    }
}

/// The outcome of reading a head.
#[derive(Debug)]
pub(super) enum HeadOutcome {
    /// The head, and possibly the beginning of a body.
    Complete(BytesMut),
    /// The client left or sent nothing: no response is sent.
    Nothing,
    TooLong,
    TooLate,
}

/// Reads up to the blank line that ends a head. Blank lines before it are dropped (RFC 9112 §2.2) and do not extend
/// its deadline.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    limits: HeadLimits,
    idle_end: &mut IdleEnd,
) -> HeadOutcome {
    let mut head = BytesMut::with_capacity(ROOM);
    let mut blank = 0;
    while !has_begun(&head) {
        let mut read = pin!(stream.read_buf(&mut head));
        let read = poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(Ok(read)),
            Poll::Pending => idle_end.poll(cx).map(Err),
        });
        match read.await {
            Ok(Ok(read)) if read > 0 => {}
            Err(Ended::Deadline) if blank > 0 || !head.is_empty() => return HeadOutcome::TooLate,
            _ => return HeadOutcome::Nothing,
        }
        let lines = blank_lines(&head);
        head.advance(lines);
        blank += lines;
        if blank > limits.bytes {
            return HeadOutcome::TooLong;
        }
    }
    let deadline = Instant::now() + limits.within;
    let mut searched = 0;
    loop {
        match end_of_head(&head, searched) {
            Some(end) if end > limits.bytes => return HeadOutcome::TooLong,
            Some(_) => return HeadOutcome::Complete(head),
            None if head.len() > limits.bytes => return HeadOutcome::TooLong,
            None => searched = head.len(),
        }
        match timeout_at(deadline, stream.read_buf(&mut head)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(_) => return HeadOutcome::Nothing,
            Err(_) => return HeadOutcome::TooLate,
        }
    }
}

/// Whether there are bytes other than a possible blank line.
fn has_begun(bytes: &[u8]) -> bool {
    !matches!(bytes, [] | [b'\r'])
}

/// The length of the blank lines at the beginning, in bytes.
fn blank_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let [b'\n', after @ ..] | [b'\r', b'\n', after @ ..] = rest {
        rest = after;
    }
    bytes.len() - rest.len()
}

/// The index after the blank line that ends a head, if there is one; bytes before `searched` were searched already.
fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    memchr::memchr_iter(b'\n', &bytes[from..])
        .map(|at| from + at + 1)
        .find_map(|after| match &bytes[after..] {
            [b'\n', ..] => Some(after + 1),
            [b'\r', b'\n', ..] => Some(after + 2),
            _ => None,
        })
}

/// Sends an error response to bytes that are no complete request, and closes the connection.
pub(super) async fn refuse(
    stream: &mut (impl AsyncWriteExt + AsyncReadExt + Unpin),
    status: &str,
    message: &str,
) {
    let body = body(ErrorCode::Unsupported, message);
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nCache-Status: roadstead; detail=refused\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let sent = async {
        stream.write_all(response.as_bytes()).await?;
        stream.flush().await?;
        linger(stream, REFUSE_TIMEOUT, REFUSE_TIMEOUT).await;
        io::Result::Ok(())
    };
    let _ = timeout(REFUSE_TIMEOUT, sent).await;
}

/// Ends a connection's sending side, and reads until the client ends its own, is silent for `quiet`, or has had its time: bytes
/// that arrive after a close would reset the connection, and what is on its way to the client be lost (RFC 9112 §9.6).
pub(super) async fn linger(
    stream: &mut (impl AsyncWriteExt + AsyncReadExt + Unpin),
    quiet: Duration,
    within: Duration,
) {
    let ended = async {
        stream.shutdown().await?;
        let mut rest = vec![0; 4096];
        let mut budget = LINGER_BYTES;
        while budget > 0 {
            let read = timeout(quiet, stream.read(&mut rest)).await??;
            if read == 0 {
                break;
            }
            budget = budget.saturating_sub(read);
        }
        io::Result::Ok(())
    };
    // The client may be gone.
    let _ = timeout(within, ended).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head() {
        for (bytes, end) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody"[..], Some(27)),
            (b"GET / HTTP/1.1\nHost: a\n\n", Some(24)),
            (b"GET / HTTP/1.1\n\r\n", Some(17)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r", None),
            (b"", None),
        ] {
            assert_eq!(end_of_head(bytes, 0), end);
            // The same if it arrives byte by byte.
            let stepwise = (1..=bytes.len()).find_map(|have| end_of_head(&bytes[..have], have - 1));
            assert_eq!(stepwise, end);
        }
    }

    #[test]
    fn blank_lines_before_a_head() {
        for (bytes, blank, begun) in [
            (&b""[..], 0, false),
            (b"\r", 0, false),
            (b"\r\n", 2, false),
            (b"\n\r\n\n", 4, false),
            (b"\r\n\r", 2, false),
            (b"\r\n\rG", 2, true),
            (b"\r\r\n", 0, true),
            (b"\nGET", 1, true),
            (b"GET\r\n\r\n", 0, true),
        ] {
            assert_eq!(blank_lines(bytes), blank, "{bytes:?}");
            assert_eq!(has_begun(&bytes[blank..]), begun, "{bytes:?}");
        }
    }
}
