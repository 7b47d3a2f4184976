//! A header is read to its end and not a byte further, and in the same way as when it is skipped.
#![no_main]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use dripline::proxy_protocol::{V1_MAX, V2_MAX, parse, read, skip};
use libfuzzer_sys::fuzz_target;

/// Reading from memory never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ready) => ready,
        Poll::Pending => unreachable!("memory is always ready"),
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = parse(data);
    let (mut after_read, mut after_skip) = (data, data);
    let read = now(read(&mut after_read));
    let skipped = now(skip(&mut after_skip));
    let taken = data.len() - after_read.len();
    assert!(taken <= V1_MAX.max(16 + V2_MAX));
    if let Ok(client) = read {
        assert_eq!(parse(&data[..taken]).ok(), Some(client));
        assert_eq!(skipped.ok(), Some(Vec::new()));
        assert_eq!(after_read, after_skip);
    } else if let Ok(unread) = skipped {
        assert_eq!([&unread, after_skip].concat(), data);
    }
});
