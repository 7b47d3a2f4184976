//! The stream over an in-memory pipe and a simulated clock.

#![expect(clippy::disallowed_methods, reason = "tests measure time")]

mod promised;

use super::waits::EPOCH;
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n";
const WAIT: Duration = Duration::from_millis(500);

fn paced(capacity: usize) -> (PacedStream, DuplexStream) {
    let (near, far) = duplex(capacity);
    (PacedStream::new(Box::new(near)), far)
}

/// Arms with a record size in bytes, and returns what counts the records.
fn arm(stream: &PacedStream, chunk: usize, wait: Duration, length: Option<u64>) -> Arc<Progress> {
    let progress = progress();
    let pace = Pace { chunk, record: chunk, wait };
    stream.arm(pace, length, Arc::clone(&progress), Feed::Free);
    progress
}

fn progress() -> Arc<Progress> {
    let counter = || prometheus::IntCounter::new("name", "help").unwrap();
    Arc::new(Progress::new(counter(), counter()))
}

/// Reads what arrives until `total` bytes have, with the time of each arrival.
async fn arrivals(far: &mut DuplexStream, total: usize) -> Vec<(Duration, usize)> {
    let start = Instant::now();
    let (mut seen, mut got) = (Vec::new(), 0);
    while got < total {
        let mut buf = vec![0; 65_536];
        let n = far.read(&mut buf).await.unwrap();
        assert!(n > 0, "closed after {got} of {total}");
        got += n;
        seen.push((start.elapsed(), n));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn pieces_of_any_size_leave_as_whole_records_on_the_grid() {
    let (mut stream, mut far) = paced(1 << 20);
    let body: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
    let reader = tokio::spawn(async move {
        let seen = arrivals(&mut far, HEAD.len() + 10_000).await;
        (seen, far)
    });
    let progress = arm(&stream, 4096, WAIT, Some(10_000));
    let mut all = HEAD.to_vec();
    all.extend_from_slice(&body[..3]); // the first body bytes may come in the head's buffer
    stream.write_all(&all).await.unwrap();
    tokio::task::yield_now().await; // the head is read before a record comes
    let mut rest = &body[3..];
    for size in [1, 17, 5000, 100, 4000, 10_000] {
        let n = size.min(rest.len());
        stream.write_all(&rest[..n]).await.unwrap();
        rest = &rest[n..];
    }
    let (seen, _far) = reader.await.unwrap();
    let sizes: Vec<_> = seen.iter().map(|s| s.1).collect();
    assert_eq!(sizes, [HEAD.len(), 4096, 4096, 1808]);
    // tokio's timer rounds up to the millisecond
    let times: Vec<_> = seen.iter().map(|s| s.0.as_millis()).collect();
    assert!(times[0] == 0 && times[1] <= 26, "{times:?}");
    let gaps = [times[2] - times[1], times[3] - times[2]];
    assert!(gaps.iter().all(|gap| (498..=502).contains(gap)), "{times:?}");
    let sent = (progress.bytes(), progress.records(), progress.last_record());
    assert_eq!(sent, (10_000, 3, 1808));
}

#[tokio::test(start_paused = true)]
async fn connections_that_began_at_any_time_are_served_together() {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (mut stream, far) = paced(1 << 20);
        writers.spawn(async move {
            arm(&stream, 64, WAIT, Some(1000));
            stream.write_all(HEAD).await.unwrap();
            stream.write_all(&[0; 64]).await.unwrap();
            let second = tokio::time::timeout(WAIT / 2, stream.write_all(&[0; 64]));
            second.await.unwrap_err();
            drop(far);
            stream.timer.unwrap().deadline()
        });
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    let due = writers.join_all().await;
    let grid = Duration::from_millis(25);
    for at in &due {
        let since = at.duration_since(*EPOCH).as_nanos();
        assert!(since.is_multiple_of(grid.as_nanos()), "{since} ns");
    }
    // They began within 10 ms, which may hold one common point.
    assert!(due.iter().collect::<std::collections::BTreeSet<_>>().len() <= 2, "{due:?}");
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_through_a_tight_pipe() {
    let (mut stream, mut far) = paced(100);
    let body: Vec<u8> = (0..20_000u32).map(|i| (i % 253) as u8).collect();
    let expected = body.clone();
    let reader = tokio::spawn(async move {
        let mut got = vec![0; HEAD.len() + 20_000];
        far.read_exact(&mut got).await.unwrap();
        got
    });
    let progress = arm(&stream, 999, Duration::ZERO, Some(20_000));
    stream.write_all(HEAD).await.unwrap();
    for piece in body.chunks(1234) {
        stream.write_all(piece).await.unwrap();
    }
    stream.flush().await.unwrap();
    assert_eq!(reader.await.unwrap()[HEAD.len()..], expected);
    assert_eq!(progress.records(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_second_response_waits_for_the_grid_of_the_first() {
    let (mut stream, mut far) = paced(1 << 20);
    let reader = tokio::spawn(async move { arrivals(&mut far, 2 * (HEAD.len() + 10)).await });
    for _ in 0..2 {
        arm(&stream, 4096, WAIT, Some(10));
        stream.write_all(HEAD).await.unwrap();
        stream.write_all(&[7; 10]).await.unwrap();
    }
    let seen = reader.await.unwrap();
    let last = seen.last().unwrap();
    assert_eq!(last.1, 10);
    assert!((500..=527).contains(&last.0.as_millis()), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_length_a_flush_ends_a_record() {
    let (mut stream, mut far) = paced(1 << 20);
    let progress = arm(&stream, 64, WAIT, None);
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&[1; 100]).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(progress.records(), 2);
    let seen = arrivals(&mut far, HEAD.len() + 100).await;
    assert_eq!(seen.iter().map(|s| s.1).sum::<usize>(), HEAD.len() + 100);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_noticed_while_a_record_waits() {
    let (mut stream, far) = paced(1 << 20);
    let progress = arm(&stream, 64, Duration::from_secs(3600), Some(1000));
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&[0; 64]).await.unwrap();
    let start = Instant::now();
    let write = tokio::spawn(async move { stream.write_all(&[0; 64]).await.unwrap_err().kind() });
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(far);
    assert_eq!(write.await.unwrap(), io::ErrorKind::BrokenPipe);
    assert!(progress.client_gone() && progress.records() == 1);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_valve_is_closed_while_a_record_waits_and_open_when_all_is_taken() {
    let (mut stream, _far) = paced(1 << 20);
    let valve = Arc::new(Valve::default());
    let open = || {
        let cx = Context::from_waker(std::task::Waker::noop());
        valve.poll_open(&cx).is_ready()
    };
    let pace = Pace { chunk: 64, record: 64, wait: WAIT };
    stream.arm(pace, Some(1000), progress(), Feed::Valve(Arc::clone(&valve)));
    stream.write_all(HEAD).await.unwrap();
    assert!(open(), "the head holds nothing back");
    let write = tokio::spawn(async move {
        stream.write_all(&[0; 128]).await.unwrap();
        stream
    });
    tokio::time::sleep(WAIT / 2).await;
    assert!(!open(), "the second record waits");
    let _stream = write.await.unwrap();
    assert!(open(), "nothing waits any more");
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_kept_for_the_reader() {
    let (mut stream, mut far) = paced(1 << 20);
    far.write_all(b"GET /2 HTTP/1.1\r\n\r\n").await.unwrap();
    arm(&stream, 64, WAIT, Some(128));
    stream.write_all(HEAD).await.unwrap();
    stream.write_all(&[0; 128]).await.unwrap();
    let mut next = [0; 19];
    stream.read_exact(&mut next).await.unwrap();
    assert_eq!(&next, b"GET /2 HTTP/1.1\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_armed_passes() {
    let (mut stream, mut far) = paced(1 << 20);
    stream.write_all(&[9; 50_000]).await.unwrap();
    assert_eq!(arrivals(&mut far, 50_000).await.len(), 1);
}
