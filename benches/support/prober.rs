//! A client that connects again and again, at a fixed rate, whatever becomes of its connections: who
//! is refused or cut off meanwhile is counted. It must not know what happens meanwhile.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_openssl::SslStream;

use super::client::{self, Load};
use super::tap::Tap;

/// A connection that is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of the connections.
#[derive(Default)]
pub struct Probed {
    /// How many were made.
    pub connections: u64,
    /// Why, for each that was not accepted.
    pub refused: Vec<String>,
    /// Why, for each that was accepted and not answered.
    pub cut: Vec<String>,
    /// From the connect to the end of the answer, the longest.
    pub slowest: Duration,
}

impl Probed {
    /// What went wrong, in words.
    pub fn failures(&self) -> impl Iterator<Item = &String> {
        self.refused.iter().chain(&self.cut)
    }
}

/// Connects at a fixed rate until it is [ended](Prober::end), or dropped.
pub struct Prober {
    stop: watch::Sender<bool>,
    task: JoinHandle<Probed>,
}

impl Prober {
    /// Every `interval` a connection that makes a handshake and asks for what needs no S3.
    pub fn start(load: Load, every: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(probe(Arc::new(load), every, stopped)) }
    }

    /// Waits for the connections under way.
    pub async fn end(self) -> Result<Probed, String> {
        let _ = self.stop.send(true);
        self.task.await.map_err(|error| format!("the prober: {error}"))
    }
}

async fn probe(load: Arc<Load>, every: Duration, stopped: watch::Receiver<bool>) -> Probed {
    let (mut probed, mut under_way) = (Probed::default(), JoinSet::new());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !*stopped.borrow() {
        ticks.tick().await;
        probed.connections += 1;
        under_way.spawn(once(Arc::clone(&load)));
        while let Some(outcome) = under_way.try_join_next() {
            probed.note(outcome.map_err(|error| Failure::Cut(error.to_string())).flatten());
        }
    }
    while let Some(outcome) = under_way.join_next().await {
        probed.note(outcome.map_err(|error| Failure::Cut(error.to_string())).flatten());
    }
    probed
}

enum Failure {
    Refused(String),
    Cut(String),
}

impl Probed {
    fn note(&mut self, outcome: Result<Duration, Failure>) {
        match outcome {
            Ok(took) => self.slowest = self.slowest.max(took),
            Err(Failure::Refused(why)) => self.refused.push(why),
            Err(Failure::Cut(why)) => self.cut.push(why),
        }
    }
}

/// One connection: a handshake, and a request whose answer is 404, in two pieces, since a head may be
/// under way at any time.
async fn once(load: Arc<Load>) -> Result<Duration, Failure> {
    let start = Instant::now();
    let connected = timeout(PATIENCE, client::tcp(&load)).await;
    let tcp = connected.unwrap_or_else(|_| Err("no answer to the connect".to_owned()));
    let tcp = tcp.map_err(Failure::Refused)?;
    let ask = async {
        let mut stream = client::handshake(&load, tcp).await?;
        let answer = ask(&mut stream).await.map_err(|error| format!("no answer: {error}"))?;
        if answer.starts_with(b"HTTP/1.1 404 ") {
            return Ok(start.elapsed());
        }
        Err(format!("unexpected: {}", client::first_line(&answer)))
    };
    let asked = timeout(PATIENCE, ask).await;
    asked.unwrap_or_else(|_| Err(format!("silent for {PATIENCE:?}"))).map_err(Failure::Cut)
}

async fn ask(stream: &mut SslStream<Tap>) -> std::io::Result<Vec<u8>> {
    let mut stream = Pin::new(stream);
    stream.write_all(b"GET /elsewhere HTTP/1.1\r\n").await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    stream.write_all(b"Host: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}
