//! Messages between two processes, each with at most one file descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;

/// One end of a pair of sockets that keep the boundaries of messages (`SOCK_SEQPACKET`).
#[derive(Debug)]
pub struct MessageSocket(UnixDatagram);

/// A message as it arrived.
#[derive(Debug)]
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub descriptor: Option<OwnedFd>,
}

impl MessageSocket {
    /// A socket, and the other end for a child process.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self::of(own)?, other))
    }

    /// The end that a parent process passed to this one.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if it is another kind of file; else the system's.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn inherited(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = rustix::net::sockopt::socket_type(descriptor);
        if kind != Ok(SocketType::SEQPACKET) {
            let message = "it is no socket for messages";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        rustix::io::ioctl_fionbio(descriptor, true)?;
        Self::of(descriptor.try_clone_to_owned()?)
    }

    fn of(socket: OwnedFd) -> io::Result<Self> {
        // For the event loop it is like a socket of datagrams, but for its end.
        Ok(Self(UnixDatagram::from_std(net::UnixDatagram::from(
            socket,
        ))?))
    }

    /// Sends a message. Waits while the other process does not read.
    ///
    /// # Errors
    /// The system's: the other process is gone, or the message is longer than [`MAX_MESSAGE`].
    pub async fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if bytes.len() > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = descriptor.as_slice();
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let parts = [IoSlice::new(bytes)];
            sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next message; `None` once the other process has closed its end.
    ///
    /// # Errors
    /// The system's, or the message is longer than [`MAX_MESSAGE`].
    pub async fn receive(&self) -> io::Result<Option<Received>> {
        let receive = || {
            let mut bytes = vec![0; MAX_MESSAGE];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let parts = &mut [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(self.0.as_fd(), parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            if received.flags.contains(rustix::net::ReturnFlags::TRUNC) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut descriptor = None;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                    descriptor = descriptors.next();
                }
            }
            bytes.truncate(received.bytes);
            Ok(Received { bytes, descriptor })
        };
        let mut received = self.0.async_io(Interest::READABLE, receive).await;
        if is_reset(&received) {
            // It has not read all. What it said before that comes after the error.
            received = self.0.async_io(Interest::READABLE, receive).await;
        }
        if is_reset(&received) {
            return Ok(None);
        }
        // No message is empty.
        Ok(Some(received?).filter(|received| !received.bytes.is_empty()))
    }
}

fn is_reset(received: &io::Result<Received>) -> bool {
    let error = received.as_ref().err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_with_their_descriptors() {
        let (one, other) = MessageSocket::pair().expect("a pair");
        let other = MessageSocket::inherited(other.as_fd()).expect("an end");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"shared").expect("written");
        let longest = vec![7; MAX_MESSAGE];
        one.send(b"first", Some(file.as_fd())).await.expect("sent");
        one.send(&longest, None).await.expect("sent");
        let too_long = one.send(&vec![7; MAX_MESSAGE + 1], None).await;
        assert_eq!(
            too_long.expect_err("too long").kind(),
            io::ErrorKind::InvalidInput
        );
        drop(one);
        let first = other.receive().await.expect("received").expect("a message");
        assert_eq!(first.bytes, b"first");
        let mut passed = File::from(first.descriptor.expect("a descriptor"));
        passed.rewind().expect("a file");
        let mut text = String::new();
        passed.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "shared");
        let second = other.receive().await.expect("received").expect("a message");
        assert_eq!(
            (second.bytes, second.descriptor.is_some()),
            (longest, false)
        );
        assert!(other.receive().await.expect("received").is_none());
        let error = other.send(b"late", None).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn last_words_of_a_process_that_has_not_read_all_arrive() {
        let (one, passed) = MessageSocket::pair().expect("a pair");
        let other = MessageSocket::inherited(passed.as_fd()).expect("an end");
        one.send(b"unread", None).await.expect("sent");
        other.send(b"first", None).await.expect("sent");
        other.send(b"last", None).await.expect("sent");
        drop((other, passed));
        for words in [b"first".as_slice(), b"last"] {
            let received = one.receive().await.expect("received");
            assert_eq!(received.expect("a message").bytes, words);
        }
        assert!(one.receive().await.expect("received").is_none());
    }

    #[tokio::test]
    async fn other_files_are_refused() {
        let file = tempfile::tempfile().expect("a file");
        let error = MessageSocket::inherited(file.as_fd()).expect_err("no socket");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
