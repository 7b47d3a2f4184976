//! The devices: every drip is a TLS connection of its own that asks for an object, checks each
//! record and each byte, and notes when the record's header came off the socket. What they note is
//! counted, not kept, so that ten thousand of them need little memory. It must not know what
//! answers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use openssl::ssl::SslConnector;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_openssl::SslStream;

use super::histograms::Histograms;
use super::lab::Object;
use super::tap::Tap;

/// A plaintext record's largest size (RFC 8446 §5.1): one read of so much returns one whole record.
const RECORD: usize = 16_384;
/// A response head longer than this is no head.
const HEAD: usize = 16_384;
/// The golden ratio's fraction: multiples of it, without their whole part, spread evenly.
const GOLDEN: f64 = 0.618_033_988_75;

thread_local! {
    /// Where a record is decrypted and checked: nothing of it is kept, so a thread's drips share it.
    static PLAINTEXT: RefCell<Vec<u8>> = RefCell::new(vec![0; RECORD]);
}

/// What every device requests, and from which proxy.
#[derive(Clone)]
pub struct Load {
    /// The proxy.
    pub addr: SocketAddr,
    /// The devices' side of TLS.
    pub tls: SslConnector,
    /// What is asked for: by drip 0 the first, by drip 1 the second, and so on around.
    pub objects: Vec<Object>,
    /// Plaintext bytes of a body record.
    pub chunk: usize,
    /// Time between two body records.
    pub wait: Duration,
    /// A drip that is silent for so long has failed.
    pub stall: Duration,
}

/// One drip, as its device saw it.
#[derive(Default)]
pub struct Seen {
    /// Body records in all, before the observation too.
    pub records: u64,
    /// Of those, records of another size than the chunk, or shared with the response head.
    pub odd_records: u64,
    /// Plaintext bytes of the largest record.
    pub largest: usize,
    /// When the observation's first body record came.
    pub first: Option<Instant>,
    /// When its last one came.
    pub last: Option<Instant>,
    /// Body bytes that came after `first`, up to `last`.
    pub bytes: u64,
    /// Why it broke, if it did.
    pub failure: Option<String>,
}

/// Every drip of a run, and how late the devices themselves were.
pub struct FleetSeen {
    /// One for each drip.
    pub drips: Vec<Seen>,
    /// The gaps between the records of a drip, of all drips.
    pub gaps: Histograms,
    /// When the observation ended.
    pub until: Instant,
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
    gaps: Mutex<Histograms>,
}

