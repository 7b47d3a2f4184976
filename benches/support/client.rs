//! The devices: every drip is a TLS connection of its own that asks for the object, checks each
//! record and each byte, and notes when the record's header came off the socket. It must not know
//! what answers.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use openssl::ssl::SslConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_openssl::SslStream;

use super::lab::KEY;
use super::tap::Tap;

/// A plaintext record's largest size (RFC 8446 §5.1): one read of so much returns one whole record.
const RECORD: usize = 16_384;
/// A response head longer than this is no head.
const HEAD: usize = 16_384;

/// What every device asks for, and of whom.
pub struct Load {
    /// The proxy.
    pub addr: SocketAddr,
    /// The devices' side of TLS.
    pub tls: SslConnector,
    /// What must come back.
    pub object: Arc<[u8]>,
    /// Plaintext bytes of a body record.
    pub chunk: usize,
    /// A drip that is silent for so long has failed.
    pub stall: Duration,
}

/// One drip, as its device saw it.
#[derive(Default)]
pub struct Seen {
    /// Arrivals of body records within the observation, in order.
    pub arrivals: Vec<Instant>,
    /// Body records in all, before the observation too.
    pub records: u64,
    /// Of those, records of another size than the chunk, or shared with the response head.
    pub odd_records: u64,
    /// Why it broke, if it did.
    pub failure: Option<String>,
}

/// Every drip of a run, and how late the devices themselves were.
pub struct FleetSeen {
    /// One for each drip.
    pub drips: Vec<Seen>,
    /// How late the devices' own runtime woke up, sampled every 10 ms of the observation: the part
    /// of a gap's deviation that says nothing of the proxy.
    pub lags: Vec<Duration>,
}

/// What a run's drips share.
struct Shared {
    load: Load,
    /// Drips that got their first body record, or failed.
    settled: AtomicUsize,
    observed_from: OnceLock<Instant>,
}

/// The devices of a run. They end when this is dropped.
pub struct Fleet {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    drips: JoinSet<Seen>,
    probe: JoinSet<Vec<Duration>>,
    size: usize,
}

impl Fleet {
    /// Starts `size` drips, `per_second` of them each second.
    pub fn launch(load: Load, size: usize, per_second: u64) -> Self {
        let shared =
            Arc::new(Shared { load, settled: AtomicUsize::new(0), observed_from: OnceLock::new() });
        let (stop, stopped) = watch::channel(false);
        let mut drips = JoinSet::new();
        let start = tokio::time::Instant::now();
        for number in 0..size {
            let at = start + Duration::from_secs_f64(number as f64 / per_second as f64);
            let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
            drips.spawn(async move {
                tokio::time::sleep_until(at).await;
                drip(&shared, stopped).await
            });
        }
        let mut probe = JoinSet::new();
        probe.spawn(lags(Arc::clone(&shared), stopped));
        Self { shared, stop, drips, probe, size }
    }

