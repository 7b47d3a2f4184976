//! An S3 written by hand: a test says what it does with a connection, byte by byte.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An S3, and what it has read so far.
pub struct Hand {
    /// Where it listens.
    pub addr: SocketAddr,
    read: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

/// One connection to it.
pub struct Line {
    stream: TcpStream,
    read: Arc<Mutex<Vec<u8>>>,
}

impl Hand {
    /// Serves connections one after the other with `serve`, and closes each afterwards.
    pub async fn start<F, R>(serve: F) -> Self
    where
        F: Fn(Line) -> R + Send + 'static,
        R: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let read = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&read);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(Line { stream, read: Arc::clone(&shared) }).await;
            }
        });
        Self { addr, read, task }
    }

    /// Everything that was read, of all connections.
    pub fn read(&self) -> Vec<u8> {
        self.read.lock().unwrap().clone()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.read()).into_owned()
    }

    /// What was read behind the first head.
    pub fn body(&self) -> Vec<u8> {
        let read = self.read();
        let end = read.windows(4).position(|w| w == b"\r\n\r\n").map_or(read.len(), |at| at + 4);
        read[end..].to_vec()
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    /// Reads until the received bytes end with that.
    pub async fn until(&mut self, end: &[u8]) {
        while !self.read.lock().unwrap().ends_with(end) {
            match self.stream.read_u8().await {
                Ok(byte) => self.read.lock().unwrap().push(byte),
                Err(_) => return,
            }
        }
    }

    /// Reads a head.
    pub async fn head(&mut self) {
        self.until(b"\r\n\r\n").await;
    }

    /// Reads so many bytes; false if fewer came.
    pub async fn take(&mut self, bytes: usize) -> bool {
        let mut body = Vec::new();
        let _ = (&mut self.stream).take(bytes as u64).read_to_end(&mut body).await;
        self.read.lock().unwrap().extend_from_slice(&body);
        body.len() == bytes
    }

    /// Reads to the end.
    pub async fn rest(&mut self) {
        self.take(usize::MAX >> 1).await;
    }

    /// Writes.
    pub async fn say(&mut self, bytes: &str) {
        let _ = self.stream.write_all(bytes.as_bytes()).await;
    }

    /// Does nothing for a while.
    pub async fn idle(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
