//! A network namespace of the run's own: a thread that lives in it, with a runtime for what opens
//! sockets there and starts programs there. The namespace has no name. It ends with its thread and
//! the programs started in it, whose parent the thread is, so that nothing is left even of a run that is
//! killed. What the places are connected by, it must not know.

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::support::process;

/// A namespace and its thread.
pub struct Place {
    name: &'static str,
    handle: Handle,
    file: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Place {
    /// An empty network with a loopback device.
    pub async fn new(name: &'static str) -> Result<Self, String> {
        let (tell, told) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let live = move || match enter() {
            Ok((runtime, file)) => {
                let _ = tell.send(Ok((runtime.handle().clone(), file)));
                // An error is the place's end as well: its value is gone.
                let _ = runtime.block_on(ended);
            }
            Err(error) => _ = tell.send(Err(error)),
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(live);
        let thread = thread.map_err(|error| format!("no thread: {error}"))?;
        let entered = told.recv().map_err(|_| "the thread of a namespace panicked")?;
        let (handle, file) = entered.map_err(|error| format!("no network namespace: {error}"))?;
        let place = Self { name, handle, file, end: Some(end), thread: Some(thread) };
        place.tool("ip link set dev lo up").await?;
        Ok(place)
    }

    /// The file that stands for the namespace, for `ip link add … netns FILE`.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What `future` comes to, in this namespace: sockets that it opens and programs that it starts
    /// belong there. A panic in it is a panic here.
    pub async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.spawn(future).await {
            Ok(result) => result,
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    /// The same, beside everything else.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(future)
    }

    /// Runs a program with words as arguments, such as `ip addr add …`. The place waits for it.
    pub async fn tool(&self, line: &str) -> Result<(), String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let said = self.run(async move {
            let program = process::find(&words[0])
                .ok_or_else(|| format!("{} is missing: apt-get install iproute2", words[0]))?;
            let output = Command::new(program).args(&words[1..]).output();
            let output = output.map_err(|error| error.to_string())?;
            if output.status.success() {
                return Ok(());
            }
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        });
        said.await.map_err(|error| format!("{}: {line}: {error}", self.name))
    }

    /// Sets a variable of the namespace, `net/ipv4/ip_forward`.
    pub async fn sysctl(&self, variable: &str, value: &str) -> Result<(), String> {
        let (path, value) = (format!("/proc/sys/{variable}"), value.to_owned());
        self.run(
            async move { std::fs::write(&path, value).map_err(|error| format!("{path}: {error}")) },
        )
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported where it mattered.
            let _ = thread.join();
        }
    }
}

/// Takes the calling thread into a namespace of its own.
fn enter() -> std::io::Result<(tokio::runtime::Runtime, String)> {
    // SAFETY: unshare takes a number; of this thread it changes the network alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: gettid takes nothing and cannot fail.
    let thread = unsafe { libc::gettid() };
    let file = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok((runtime, file))
}