    /// Waits until every drip has its first body record or has failed, for `within` at most.
    pub async fn ramped(&mut self, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if self.shared.settled.load(Ordering::Relaxed) == self.size {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let settled = self.shared.settled.load(Ordering::Relaxed);
        Err(format!("{settled} of {} drips had begun after {} s", self.size, within.as_secs()))
    }

    /// From now on, arrivals count.
    pub fn observe(&self) {
        self.shared.observed_from.get_or_init(Instant::now);
    }

    /// Closes every connection, the way a device that lost its power does.
    pub async fn stop(mut self) -> FleetSeen {
        // Nobody listening means that every drip has ended already.
        let _ = self.stop.send(true);
        let mut drips = Vec::with_capacity(self.size);
        while let Some(seen) = self.drips.join_next().await {
            drips.push(seen.unwrap_or_else(|error| Seen {
                failure: Some(error.to_string()),
                ..Seen::default()
            }));
        }
        let lags = self.probe.join_next().await.and_then(Result::ok).unwrap_or_default();
        FleetSeen { drips, lags }
    }
}

/// One short request, so that what a proxy sets up once is not counted as a drip's memory.
pub async fn warm_up(load: &Load) -> Result<(), String> {
    let ask = async {
        let mut stream = connect(load).await?;
        send(&mut stream, "Range: bytes=0-99\r\nConnection: close\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(|error| format!("read: {error}"))?;
        let right = answer.starts_with(b"HTTP/1.1 206") && answer.ends_with(&load.object[..100]);
        if right { Ok(()) } else { Err(format!("unexpected: {}", first_line(&answer))) }
    };
    let asked = timeout(load.stall, ask).await.unwrap_or_else(|_| Err("no answer".to_owned()));
    asked.map_err(|error| format!("the first request failed: {error}"))
}

async fn drip(shared: &Shared, mut stopped: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen::default();
    let outcome = tokio::select! {
        outcome = follow(shared, &mut seen) => outcome,
        _ = stopped.wait_for(|stop| *stop) => Ok(()),
    };
    if let Err(failure) = outcome {
        if seen.records == 0 {
            shared.settled.fetch_add(1, Ordering::Relaxed);
        }
        seen.failure = Some(failure);
    }
    seen
}

/// Reads the object record by record. Returns only when something is wrong: the object is longer
/// than the run.
async fn follow(shared: &Shared, seen: &mut Seen) -> Result<(), String> {
    let load = &shared.load;
    let begun = timeout(load.stall, async {
        let mut stream = connect(load).await?;
        send(&mut stream, "").await?;
        Ok::<_, String>(stream)
    });
    let mut stream = begun.await.map_err(|_| "no connection in time")??;
    let mut buffer = vec![0; RECORD];
    let mut head = Vec::new();
    let mut offset = None; // known once the head is read
    loop {
        let read = timeout(load.stall, stream.read(&mut buffer)).await;
        let read = read
            .map_err(|_| format!("silent for {:?}", load.stall))?
            .map_err(|error| format!("read: {error}"))?;
        if read == 0 {
            return Err(format!("closed after {} body bytes", offset.unwrap_or(0)));
        }
        let arrived =
            stream.get_mut().take(read).ok_or("a record is not as long as its plaintext")?;
        let body = match offset {
            Some(_) => &buffer[..read],
            None => match past_head(&mut head, &buffer[..read], load.object.len())? {
                Some(body) => body,
                None => continue,
            },
        };
        let from = offset.unwrap_or(0);
        offset = Some(from + body.len());
        if body.is_empty() {
            continue; // the head had a record of its own
        }
        if load.object.get(from..from + body.len()) != Some(body) {
            return Err(format!("wrong bytes at offset {from}"));
        }
        if (read, body.len()) != (load.chunk, load.chunk) {
            seen.odd_records += 1;
        }
        if seen.records == 0 {
            shared.settled.fetch_add(1, Ordering::Relaxed);
        }
        seen.records += 1;
        if shared.observed_from.get().is_some_and(|from| arrived >= *from) {
            seen.arrivals.push(arrived);
        }
        if from + body.len() == load.object.len() {
            return Err("the whole object came within the run".to_owned());
        }
    }
}

/// Adds `bytes` to the head. Once it is complete and says what it should, the rest is body.
fn past_head<'a>(
    head: &mut Vec<u8>,
    bytes: &'a [u8],
    size: usize,
) -> Result<Option<&'a [u8]>, String> {
    let before = head.len();
    head.extend_from_slice(bytes);
    let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
    else {
        return if head.len() > HEAD {
            Err("the response head does not end".to_owned())
        } else {
            Ok(None)
        };
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200")
        || !text.contains(&format!("\r\ncontent-length: {size}\r\n"))
    {
        return Err(format!("unexpected answer: {}", text.trim_end().replace("\r\n", " | ")));
    }
    Ok(Some(&bytes[end - before..]))
}

async fn connect(load: &Load) -> Result<SslStream<Tap>, String> {
    let tcp = TcpStream::connect(load.addr).await.map_err(|error| format!("connect: {error}"))?;
    let tls = load.tls.configure().and_then(|configuration| configuration.into_ssl("localhost"));
    let tls = tls.map_err(|error| format!("TLS: {error}"))?;
    let tap = Tap::new(tcp);
    let mut stream = SslStream::new(tls, tap).map_err(|error| format!("TLS: {error}"))?;
    Pin::new(&mut stream).connect().await.map_err(|error| format!("handshake: {error}"))?;
    Ok(stream)
}

async fn send(stream: &mut SslStream<Tap>, headers: &str) -> Result<(), String> {
    let request = format!("GET /file/{KEY} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {error}"))
}

fn first_line(answer: &[u8]) -> String {
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}

/// Sleeps 10 ms again and again, and says by how much each sleep was too long.
async fn lags(shared: Arc<Shared>, stopped: watch::Receiver<bool>) -> Vec<Duration> {
    let nap = Duration::from_millis(10);
    let mut lags = Vec::new();
    while !*stopped.borrow() {
        let start = Instant::now();
        tokio::time::sleep(nap).await;
        if shared.observed_from.get().is_some() {
            lags.push(start.elapsed().saturating_sub(nap));
        }
    }
    lags
}
