//! The class tree of a running daemon: what operators see of it, and how they change it.

#![allow(clippy::disallowed_methods, reason = "tests measure time")]

#[path = "support/process.rs"]
mod process;
mod support;

use std::fs;
use std::path::PathBuf;

use dripline::demo::origin::{Origin, OriginOptions};
use process::{Daemon, Launch, dripline};
use serde_json::{Value, json};
use support::http1::{self, Response};

/// A daemon with a configuration file of its own.
struct World {
    _origin: Origin,
    dir: tempfile::TempDir,
    daemon: Daemon,
}

/// Two classes below one.
fn tree(bulk: &str) -> String {
    format!(
        "shaping:\n  classes:\n    - {{name: up, max_limit: 20Mbit}}\n\
         \x20   - {{name: regular, parent: up, limit_at: 15Mbit, priority: 2}}\n\
         \x20   - {{name: bulk, parent: up, {bulk}}}\n"
    )
}

async fn world(config: &str) -> World {
    let origin = Origin::start(OriginOptions::default()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, config);
    let launch = Launch::in_front_of(&origin).arg("-c").arg(file.to_str().unwrap());
    World { daemon: launch.start().await, _origin: origin, dir }
}

fn write(dir: &tempfile::TempDir, config: &str) -> PathBuf {
    let file = dir.path().join("dripline.yaml");
    fs::write(&file, config).unwrap();
    file
}

impl World {
    /// Sends a request with these header lines, each with its CRLF.
    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        http1::request(self.daemon.admin(), request.as_bytes()).await
    }

    async fn api(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let host = format!("Host: {}\r\n", self.daemon.admin());
        let response = self.send(method, path, &host, body).await;
        let json = serde_json::from_slice(&response.body);
        (response.status, json.unwrap_or_else(|_| Value::String(response.text())))
    }

    async fn class(&self, name: &str) -> Value {
        self.api("GET", &format!("/api/classes/{name}"), "").await.1
    }
}

#[tokio::test]
async fn classes_are_seen_and_changed_through_the_admin_listener() {
    let world = world(&tree("limit_at: 1Mbit, priority: 8, timetable: '00:00,10Mbit'")).await;
    let (status, all) = world.api("GET", "/api/classes", "").await;
    assert_eq!(status, 200);
    let names: Vec<_> = all["classes"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["up", "regular", "bulk"]);
    let bulk = &all["classes"][2];
    assert_eq!(
        (&bulk["max_limit"], &bulk["configured_max_limit"]),
        (&json!("10Mbit"), &Value::Null)
    );

    let (status, bulk) = world.api("PATCH", "/api/classes/bulk", r#"{"max_limit":"5Mbit"}"#).await;
    assert_eq!((status, &bulk["max_limit"]), (200, &json!("5Mbit")));
    world.daemon.logged("admin: class bulk is changed: max_limit 5Mbit").await;
    let wrong = r#"{"limit_at":"6Mbit","max_limit":"7Mbit"}"#;
    let (status, answer) = world.api("PATCH", "/api/classes/bulk", wrong).await;
    assert_eq!(status, 400);
    let told = "max_limit: class up: the limit_at of its children are 21Mbit together, more than its max_limit of 20Mbit";
    assert_eq!(answer["error"], told);
    assert_eq!(world.class("bulk").await["max_limit"], "5Mbit");
    assert_eq!(world.api("PATCH", "/api/classes/nobody", wrong).await.0, 404);

    let metrics = world.daemon.ask("/metrics").await.text();
    for line in [
        "dripline_class_bytes_total{class=\"bulk\"} 0",
        "dripline_class_max_limit_bytes_per_second{class=\"bulk\"} 625000",
        "dripline_class_limit_at_bytes_per_second{class=\"regular\"} 1875000",
    ] {
        assert!(metrics.lines().any(|there| there == line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn requests_that_are_no_operators_change_nothing() {
    let world = world(&tree("max_limit: 8Mbit")).await;
    let own = format!("Host: {}\r\n", world.daemon.admin());
    let change = r#"{"max_limit":"1Mbit"}"#;
    let path = "/api/classes/bulk";
    for headers in [
        "Host: evil.example\r\n".to_owned(),
        format!("{own}Origin: http://evil.example\r\n"),
        format!("{own}Origin: null\r\n"),
    ] {
        let response = world.send("PATCH", path, &headers, change).await;
        assert_eq!(response.status, 403, "{headers:?}");
    }
    for headers in ["Host: evil.example\r\n", "Host: localhost\r\nOrigin: http://evil.example\r\n"]
    {
        assert_eq!(world.send("GET", "/api/classes", headers, "").await.status, 403);
    }
    let response = world.send("DELETE", path, &own, "").await;
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD, PATCH")));
    let large = format!("{{\"max_limit\": \"1Mbit\"{}}}", " ".repeat(5000));
    assert_eq!(world.api("PATCH", path, &large).await.0, 413);
    assert_eq!(world.api("PATCH", path, "max_limit=1Mbit").await.0, 400);
    assert_eq!(world.class("bulk").await["max_limit"], "8Mbit");
    let local = "Host: localhost\r\nOrigin: http://localhost\r\n";
    assert_eq!(world.send("PATCH", path, local, change).await.status, 200);
    assert_eq!(world.class("bulk").await["max_limit"], "1Mbit");
}

#[tokio::test]
async fn sighup_changes_rates_and_names_what_needs_an_upgrade() {
    let world = world(&tree("max_limit: 8Mbit")).await;
    write(&world.dir, &tree("max_limit: 4Mbit, limit_at: 1Mbit, priority: 5"));
    world.daemon.signal(libc::SIGHUP);
    world.daemon.logged("reloaded: ").await;
    let bulk = world.class("bulk").await;
    assert_eq!((&bulk["max_limit"], &bulk["limit_at"]), (&json!("4Mbit"), &json!("1Mbit")));
    assert_eq!(bulk["priority"], 5);
    assert_eq!(world.daemon.matching("needs an upgrade").len(), 0);

    let more = "    - {name: more, parent: up}\n";
    write(&world.dir, &format!("{}{more}", tree("max_limit: 2Mbit")));
    world.daemon.signal(libc::SIGHUP);
    world.daemon.logged("shaping.classes: the new value needs an upgrade").await;
    assert_eq!(world.class("bulk").await["max_limit"], "4Mbit", "all of it or nothing");
    assert_eq!(world.class("more").await["error"], "there is no such class");
}

#[tokio::test]
async fn check_names_every_error_of_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, &tree("limit_at: 6Mbit, max_limit: 20M"));
    let env = [("S3_BUCKET", "b"), ("AWS_REGION", "eu-west-1")];
    let check = dripline(&["check", "-c", file.to_str().unwrap()], &env).await;
    assert_eq!(check.code, 78);
    for error in [
        "shaping.classes[2].max_limit: `20M` does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s",
        "shaping.classes[0].max_limit: the limit_at of its children are 21Mbit together, more than its max_limit of 20Mbit",
    ] {
        assert!(check.stderr.contains(error) || check.stdout.contains(error), "{}", check.stderr);
    }
}
