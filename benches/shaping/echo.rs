//! Round trip times on the line: a few bytes there and back, as a separate packet or on a connection of
//! the regular class, like interactive traffic.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::flows::{self, Route};
use super::line::{HOUSE, INTERNET};
use super::place::Place;

/// The far end's port for packets.
const PACKETS: SocketAddr = SocketAddr::new(IpAddr::V4(INTERNET), 7);
/// Time between two echoes.
const BEAT: Duration = Duration::from_millis(20);
/// An echo that takes longer is lost.
const LOST: Duration = Duration::from_secs(3);

/// A few bytes there and back, fifty times a second.
pub struct Echo {
    beats: Arc<Beats>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was sent, by number, and how long it took.
#[derive(Default)]
struct Beats(Mutex<Vec<Beat>>);

#[derive(Clone, Copy)]
struct Beat {
    sent: Instant,
    took: Option<Duration>,
}

/// How long the line took in a phase.
#[derive(Clone, Copy, Default)]
pub struct RoundTrips {
    /// How many came back.
    pub count: usize,
    /// How many did not.
    pub lost: usize,
    /// The median.
    pub p50: Duration,
    /// The 95th percentile.
    pub p95: Duration,
}

impl Echo {
    /// Packets from the house to the far end, past any forward proxy.
    pub async fn packets(house: &Place, internet: &Place) -> Result<Self, String> {
        let bound = |error: std::io::Error| format!("no echo: {error}");
        let far = internet.run(UdpSocket::bind(PACKETS)).await.map_err(bound)?;
        let near = house.run(UdpSocket::bind((HOUSE, 0))).await.map_err(bound)?;
        let (near, beats) = (Arc::new(near), Arc::new(Beats::default()));
        let (asking, asked, answered) = (Arc::clone(&near), Arc::clone(&beats), Arc::clone(&beats));
        let tasks = vec![
            internet.spawn(async move {
                let mut packet = [0; 64];
                while let Ok((length, from)) = far.recv_from(&mut packet).await {
                    let _ = far.send_to(&packet[..length], from).await;
                }
            }),
            house.spawn(async move {
                let mut beat = tokio::time::interval(BEAT);
                loop {
                    beat.tick().await;
                    let _ = asking.send_to(&asked.next(), PACKETS).await;
                }
            }),
            house.spawn(async move {
                let mut packet = [0; 8];
                while near.recv(&mut packet).await.is_ok() {
                    answered.back(packet);
                }
            }),
        ];
        Ok(Self { beats, tasks })
    }

    /// Bytes on a connection by this route, to a port of the far end that sends them back.
    pub async fn connection(house: &Place, route: Route) -> Result<Self, String> {
        let stream = flows::hold(house, route, 0).await.map_err(|error| error.to_string())??;
        let (mut near, mut far) = tokio::io::split(stream);
        let beats = Arc::new(Beats::default());
        let (asked, answered) = (Arc::clone(&beats), Arc::clone(&beats));
        let tasks = vec![
            house.spawn(async move {
                let mut beat = tokio::time::interval(BEAT);
                loop {
                    beat.tick().await;
                    if far.write_all(&asked.next()).await.is_err() {
                        return;
                    }
                }
            }),
            house.spawn(async move {
                let mut bytes = [0; 8];
                while near.read_exact(&mut bytes).await.is_ok() {
                    answered.back(bytes);
                }
            }),
        ];
        Ok(Self { beats, tasks })
    }

    /// What was sent in these times; waits until it is back or lost.
    pub async fn within(&self, times: &[Range<Instant>]) -> RoundTrips {
        let deadline = Instant::now() + LOST;
        loop {
            let beats = self.beats.within(times);
            if beats.iter().all(|beat| beat.took.is_some()) || Instant::now() > deadline {
                return RoundTrips::of(&beats);
            }
            tokio::time::sleep(BEAT).await;
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Beats {
    /// What to send now.
    fn next(&self) -> [u8; 8] {
        let mut beats = self.0.lock().expect("no holder panics");
        beats.push(Beat { sent: Instant::now(), took: None });
        (beats.len() as u64 - 1).to_be_bytes()
    }

    /// It is back.
    fn back(&self, number: [u8; 8]) {
        let mut beats = self.0.lock().expect("no holder panics");
        if let Some(beat) = beats.get_mut(u64::from_be_bytes(number) as usize) {
            beat.took.get_or_insert(beat.sent.elapsed());
        }
    }

    fn within(&self, times: &[Range<Instant>]) -> Vec<Beat> {
        let beats = self.0.lock().expect("no holder panics");
        let within = |beat: &&Beat| times.iter().any(|time| time.contains(&beat.sent));
        beats.iter().filter(within).copied().collect()
    }
}

impl RoundTrips {
    fn of(beats: &[Beat]) -> Self {
        let mut took: Vec<Duration> = beats.iter().filter_map(|beat| beat.took).collect();
        took.sort_unstable();
        let last = took.len().saturating_sub(1) as f64;
        let at = |share: f64| took.get((last * share).round() as usize).copied();
        Self {
            count: took.len(),
            lost: beats.len() - took.len(),
            p50: at(0.5).unwrap_or_default(),
            p95: at(0.95).unwrap_or_default(),
        }
    }
}
