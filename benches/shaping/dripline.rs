//! dripline in the house: its configuration, its start, and a class changed while it runs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::line::{BULK, CLICKS, HOUSE, INTERNET, MACHINES, REGULAR, Tree};
use super::place::Place;
use crate::support::lab::Lab;
use crate::support::process::{self, End, Proxy};

/// Where the forward proxy listens. The namespace has no other programs, so every port is free.
pub const DOOR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HOUSE), 3128);
/// Names that S3 has, which `resolve` leads to the far end's ports.
pub const BULK_NAME: &str = "bulk.s3.ap-southeast-2.amazonaws.com";
/// The other one.
pub const REGULAR_NAME: &str = "regular.s3.ap-southeast-2.amazonaws.com";
/// One more, for the port that sends back what comes.
pub const CLICKS_NAME: &str = "clicks.s3.ap-southeast-2.amazonaws.com";
/// The administrator's port.
const ADMIN: u16 = 9100;

/// The same tree as HTB's.
fn configuration(tree: Tree) -> String {
    let Tree { parent, bulk, .. } = tree;
    let regular = tree.regular();
    let busy = MACHINES[2];
    format!(
        "forward_proxy:
  addr: {DOOR}
  clients: [ 10.77.1.0/24 ]
  resolve:
    {BULK_NAME}: '{INTERNET}:{BULK}'
    {REGULAR_NAME}: '{INTERNET}:{REGULAR}'
    {CLICKS_NAME}: '{INTERNET}:{CLICKS}'
  class: s3-bulk
  classes: [ {{ clients: [ {busy} ], class: regular }} ]
shaping:
  count: wire
  classes:
    - {{ name: upload, max_limit: {parent}bit }}
    - {{ name: regular, parent: upload, limit_at: {regular}bit, max_limit: {parent}bit, priority: 2 }}
    - {{ name: s3-bulk, parent: upload, limit_at: {bulk}bit, max_limit: {parent}bit, priority: 8, pcq: {{ classifier: src-address, rate: 0 }} }}
admin: {{ addr: '127.0.0.1:{ADMIN}' }}
"
    )
}

/// Starts it.
pub async fn start(
    house: &Place,
    lab: &Arc<Lab>,
    binary: &Path,
    environment: &[(String, String)],
    tree: Tree,
) -> Result<Proxy, String> {
    let file = lab.path("dripline.yaml");
    std::fs::write(&file, configuration(tree))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let mut command = Command::new(binary);
    command.arg("run").arg("-c").arg(file).env_clear();
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let lab = Arc::clone(lab);
    let started = house.run(async move {
        let proxy = process::spawn(&lab, "dripline", DOOR.port(), End::Kill, command)?;
        proxy.started(|_| process::is_ready(process::loopback(ADMIN))).await
    });
    started.await
}

/// Gives the bulk class another max-limit.
pub async fn limit_bulk(house: &Place, tree: Tree, max_limit: u64) -> Result<(), String> {
    let limit_at = tree.bulk.min(max_limit);
    let body = format!(r#"{{"limit_at":"{limit_at}bit","max_limit":"{max_limit}bit"}}"#);
    let request = format!(
        "PATCH /api/classes/s3-bulk HTTP/1.1\r\nHost: 127.0.0.1:{ADMIN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let ask = async move {
        let mut stream = TcpStream::connect(process::loopback(ADMIN)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = house.run(ask).await.map_err(|error| format!("PATCH: {error}"))?;
    if answer.starts_with("HTTP/1.1 2") {
        return Ok(());
    }
    Err(format!("PATCH was refused: {answer}"))
}
