//! What came through the bottleneck, packet by packet, and what that says: rates as they were on the
//! wire, and when a rate had changed. It must not know who shapes.

use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Rates are judged over windows of this length.
pub const WINDOW: Duration = Duration::from_millis(50);
/// The windows begin this far apart.
const STEP: Duration = Duration::from_millis(5);
/// A rate that has changed stays so: over this many windows in a row. A lull of one window is no
/// change.
const STAYS: u32 = 4;

/// A TCP packet from the house.
#[derive(Clone, Copy)]
struct Packet {
    at: Instant,
    /// Where it goes.
    port: u16,
    /// Bytes with the Ethernet header.
    wire: usize,
    /// Bytes of TCP's own payload.
    payload: usize,
}

/// All packets, in the order of their coming.
#[derive(Default)]
pub struct Passed {
    packets: Mutex<Vec<Packet>>,
    late: Mutex<Vec<Duration>>,
}

impl Passed {
    /// Notes a frame, if it is TCP over IPv4.
    pub fn note(&self, at: Instant, frame: &[u8]) {
        if let Some((port, payload)) = tcp(frame) {
            let packet = Packet { at, port, wire: frame.len(), payload };
            self.packets.lock().expect("no holder panics").push(packet);
        }
    }

    /// Notes how late a frame was handed on.
    pub fn late(&self, by: Duration) {
        self.late.lock().expect("no holder panics").push(by);
    }

    /// How late frames were handed on: the share given of them was less late.
    pub fn lateness(&self, share: f64) -> Duration {
        let mut late = self.late.lock().expect("no holder panics").clone();
        late.sort_unstable();
        let last = late.len().saturating_sub(1);
        late.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }

    /// Bits per second on the wire, headers included, towards `port`: the mean of these times.
    pub fn rate(&self, port: u16, times: &[Range<Instant>]) -> f64 {
        let packets = self.packets.lock().expect("no holder panics");
        let rates = times.iter().map(|time| rate(&packets, port, time.start, time.end));
        rates.sum::<f64>() / times.len() as f64
    }

    /// When the last payload towards `port` came, if any did since `since`.
    pub fn last(&self, port: u16, since: Instant) -> Option<Instant> {
        let packets = self.packets.lock().expect("no holder panics");
        let mut sent = packets.iter().rev().take_while(|packet| packet.at >= since);
        sent.find(|packet| packet.port == port && packet.payload > 0).map(|packet| packet.at)
    }

    /// How long after `since` a window first ended whose rate was as wanted, and those after it too.
    /// None: not by `until`.
    pub fn changed(
        &self,
        port: u16,
        since: Instant,
        until: Instant,
        wanted: impl Fn(f64) -> bool,
    ) -> Option<Duration> {
        let packets = self.packets.lock().expect("no holder panics");
        let mut from = since;
        while from + WINDOW * STAYS <= until {
            let now = rate(&packets, port, from, from + WINDOW);
            let then = rate(&packets, port, from, from + WINDOW * STAYS);
            if wanted(now) && wanted(then) {
                return Some(from + WINDOW - since);
            }
            from += STEP;
        }
        None
    }

    /// Forgets all packets, so that the next phase looks at its own.
    pub fn forget(&self) {
        self.packets.lock().expect("no holder panics").clear();
    }
}

fn rate(packets: &[Packet], port: u16, from: Instant, to: Instant) -> f64 {
    let first = packets.partition_point(|packet| packet.at < from);
    let last = packets.partition_point(|packet| packet.at < to);
    let towards = packets[first..last.max(first)].iter().filter(|packet| packet.port == port);
    let bytes: usize = towards.map(|packet| packet.wire).sum();
    8.0 * bytes as f64 / (to - from).as_secs_f64()
}

/// Destination port and payload bytes of a TCP packet in an Ethernet frame.
fn tcp(frame: &[u8]) -> Option<(u16, usize)> {
    const ETHERNET: usize = 14;
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let ip = ETHERNET;
    if word(12)? != 0x0800 || *frame.get(ip + 9)? != 6 {
        return None;
    }
    let tcp = ip + usize::from(frame[ip] & 0x0f) * 4;
    let data = tcp + usize::from(*frame.get(tcp + 12)? >> 4) * 4;
    // The packet's own length: a short one may be padded.
    let end = ip + usize::from(word(ip + 2)?);
    Some((word(tcp + 2)?, end.saturating_sub(data)))
}
