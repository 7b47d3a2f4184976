//! The distance to S3: two Ethernet devices of two namespaces, joined by a thread that hands each
//! frame on a fixed time after it came. The kernels that this runs on have no netem. What leaves
//! towards the far end is noted in [`Passed`] as it comes, and so is how late the thread was.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::passed::Passed;

/// An Ethernet frame without its checksum: 1,500 bytes of IP and what a VLAN could add.
const FRAME: usize = 1518;
/// Frames on their way in one direction. A tenth of this is 20 Mbit/s for 10 ms.
const ON_THE_WAY: usize = 10_000;
/// The thread looks this often whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// The near end or the far one: makes the Ethernet device `name` in the caller's namespace. It is gone
/// when its file is closed.
pub fn device(name: &str) -> Result<File, String> {
    let open = || -> std::io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = options.open("/dev/net/tun")?;
        // SAFETY: all-zero bytes are a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(file)
    };
    open().map_err(|error| format!("no TAP device {name}: {error}"))
}

/// The thread between two devices. It ends with its value.
pub struct Delay {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Delay {
    /// Joins two devices. What comes out of `near` is noted in `passed`.
    pub fn start(
        near: File,
        far: File,
        each_way: Duration,
        passed: Arc<Passed>,
    ) -> Result<Self, String> {
        let end = Arc::new(AtomicBool::new(false));
        let mut line = Line {
            devices: [near, far],
            on_the_way: Default::default(),
            each_way,
            passed,
            frame: [0; FRAME],
        };
        let ended = Arc::clone(&end);
        let carry = move || {
            be_punctual();
            while !ended.load(Ordering::Relaxed) {
                line.turn();
            }
        };
        let thread = thread::Builder::new().name("delay".to_owned()).spawn(carry);
        let thread = thread.map_err(|error| format!("no thread: {error}"))?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Frames in both directions; `on_the_way[0]` are those from the near device to the far one.
struct Line {
    devices: [File; 2],
    on_the_way: [VecDeque<(Instant, Vec<u8>)>; 2],
    each_way: Duration,
    passed: Arc<Passed>,
    frame: [u8; FRAME],
}

impl Line {
    /// Waits for a frame or for one to be due, and does what is to be done.
    fn turn(&mut self) {
        self.wait();
        for side in 0..2 {
            self.take(side);
        }
        let now = Instant::now();
        for side in 0..2 {
            while let Some((due, _)) = self.on_the_way[side].front()
                && *due <= now
                && let Some((due, frame)) = self.on_the_way[side].pop_front()
            {
                self.passed.late(now - due);
                // A device that is down or full drops it, as a link would.
                let _ = (&self.devices[1 - side]).write(&frame);
            }
        }
    }

    fn wait(&self) {
        let due = self.on_the_way.iter().filter_map(|frames| frames.front()).map(|(due, _)| *due);
        let now = Instant::now();
        let wait = due.min().map_or(LOOK, |due| due.saturating_duration_since(now).min(LOOK));
        let wait = libc::timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut polled = self.devices.each_ref().map(|device| libc::pollfd {
            fd: device.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: both structures live until the call returns, and there are two of the first. A
        // signal ends it early, which does no harm.
        unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &raw const wait, std::ptr::null()) };
    }

    /// Reads what one device has to send.
    fn take(&mut self, side: usize) {
        loop {
            match (&self.devices[side]).read(&mut self.frame) {
                Ok(length) => {
                    let (now, frame) = (Instant::now(), &self.frame[..length]);
                    if side == 0 {
                        self.passed.note(now, frame);
                    }
                    if self.on_the_way[side].len() < ON_THE_WAY {
                        self.on_the_way[side].push_back((now + self.each_way, frame.to_vec()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more for now; a device that is not up yet has nothing either.
                Err(_) => return,
            }
        }
    }
}

/// A thread that sleeps most of the time may go first when it wakes: what is late here would look
/// like the link's jitter. Without the right to ask for it, all goes on as it was.
fn be_punctual() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure lives until the call returns; 0 is this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
}
