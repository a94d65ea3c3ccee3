//! A TCP proxy that records the bytes sent to a registry.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http;

/// Forwards connections to `127.0.0.1` to another address. It stops when dropped.
pub struct Wire {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Wire {
    /// To the registry at `127.0.0.1:PORT`.
    pub fn to(authority: &str) -> Self {
        let listener = http::block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let sent = Arc::<Mutex<Vec<u8>>>::default();
        let (written, authority) = (sent.clone(), authority.to_owned());
        let task = http::runtime().spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, authority.clone(), written.clone()));
            }
        });
        Self {
            address,
            sent,
            task,
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every byte sent to the registry so far, connections interleaved.
    pub fn sent(&self) -> Vec<u8> {
        let sent = self.sent.lock();
        sent.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Both ways, each until its end.
async fn carry(near: TcpStream, authority: String, written: Arc<Mutex<Vec<u8>>>) {
    let Ok(far) = TcpStream::connect(authority).await else {
        return;
    };
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_far, &mut to_near).await;
    });
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from_near.read(&mut piece).await {
        let bytes = &piece[..length];
        written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        if to_far.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _ = to_far.shutdown().await;
    let _ = back.await;
}