/// A body record, or a response head that shares one with the first of the body.
pub struct Record {
    /// When its header came off the socket.
    pub at: Instant,
    /// All its bytes.
    pub plaintext: usize,
    /// Those of the body.
    pub body: usize,
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
        let gaps = Mutex::new(Histograms::new(load.wait));
        let (settled, observed_from) = (AtomicUsize::new(0), OnceLock::new());
        let shared = Arc::new(Shared { load, settled, observed_from, gaps });
        let (stop, stopped) = watch::channel(false);
        let mut drips = JoinSet::new();
        let start = tokio::time::Instant::now();
        for number in 0..size {
            // Not quite evenly: else 100 a second would share 50 phases of a wait of 500 ms.
            let turn = number as f64 + (number as f64 * GOLDEN).fract();
            let at = start + Duration::from_secs_f64(turn / per_second as f64);
            let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
            drips.spawn(async move {
                tokio::time::sleep_until(at).await;
                drip(&shared, number, stopped).await
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
        let until = Instant::now();
        // Nobody listening means that every drip has ended already.
        let _ = self.stop.send(true);
        let broken =
            |error: JoinError| Seen { failure: Some(error.to_string()), ..Seen::default() };
        let mut drips = Vec::with_capacity(self.size);
        while let Some(seen) = self.drips.join_next().await {
            drips.push(seen.unwrap_or_else(broken));
        }
        let lags = self.probe.join_next().await.expect("one probe").expect("it does not panic");
        let mut gaps = self.shared.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let gaps = std::mem::replace(&mut *gaps, Histograms::new(self.shared.load.wait));
        FleetSeen { drips, gaps, until, lags }
    }
}

/// One short request, so that what a proxy sets up once is not counted as a drip's memory.
pub async fn warm_up(load: &Load) -> Result<(), String> {
    let ask = async {
        let mut stream = connect(load).await?;
        let object = &load.objects[0];
        send(&mut stream, object, "Range: bytes=0-99\r\nConnection: close\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(|error| format!("read: {error}"))?;
        let right = answer.starts_with(b"HTTP/1.1 206") && answer.ends_with(&object.body()[..100]);
        if right { Ok(()) } else { Err(format!("unexpected: {}", first_line(&answer))) }
    };
    let asked = timeout(load.stall, ask).await.unwrap_or_else(|_| Err("no answer".to_owned()));
    asked.map_err(|error| format!("the first request failed: {error}"))
}

async fn drip(shared: &Shared, number: usize, mut stopped: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen::default();
    let outcome = tokio::select! {
        outcome = follow(shared, number, &mut seen) => outcome,
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

/// Reads an object record by record. Returns only when something is wrong: the object is longer than
/// the run.
async fn follow(shared: &Shared, number: usize, seen: &mut Seen) -> Result<(), String> {
    let load = &shared.load;
    let object = &load.objects[number % load.objects.len()];
    let mut stream = timeout(load.stall, connect(load)).await.map_err(|_| "no connection")??;
    fetch(&mut stream, object, load.stall, |record| shared.note(seen, &record)).await?;
    Err("the whole object came within the run".to_owned())
}

impl Shared {
    fn note(&self, seen: &mut Seen, record: &Record) {
        if seen.records == 0 {
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
        seen.records += 1;
        seen.largest = seen.largest.max(record.plaintext);
        if (record.plaintext, record.body) != (self.load.chunk, self.load.chunk) {
            seen.odd_records += 1;
        }
        if self.observed_from.get().is_none_or(|from| record.at < *from) {
            return;
        }
        match seen.last {
            None => seen.first = Some(record.at),
            Some(last) => {
                seen.bytes += record.body as u64;
                let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
                gaps.note(record.at.saturating_duration_since(last));
            }
        }
        seen.last = Some(record.at);
    }
}

/// Asks for `object` and reads all of it. Every record with some of its body is noted, once its bytes
/// are known to be right. An error is what came instead, a wrong byte, or silence for `stall`.
pub async fn fetch(
    stream: &mut SslStream<Tap>,
    object: &Object,
    stall: Duration,
    mut note: impl FnMut(Record),
) -> Result<(), String> {
    timeout(stall, send(stream, object, "")).await.map_err(|_| "the request got stuck")??;
    let mut reading = Reading { object, head: Vec::new(), offset: None };
    while reading.offset != Some(object.body().len()) {
        let read = timeout(stall, next_record(stream, &mut reading)).await;
        let record = read.map_err(|_| format!("silent for {stall:?}"))??;
        if record.body > 0 {
            note(record);
        }
    }
    Ok(())
}

/// Reads and checks the next record. Its bytes are not kept.
async fn next_record(
    stream: &mut SslStream<Tap>,
    reading: &mut Reading<'_>,
) -> Result<Record, String> {
    poll_fn(|cx| {
        PLAINTEXT.with_borrow_mut(|plaintext| {
            let mut plaintext = ReadBuf::new(plaintext);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut plaintext));
            Poll::Ready(reading.accept(stream, read, plaintext.filled()))
        })
    })
    .await
}

/// How far a response has been read.
struct Reading<'a> {
    object: &'a Object,
    head: Vec<u8>,
    /// Body bytes so far, once the head is complete.
    offset: Option<usize>,
}

impl Reading<'_> {
    fn accept(
        &mut self,
        stream: &mut SslStream<Tap>,
        read: io::Result<()>,
        plaintext: &[u8],
    ) -> Result<Record, String> {
        read.map_err(|error| format!("read: {error}"))?;
        if plaintext.is_empty() {
            return Err(format!("closed after {} body bytes", self.offset.unwrap_or(0)));
        }
        let at = stream.get_mut().take(plaintext.len());
        let at = at.ok_or("a record is not as long as its plaintext")?;
        let object = self.object.body();
        let body = match self.offset {
            Some(_) => plaintext,
            None => match past_head(&mut self.head, plaintext, object.len())? {
                Some(body) => body,
                None => return Ok(Record { at, plaintext: plaintext.len(), body: 0 }),
            },
        };
        let from = self.offset.unwrap_or(0);
        self.head = Vec::new();
        self.offset = Some(from + body.len());
        if object.get(from..from + body.len()) != Some(body) {
            return Err(format!("wrong bytes at offset {from}"));
        }
        Ok(Record { at, plaintext: plaintext.len(), body: body.len() })
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

/// A TLS connection to the proxy.
pub async fn connect(load: &Load) -> Result<SslStream<Tap>, String> {
    handshake(load, tcp(load).await?).await
}

/// A connection to the proxy, without TLS yet.
pub async fn tcp(load: &Load) -> Result<TcpStream, String> {
    TcpStream::connect(load.addr).await.map_err(|error| format!("connect: {error}"))
}

/// Makes a TLS connection of it.
pub async fn handshake(load: &Load, tcp: TcpStream) -> Result<SslStream<Tap>, String> {
    let tls = load.tls.configure().and_then(|configuration| configuration.into_ssl("localhost"));
    let tls = tls.map_err(|error| format!("TLS: {error}"))?;
    let tap = Tap::new(tcp);
    let mut stream = SslStream::new(tls, tap).map_err(|error| format!("TLS: {error}"))?;
    Pin::new(&mut stream).connect().await.map_err(|error| format!("handshake: {error}"))?;
    Ok(stream)
}

/// Asks for an object, with these header lines.
pub async fn send(
    stream: &mut SslStream<Tap>,
    object: &Object,
    headers: &str,
) -> Result<(), String> {
    let target = &object.target;
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {error}"))
}

/// The first line of an answer, for messages.
pub fn first_line(answer: &[u8]) -> String {
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
