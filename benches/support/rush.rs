//! Clients in a hurry: a few connections that fetch objects again and again, as fast as they come.
//! Every byte is checked. It must not know what answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::client::{self, Load};

/// The clients of a run. They end when this is dropped.
pub struct Rush {
    bytes: Arc<AtomicU64>,
    clients: JoinSet<String>,
}

impl Rush {
    /// Starts `clients` of them, each at another object.
    pub fn launch(load: Load, clients: usize) -> Self {
        let (load, bytes) = (Arc::new(load), Arc::new(AtomicU64::new(0)));
        let mut set = JoinSet::new();
        for number in 0..clients {
            set.spawn(again_and_again(Arc::clone(&load), number, Arc::clone(&bytes)));
        }
        Self { bytes, clients: set }
    }

    /// Body bytes that came so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Fails if a client has broken.
    pub fn unbroken(&mut self) -> Result<(), String> {
        match self.clients.try_join_next() {
            None => Ok(()),
            Some(ended) => Err(ended.unwrap_or_else(|error| error.to_string())),
        }
    }
}

/// Returns only when something is wrong, and says what.
async fn again_and_again(load: Arc<Load>, number: usize, bytes: Arc<AtomicU64>) -> String {
    let fetches = async {
        let mut stream = client::connect(&load).await?;
        for object in load.objects.iter().cycle().skip(number) {
            client::fetch(&mut stream, object, load.stall, |record| {
                bytes.fetch_add(record.body as u64, Ordering::Relaxed);
            })
            .await?;
        }
        Ok::<_, String>(())
    };
    fetches.await.err().unwrap_or_default()
}
