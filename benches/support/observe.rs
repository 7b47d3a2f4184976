//! One proxy's run under many drips: idle, ramp, observation, and what is left five seconds after.
//! It must not know which proxy it is.

use std::time::Duration;

use tokio::time::Instant;

use super::client::{Fleet, Load};
use super::measure;
use super::process::Proxy;
use super::report::{Figures, Memory, Schedule};

/// Samples of the memory within an observation. Each costs some CPU time, which the proxy lacks.
const SAMPLES: u64 = 8;

/// How many, how fast, how long.
pub struct Plan {
    /// Concurrent drips.
    pub drips: usize,
    /// New drips per second while ramping.
    pub ramp: u64,
    /// Seconds observed once every drip runs.
    pub seconds: u64,
    /// Where the proxy's upstream connections go.
    pub origin_port: u16,
}

impl Plan {
    /// What runs against `proxy`, which has been warmed up.
    pub async fn observe(&self, proxy: &Proxy, load: Load) -> Result<Figures, String> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = measure::pss(proxy.pid())?;

        let schedule = Schedule { chunk: load.chunk, wait: load.wait };
        let mut fleet = Fleet::launch(load, self.drips, self.ramp);
        eprintln!("{}: {} drips at {} per second …", proxy.name, self.drips, self.ramp);
        let ramp = Duration::from_secs(self.drips as u64 / self.ramp);
        fleet.ramped(ramp + Duration::from_secs(60)).await?;
        // The last handshakes are behind us: two more records each, and then the clock counts.
        tokio::time::sleep(2 * schedule.wait).await;

        eprintln!("{}: observing for {} s …", proxy.name, self.seconds);
        let cpu = measure::cpu(proxy.pid())?;
        fleet.observe();
        let mut memory = Memory { idle, ..Memory::default() };
        let samples = self.seconds.clamp(1, SAMPLES) as u32;
        let start = Instant::now();
        for number in 1..=samples {
            let at = start + Duration::from_secs(self.seconds) * number / samples;
            tokio::time::sleep_until(at).await;
            memory.process.push(measure::pss(proxy.pid())?);
            memory.sockets.push(measure::sockets(proxy.port, self.origin_port)?);
        }
        // A process of the proxy's may have ended meanwhile, and its time with it.
        let cpu = measure::cpu(proxy.pid())?.saturating_sub(cpu);
        let fleet = fleet.stop().await;

        tokio::time::sleep(Duration::from_secs(5)).await;
        memory.after = measure::pss(proxy.pid())?;
        memory.sockets_after = measure::sockets(proxy.port, self.origin_port)?;
        Ok(Figures::new(schedule, self.seconds, cpu, memory, fleet))
    }
}
