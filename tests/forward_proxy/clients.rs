//! Programs that people have: curl and Python's standard library, with nothing set but the proxy and the
//! authority.

use super::*;
use tokio::process::Command;

/// Runs a program that knows the proxy from its environment, as tools do.
async fn run(
    world: &World,
    proxy: &Proxy,
    program: &str,
    args: &[&str],
) -> (bool, Vec<u8>, String) {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .env("HTTPS_PROXY", format!("http://{}", proxy.addr))
        .env("https_proxy", format!("http://{}", proxy.addr))
        .env("SSL_CERT_FILE", &world.ca_file)
        .kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.expect("in time").unwrap();
    (output.status.success(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_puts_and_gets() {
    let world = World::new().await;
    let proxy = world.proxy("").await;
    let body = pattern(1_000_000);
    let file = world.dir.path().join("body");
    std::fs::write(&file, &body).unwrap();
    let put = world.presign("up").method(http::Method::PUT).url();
    let ca = world.ca_file.to_str().unwrap();
    let args = ["-sS", "--fail-with-body", "--cacert", ca, "-T", file.to_str().unwrap(), &put];
    let (done, out, err) = run(&world, &proxy, "curl", &args).await;
    assert!(done, "{err}{}", String::from_utf8_lossy(&out));
    let get = world.presign("up").url();
    let (done, out, err) = run(&world, &proxy, "curl", &["-sS", "--cacert", ca, &get]).await;
    assert!(done && out == body, "{err}");
    // And what is refused says why.
    let args = ["-sS", "-v", "--cacert", ca, "https://example.com/"];
    let (done, _, err) = run(&world, &proxy, "curl", &args).await;
    assert!(!done && err.contains("it is not an S3 endpoint"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_own_client_gets_and_is_told_why_not() {
    const PROGRAM: &str = "import sys, urllib.request\n\
        sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())";
    let world = World::new().await;
    let proxy = world.proxy("").await;
    let body = pattern(200_000);
    world.origin.put("a", body.clone(), "x/y").await.unwrap();
    let url = world.presign("a").url();
    let (done, out, err) = run(&world, &proxy, "python3", &["-c", PROGRAM, &url]).await;
    assert!(done && out == body, "{err}");
    let args = ["-c", PROGRAM, "https://example.com/"];
    let (done, _, err) = run(&world, &proxy, "python3", &args).await;
    assert!(!done && err.contains("example.com:443 is refused: it is not an S3 endpoint"), "{err}");
}
