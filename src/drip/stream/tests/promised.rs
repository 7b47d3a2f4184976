//! Promised bodies, which a source has.

#![expect(clippy::disallowed_methods, reason = "tests measure time")]

use std::sync::atomic::{AtomicUsize, Ordering};

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use pingora_core::protocols::Shutdown;
use pingora_core::protocols::tls::SslStream;
use tokio::sync::watch;

use super::*;
use crate::drip::source::{Availability, Source, promise};
use crate::tls::identity::Identity;
use crate::tls::listener;
use crate::tls::record::ChunkSize;

/// Where the body begins in a [`Book`].
const START: u64 = 1000;

/// A source whose bytes depend on their offset. It counts its calls.
#[derive(Debug)]
struct Book {
    /// Of this many calls of `read_now`, only the first finds the bytes in memory; 1: all do; 0: none.
    warm: usize,
    /// So many bytes are there.
    printed: watch::Sender<u64>,
    fails_at: Option<u64>,
    starts: AtomicUsize,
    looks: AtomicUsize,
    reads: AtomicUsize,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            warm: 0,
            printed: watch::Sender::new(u64::MAX),
            fails_at: None,
            starts: AtomicUsize::default(),
            looks: AtomicUsize::default(),
            reads: AtomicUsize::default(),
        }
    }
}

impl Book {
    /// One of which `length` bytes of the body are there.
    fn begun(length: u64) -> Arc<Self> {
        Arc::new(Self { warm: 1, printed: watch::Sender::new(START + length), ..Self::default() })
    }

    fn new(warm: usize) -> Arc<Self> {
        Arc::new(Self { warm, ..Self::default() })
    }

    fn fill(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.fails_at.is_some_and(|at| offset + buf.len() as u64 > at) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, byte) in (offset..).zip(buf) {
            *byte = written(at);
        }
        Ok(())
    }

    fn counts(&self) -> (usize, usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (count(&self.starts), count(&self.looks), count(&self.reads))
    }
}

impl Source for Book {
    fn start(&self) -> u64 {
        self.starts.fetch_add(1, Ordering::Relaxed);
        START
    }

    fn availability(&self, end: u64) -> Option<Availability> {
        let mut printed = self.printed.subscribe();
        let there = move |printed: &u64| *printed >= end;
        if there(&self.printed.borrow()) {
            return None;
        }
        Some(Box::pin(async move {
            printed.wait_for(there).await.map(|_| ()).map_err(io::Error::other)
        }))
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        assert!(offset + buf.len() as u64 <= *self.printed.borrow(), "read before it is there");
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        if self.warm == 0 || !look.is_multiple_of(self.warm) {
            buf.fill(0xee);
            return Ok(false);
        }
        self.fill(offset, buf).map(|()| true)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.fill(offset, buf)
    }
}

/// The byte of every book at `offset`.
fn written(offset: u64) -> u8 {
    (offset % 251) as u8 + 1
}

/// The first `length` bytes of the body.
fn story(length: usize) -> Vec<u8> {
    (START..).take(length).map(written).collect()
}

fn arm(stream: &PacedStream, pace: Pace, length: usize, book: &Arc<Book>) -> Arc<Progress> {
    let progress = progress();
    let feed = Feed::Source(Arc::clone(book) as Arc<dyn Source>);
    stream.arm(pace, Some(length as u64), Arc::clone(&progress), feed);
    progress
}

fn pace(chunk: usize, wait: Duration) -> Pace {
    Pace { chunk, record: chunk, wait }
}

/// Reads all that is to come, with the time and the size of each arrival.
async fn all(mut far: DuplexStream, total: usize) -> (Vec<u8>, Vec<(Duration, usize)>) {
    let start = Instant::now();
    let (mut bytes, mut seen) = (Vec::new(), Vec::new());
    while bytes.len() < total {
        let before = bytes.len();
        bytes.reserve(1 << 17);
        assert!(far.read_buf(&mut bytes).await.unwrap() > 0, "closed after {before} of {total}");
        seen.push((start.elapsed(), bytes.len() - before));
    }
    (bytes, seen)
}

