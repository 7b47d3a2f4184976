//! What the kernel says of a program, with all its processes, and of its sockets. Nothing here knows
//! what the program does.
//!
//! A socket's memory is what the kernel charges it for: queued packets with their overhead, both
//! ways, and what it holds in reserve. The socket structures themselves (slab, about 5 KB each)
//! are not in it.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// The memory of a proxy's sockets, in bytes, on both legs.
#[derive(Clone, Copy, Default)]
pub struct Sockets {
    /// Connections from devices.
    pub device_count: usize,
    /// What they hold.
    pub device_bytes: u64,
    /// Connections to the origin.
    pub upstream_count: usize,
    /// What they hold.
    pub upstream_bytes: u64,
}

impl Sockets {
    /// Both legs.
    pub fn bytes(&self) -> u64 {
        self.device_bytes + self.upstream_bytes
    }

    /// Both legs.
    pub fn count(&self) -> usize {
        self.device_count + self.upstream_count
    }
}

/// A program's processes: `pid` and whatever descends from it.
pub fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next) {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let children = match children {
            Ok(children) => children,
            // A process that is gone has no children. Those of a running one have to be known.
            Err(e) => {
                let runs = fs::exists(format!("/proc/{parent}/task")).unwrap_or(true);
                assert!(!runs, "the children of process {parent} cannot be read: {e}");
                String::new()
            }
        };
        family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        next += 1;
    }
    family
}

/// A program's memory in bytes, all its processes, pages that are shared divided by their users
/// (proportional set size).
pub fn pss(pid: u32) -> Result<u64, String> {
    family(pid).into_iter().map(pss_of_process).sum()
}

/// CPU time that a program's processes took so far, all threads, in user space and in the kernel.
pub fn cpu(pid: u32) -> Result<Duration, String> {
    family(pid).into_iter().map(cpu_of_process).sum()
}

/// Whether the machine's TCP memory is under pressure. Every receiver then has a window of a few
/// packets, whatever its path could take.
pub fn tcp_memory_pressed() -> Result<bool, String> {
    let path = "/proc/net/protocols";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    // Columns: protocol, size, sockets, memory, press.
    let tcp = text.lines().find_map(|line| line.strip_prefix("TCP "));
    let press = tcp.and_then(|tcp| tcp.split_whitespace().nth(3));
    press.map(|press| press == "yes").ok_or_else(|| format!("{path} has no TCP"))
}

fn pss_of_process(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map(|number| number * 1024).ok_or_else(|| format!("{path} has no Pss"))
}

fn cpu_of_process(pid: u32) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The name may hold spaces and brackets, so count from its end: utime and stime are fields 14
    // and 15 of the line, 12 and 13 after it.
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    let ticks: Vec<u64> = fields.take(2).filter_map(|field| field.parse().ok()).collect();
    let &[user, system] = ticks.as_slice() else { return Err(format!("{path} says {text:?}")) };
    let ticks = user + system;
    // SAFETY: sysconf takes a number and returns one.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// The sockets of the proxy that listens on `listen_port` and fetches from `origin_port`. Only its
/// own ends: local port on the devices' leg, remote port on the other.
pub fn sockets(listen_port: u16, origin_port: u16) -> Result<Sockets, String> {
    let mut ss = Command::new("ss");
    ss.args(["-t", "-n", "-m", "-H", "-O"])
        .arg(format!("( sport = :{listen_port} or dport = :{origin_port} )"));
    let output = ss
        .output()
        .map_err(|error| format!("cannot run ss ({error}): apt-get install iproute2"))?;
    if !output.status.success() {
        return Err(format!("ss: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let suffix = format!(":{listen_port}");
    let mut sockets = Sockets::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let local = line.split_whitespace().nth(3).unwrap_or_default();
        let bytes = charged(line).ok_or_else(|| format!("ss said {line:?}"))?;
        if local.ends_with(&suffix) {
            sockets.device_count += 1;
            sockets.device_bytes += bytes;
        } else {
            sockets.upstream_count += 1;
            sockets.upstream_bytes += bytes;
        }
    }
    Ok(sockets)
}

/// What `skmem:(r…,rb…,t…,tb…,f…,w…,o…,bl…,d…)` charges: received and queued to send, reserved
/// ahead, options, backlog. `t` is part of `w`; rb and tb are limits.
fn charged(line: &str) -> Option<u64> {
    let fields = line.split_once("skmem:(")?.1.split_once(')')?.0;
    let value = |field: &str| {
        let digits = field.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
        matches!(&field[..field.len() - digits.len()], "r" | "f" | "w" | "o" | "bl")
            .then(|| digits.parse::<u64>().ok())
    };
    fields.split(',').filter_map(value).sum()
}
