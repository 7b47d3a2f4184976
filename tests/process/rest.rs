//! An idle daemon rarely wakes up.

use super::*;
use tokio::io::AsyncReadExt;

/// How often each thread of a process has gone to sleep.
fn rests(pid: u32) -> BTreeMap<String, u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let rests = tasks.filter_map(|task| {
        let task = task.unwrap();
        // A thread may end meanwhile.
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let mut lines = status.lines();
        let rests = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let rests = rests.expect("how often it went to sleep").trim().parse().unwrap();
        Some((task.file_name().into_string().unwrap(), rests))
    });
    rests.collect()
}

/// How often the threads of a daemon go to sleep within 2 s, from 1 s from now on.
async fn rests_in_two_seconds(daemon: &Daemon) -> u64 {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = rests(daemon.pid());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = rests(daemon.pid());
    assert!(before.len() > 2 && after.len() > 2, "its threads are seen: {before:?}, {after:?}");
    let since = |(thread, rests): (&String, &u64)| rests - before.get(thread).unwrap_or(&0);
    after.iter().map(since).sum()
}

#[tokio::test]
async fn nothing_keeps_it_awake_once_its_clients_are_gone() {
    let wanted = body(3 * 4096);
    let origin = origin_with("fw.bin", &wanted).await;
    let daemon = Launch::in_front_of(&origin).env("TLS_WAIT_TIME", "1").start().await;
    assert_body(&daemon.fetch("fw.bin").await, &wanted);
    let rests = rests_in_two_seconds(&daemon).await;
    // Some threads wake up once a second. Pingora's clock would raise the count to 200.
    assert!(rests < 100, "woken {rests} times in 2 s");
}

#[tokio::test]
async fn nothing_keeps_a_forward_proxy_awake() {
    let daemon = Launch::bare()
        .env("DRIPLINE__FORWARD_PROXY__ADDR", "127.0.0.1:0")
        .env("DRIPLINE__ADMIN__ADDR", "127.0.0.1:0")
        .env("DRIPLINE__SERVER__UPGRADE_SOCK", "off")
        .start()
        .await;
    // A request that comes in two pieces: the listener has to wait, which starts a timer.
    let mut client = TcpStream::connect(daemon.admin()).await.unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.write_all(b"Host: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let rests = rests_in_two_seconds(&daemon).await;
    assert!(rests < 100, "woken {rests} times in 2 s");
}