/// Promises the whole body, at once or in pieces.
async fn write_promises(stream: &mut PacedStream, length: usize, piece: usize) {
    let mut left = length;
    while left > 0 {
        let promise = promise(left.min(piece));
        stream.write_all(&promise).await.unwrap();
        left -= promise.len();
    }
    assert!(stream.is_dripping(), "the last piece is all that is left");
    stream.drip_out().await.unwrap();
    assert!(!stream.is_dripping());
}

/// Pieces of a promised body: all of it, a few records and a half, less than a record.
const PIECES: [usize; 3] = [usize::MAX, 7000, 999];

#[tokio::test(start_paused = true)]
async fn the_source_s_bytes_leave_on_the_grid_at_hand_or_not() {
    let kinds = [(1, (1, 4, 0)), (0, (1, 4, 4)), (2, (1, 4, 2))];
    for ((warm, counts), piece) in kinds.into_iter().flat_map(|k| PIECES.map(|p| (k, p))) {
        let (mut stream, far) = paced(1 << 20);
        let book = Book::new(warm);
        let reader = tokio::spawn(all(far, HEAD.len() + 10_000));
        let progress = arm(&stream, pace(3000, WAIT), 10_000, &book);
        stream.write_all(HEAD).await.unwrap();
        assert_eq!(book.counts(), (0, 0, 0), "nothing is read before its time");
        write_promises(&mut stream, 10_000, piece).await;
        let (bytes, seen) = reader.await.unwrap();
        assert!(bytes[HEAD.len()..] == story(10_000));
        let body: Vec<_> = seen.iter().filter(|s| s.1 != HEAD.len()).collect();
        let sizes: Vec<_> = seen.iter().map(|s| s.1).collect();
        assert_eq!(&sizes[sizes.len() - 3..], [3000, 3000, 1000]);
        for pair in body.windows(2) {
            let gap = (pair[1].0 - pair[0].0).as_millis();
            assert!((498..=502).contains(&gap), "{seen:?}");
        }
        assert_eq!(book.counts(), counts);
        assert_eq!((progress.bytes(), progress.records()), (10_000, 4));
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_waits_is_not_in_memory() {
    let (mut stream, far) = paced(1 << 20);
    let book = Book::new(1);
    let _progress = arm(&stream, pace(4096, WAIT), 20_000, &book);
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&promise(4096 + 100)).await.unwrap();
    // A record of two promises.
    let more = promise(5000);
    let write = tokio::time::timeout(WAIT / 2, stream.write(&more));
    write.await.unwrap_err();
    assert_eq!(book.counts().1, 1);
    assert_eq!(stream.pending.take_bytes().capacity(), 0);
    assert_eq!(stream.pending.len(), 4096);
    stream.write_all(&more).await.unwrap();
    stream.write_all(&promise(20_000 - 4096 - 100 - 5000)).await.unwrap();
    tokio::time::timeout(WAIT / 2, stream.drip_out()).await.unwrap_err();
    assert_eq!(stream.pending.take_bytes().capacity(), 0);
    assert_eq!(stream.pending.len(), 4096);
    stream.drip_out().await.unwrap();
    let (bytes, _) = all(far, HEAD.len() + 20_000).await;
    assert!(bytes[HEAD.len()..] == story(20_000));
    assert!(stream.timer.is_none() && stream.lock().source.is_none(), "all is let go of");
    assert_eq!(Arc::strong_count(&book), 1);
}

#[tokio::test(start_paused = true)]
async fn promises_and_ordinary_bytes_make_records_together() {
    for warm in [1, 0, 2] {
        let (mut stream, far) = paced(1 << 20);
        let book = Book::new(warm);
        let pieces: [(bool, usize); 9] = [
            (false, 30),
            (true, 250),
            (false, 45),
            (true, 5),
            (false, 1),
            (true, 3),
            (false, 170),
            (true, 400),
            (false, 100),
        ];
        let (mut expected, mut from_source) = (Vec::new(), 0);
        for (promised, n) in pieces {
            let source = story(from_source + n);
            expected.extend(if promised { source[from_source..].to_vec() } else { vec![0; n] });
            from_source += if promised { n } else { 0 };
        }
        let total = expected.len();
        let progress = arm(&stream, pace(100, WAIT), total, &book);
        let reader = tokio::spawn(all(far, HEAD.len() + total));
        stream.write_all(HEAD).await.unwrap();
        for (promised, n) in pieces {
            let piece = if promised { promise(n).to_owned() } else { vec![0; n].into() };
            stream.write_all(&piece).await.unwrap();
        }
        let (bytes, seen) = reader.await.unwrap();
        assert!(bytes[HEAD.len()..] == expected);
        assert_eq!(progress.records(), 11);
        assert!(seen.iter().rev().take(10).all(|s| s.1 == 100 || s.1 == 4), "{seen:?}");
        assert_eq!(book.counts().0, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_promise_without_a_source_is_an_error_and_nothing_is_sent() {
    let (mut stream, mut far) = paced(1 << 20);
    let unarmed = stream.write_all(&promise(64)).await.unwrap_err();
    let _progress = super::arm(&stream, 64, Duration::ZERO, Some(1000));
    let head = stream.write_all(&promise(64)).await.unwrap_err();
    stream.write_all(HEAD).await.unwrap();
    let body = stream.write_all(&promise(64)).await.unwrap_err();
    let short = stream.write_all(&promise(3)).await.unwrap_err();
    stream.flush().await.unwrap();
    for e in [unarmed, head, body, short] {
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
    }
    // A source that the last response had is not this one's.
    let _progress = arm(&stream, pace(64, Duration::ZERO), 64, &Book::new(1));
    stream.write_all(HEAD).await.unwrap();
    write_promises(&mut stream, 64, 64).await;
    stream.write_all(&promise(1)).await.unwrap_err();
    drop(stream);
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes == [HEAD, HEAD, &story(64)].concat());
}

#[tokio::test(start_paused = true)]
async fn a_full_socket_changes_no_byte_and_no_record() {
    for warm in [1, 0, 2, 3] {
        let sizes = [(999, 999), (400, 50), (16_384, 16_384)];
        for ((chunk, record), piece) in sizes.into_iter().flat_map(|s| PIECES.map(|p| (s, p))) {
            let (mut stream, far) = paced(70);
            let book = Book::new(warm);
            let pace = Pace { chunk, record, wait: Duration::ZERO };
            let progress = arm(&stream, pace, 20_000, &book);
            let reader = tokio::spawn(all(far, HEAD.len() + 20_000));
            stream.write_all(HEAD).await.unwrap();
            write_promises(&mut stream, 20_000, piece).await;
            let (bytes, _) = reader.await.unwrap();
            assert!(bytes[HEAD.len()..] == story(20_000));
            assert_eq!(progress.records(), 20_000_u64.div_ceil(record as u64));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_wait_each_record_is_one_read() {
    let (mut stream, far) = paced(1 << 20);
    let book = Book::new(1);
    let length = 200_010;
    let progress = arm(&stream, pace(5000, Duration::ZERO), length, &book);
    let start = Instant::now();
    stream.write_all(HEAD).await.unwrap();
    write_promises(&mut stream, length, 64 << 10).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let (bytes, _) = all(far, HEAD.len() + length).await;
    assert!(bytes[HEAD.len()..] == story(length));
    assert_eq!(book.counts(), (1, length.div_ceil(5000), 0));
    assert_eq!(progress.records(), length.div_ceil(5000) as u64);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_ends_the_write() {
    for (warm, length) in [(1, 500), (0, 500), (1, 1000), (0, 1000)] {
        let (mut stream, mut far) = paced(1 << 20);
        let book = Book { warm, fails_at: Some(START + 250), ..Book::default() };
        let progress = arm(&stream, pace(100, WAIT), 1000, &Arc::new(book));
        stream.write_all(HEAD).await.unwrap();
        let e = match length {
            1000 => {
                stream.write_all(&promise(1000)).await.unwrap();
                stream.drip_out().await.unwrap_err()
            }
            _ => stream.write_all(&promise(length)).await.unwrap_err(),
        };
        assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        assert!(!stream.is_dripping());
        AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        assert!(progress.source_failed() && !progress.client_gone());
        drop(stream);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        assert!(bytes == [HEAD, &story(200)].concat());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_noticed_while_a_promise_waits() {
    let (mut stream, far) = paced(1 << 20);
    let progress = arm(&stream, pace(64, Duration::from_secs(3600)), 1000, &Book::new(1));
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&promise(64)).await.unwrap();
    let write =
        tokio::spawn(async move { stream.write_all(&promise(64)).await.unwrap_err().kind() });
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(far);
    assert_eq!(write.await.unwrap(), io::ErrorKind::BrokenPipe);
    assert!(progress.client_gone() && !progress.source_failed());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_late_leave_when_they_are_there_and_the_pace_goes_on() {
    let (mut stream, far) = paced(1 << 20);
    let book = Book::begun(150);
    let progress = arm(&stream, pace(100, WAIT), 1000, &book);
    let reader = tokio::spawn(all(far, HEAD.len() + 1000));
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&promise(1000)).await.unwrap();
    let printer = Arc::clone(&book);
    let prints = tokio::spawn(async move {
        tokio::time::sleep(3 * WAIT).await;
        printer.printed.send_replace(START + 199);
        tokio::time::sleep(WAIT / 2).await;
        assert_eq!(printer.counts(), (1, 1, 0), "a record is read when all of it is there");
        printer.printed.send_replace(START + 1000);
    });
    stream.drip_out().await.unwrap();
    prints.await.unwrap();
    let (bytes, seen) = reader.await.unwrap();
    assert!(bytes[HEAD.len()..] == story(1000));
    assert_eq!(progress.records(), 10);
    let at: Vec<_> = seen.iter().filter(|s| s.1 == 100).map(|s| s.0).collect();
    assert!(at[1] >= 3 * WAIT + WAIT / 2 && at[1] < 4 * WAIT, "{at:?}");
    let gaps = at[2..].windows(2).map(|pair| (pair[1] - pair[0]).as_millis());
    assert!(gaps.clone().all(|gap| (498..=502).contains(&gap)), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_noticed_while_its_bytes_are_not_there() {
    let (mut stream, far) = paced(1 << 20);
    let book = Book::begun(99);
    let progress = arm(&stream, pace(100, WAIT), 1000, &book);
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&promise(1000)).await.unwrap();
    let rest = tokio::spawn(async move { stream.drip_out().await.unwrap_err().kind() });
    tokio::time::sleep(5 * WAIT).await;
    assert!(!rest.is_finished());
    drop(far);
    assert_eq!(rest.await.unwrap(), io::ErrorKind::BrokenPipe);
    assert!(progress.client_gone() && !progress.source_failed());
    assert_eq!((Arc::strong_count(&book), book.counts().1), (1, 0), "nobody reads it any more");
}

/// A full socket makes OpenSSL ask for the same bytes again, which by then are somewhere else.
#[tokio::test]
async fn a_full_tls_socket_takes_a_record_from_another_buffer() {
    const LENGTH: usize = 100_000;
    let (near, far) = duplex(1000);
    let client = tokio::spawn(async move {
        let connector = SslConnector::builder(SslMethod::tls_client()).unwrap().build();
        let mut ssl = connector.configure().unwrap().into_ssl("localhost").unwrap();
        ssl.set_verify(SslVerifyMode::NONE);
        let mut tls = tokio_openssl::SslStream::new(ssl, far).unwrap();
        Pin::new(&mut tls).connect().await.unwrap();
        let mut bytes = vec![0; HEAD.len() + LENGTH];
        tls.read_exact(&mut bytes).await.map(|_| bytes)
    });
    let identity = Arc::new(Identity::self_signed(&["localhost"]).unwrap());
    let cap = Arc::new(|_: listener::Client<'_>| ChunkSize::default());
    let settings = listener::Settings { cap, tickets: 0, mfl_prefers_tls12: true };
    let acceptor = listener::acceptor(&[identity], &settings).unwrap();
    let ssl = listener::connection(&acceptor, None).unwrap();
    let mut tls = SslStream::new(ssl, near).unwrap();
    tls.accept().await.unwrap();
    let mut stream = PacedStream::new(Box::new(tls));
    // The second look at a record, after the socket was full, finds nothing: then its bytes come
    // from a thread, in memory of their own.
    let book = Book::new(2);
    let progress = arm(&stream, pace(4096, Duration::ZERO), LENGTH, &book);
    stream.write_all(HEAD).await.unwrap();
    write_promises(&mut stream, LENGTH, 10_000).await;
    assert!(client.await.unwrap().unwrap()[HEAD.len()..] == story(LENGTH));
    let (begun, looks, reads) = book.counts();
    assert_eq!((progress.records(), begun, reads), (25, 1, 25));
    assert!(looks >= 50, "{looks} looks: before the socket was full and after it");
}

#[tokio::test(start_paused = true)]
async fn a_body_promised_whole_goes_before_whatever_the_stream_is_asked_next() {
    for ask in 0..4 {
        let (mut stream, mut far) = paced(1 << 20);
        let progress = arm(&stream, pace(100, WAIT), 1000, &Book::new(1));
        stream.write_all(HEAD).await.unwrap();
        let start = Instant::now();
        stream.write_all(&promise(1000)).await.unwrap();
        stream.flush().await.unwrap();
        assert!(start.elapsed() < WAIT && progress.records() == 0, "the caller may go at once");
        far.write_all(b"GET").await.unwrap();
        match ask {
            0 => stream.write_all(b"").await.unwrap(),
            1 => stream.write_all(b"next").await.unwrap(),
            2 => drop(stream.read(&mut [0; 10]).await.unwrap()),
            _ => Shutdown::shutdown(&mut stream).await,
        }
        assert_eq!(progress.records(), if ask == 0 { 0 } else { 10 });
        stream.drip_out().await.unwrap();
        drop(stream);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        let next: &[u8] = if ask == 1 { b"next" } else { b"" };
        assert!(bytes == [HEAD, &story(1000), next].concat());
    }
}

/// Records of a body without a pace, over TLS: each is one of its own for the client, and several leave
/// in one call.
#[tokio::test]
async fn without_a_wait_records_leave_together_and_stay_what_they_are() {
    use pingora_core::protocols::l4::stream::Stream as L4Stream;
    use tokio::net::{TcpListener, TcpStream};

    use crate::tls::combined::Combined;

    const LENGTH: usize = 300_010;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = tokio::spawn(async move {
        let connector = SslConnector::builder(SslMethod::tls_client()).unwrap().build();
        let mut ssl = connector.configure().unwrap().into_ssl("localhost").unwrap();
        ssl.set_verify(SslVerifyMode::NONE);
        let far = TcpStream::connect(address).await.unwrap();
        let mut tls = tokio_openssl::SslStream::new(ssl, far).unwrap();
        Pin::new(&mut tls).connect().await.unwrap();
        // One read of OpenSSL returns bytes of one record.
        let (mut bytes, mut records) = (vec![0; HEAD.len() + LENGTH], Vec::new());
        let mut at = 0;
        while at < bytes.len() {
            let read = tls.read(&mut bytes[at..]).await.unwrap();
            at += read;
            records.push(read);
        }
        (bytes, records)
    });
    let identity = Arc::new(Identity::self_signed(&["localhost"]).unwrap());
    let cap = Arc::new(|_: listener::Client<'_>| ChunkSize::default());
    let settings = listener::Settings { cap, tickets: 0, mfl_prefers_tls12: true };
    let acceptor = listener::acceptor(&[identity], &settings).unwrap();
    let ssl = listener::connection(&acceptor, None).unwrap();
    let near = L4Stream::from(listener.accept().await.unwrap().0);
    let mut tls = SslStream::new(ssl, Combined::new(near)).unwrap();
    tls.accept().await.unwrap();
    let mut stream = PacedStream::new(Box::new(tls));
    let book = Book::new(1);
    let progress = arm(&stream, pace(4096, Duration::ZERO), LENGTH, &book);
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&promise(LENGTH)).await.unwrap();
    stream.drip_out().await.unwrap();
    let (bytes, records) = client.await.unwrap();
    assert!(bytes[HEAD.len()..] == story(LENGTH));
    let mut expected = vec![HEAD.len()];
    expected.extend([4096].repeat(LENGTH / 4096));
    expected.push(LENGTH % 4096);
    assert_eq!(records, expected);
    assert_eq!(progress.records(), LENGTH.div_ceil(4096) as u64);
    let (_, looks, reads) = book.counts();
    assert!(
        looks < expected.len() / 4 && reads == 0,
        "{looks} reads for {} records",
        records.len()
    );
}
