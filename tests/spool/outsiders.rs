//! Requests that must bypass the spool neither store anything in it nor read from it.

use super::*;

/// What goes direct by its nature: a target and its header lines.
fn outsiders(world: &World) -> Vec<(&'static str, String, String)> {
    let presign = || world.presign("fw.bin");
    let with_query = |name, value| file(&presign().query(name, value));
    let sse_c = "x-amz-server-side-encryption-customer-algorithm";
    let (authorized, headers) = presign().authorization();
    let path = authorized.split_once('/').map_or("", |(_, rest)| rest);
    let key = path.split_once('/').map_or("", |(_, key)| key);
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    vec![
        ("query", with_query("tagging", ""), String::new()),
        ("query", with_query("acl", ""), String::new()),
        ("query", with_query("partNumber", "1"), String::new()),
        ("query", with_query("attributes", ""), String::new()),
        ("sse_c", file(&presign().header(sse_c, "AES256")), format!("{sse_c}: AES256\r\n")),
        (
            "signed_headers",
            file(&presign().header("range", "bytes=0-9")),
            "Range: bytes=0-9\r\n".into(),
        ),
        ("authorization", format!("/file/{key}"), lines),
        ("header", world.target(7), "x-amz-request-payer: requester\r\n".into()),
        ("repeated", format!("{}&X-Amz-Expires=1", world.target(8)), String::new()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn special_requests_go_direct_cold_and_warm_and_are_never_stored() {
    let body = pattern(200 * KIB);
    let world = Setup::new().set("DRIPLINE__S3__AUTHORIZATION", "true").start(&body).await;
    let mut cold = Vec::new();
    for (reason, target, headers) in outsiders(&world) {
        let before = world.bypassed(reason);
        let response = world.ask(&target, &headers).await;
        assert_eq!(world.bypassed(reason), before + 1, "{reason}: {}", response.status);
        cold.push((response.status, response.body));
    }
    // Of these two S3 gives the object, or a part of it.
    assert_eq!((cold[5].0, &cold[5].1[..]), (206, &body[..10]), "a signed range");
    assert_eq!((cold[6].0, cold[6].1 == body), (200, true), "an Authorization header");
    assert_eq!(world.metric(OBJECTS), 0);
    assert_eq!(world.served("fill"), 0);
    assert_eq!(world.metric("dripline_spool_s3_bytes_total"), 0);
    assert_eq!(world.metric("dripline_spool_check_seconds_count"), 0, "and no check");

    assert_whole(&world.get(1, "").await, &body);
    world.until(FILLING, 0).await;
    assert_eq!(world.metric(COMPLETE), 1);
    for ((reason, target, headers), (status, old)) in outsiders(&world).into_iter().zip(cold) {
        let response = world.ask(&target, &headers).await;
        assert_eq!((response.status, response.body == old), (status, true), "{reason} {target}");
    }
    assert_eq!(world.served("hit"), 0);
    world.until(FILLING, 0).await;
    assert_eq!(world.metric(COMPLETE), 1);
    assert_whole(&world.get(2, "").await, &body);
    assert_eq!(world.served("hit"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_name_is_an_object_of_its_own() {
    let body = pattern(100 * KIB);
    let world = Setup::new().start(&body).await;
    let typed = |kind: &str, n| {
        let signed = world.presign("fw.bin").expires(Duration::from_secs(600 + n));
        file(&signed.query("response-content-type", kind))
    };
    for n in 0..2 {
        for kind in ["text/x-one", "text/x-two"] {
            let response = world.ask(&typed(kind, n), "").await;
            assert_whole(&response, &body);
            assert_eq!(response.header("content-type"), Some(kind));
            let head = world.head(&typed(kind, n + 10), "").await;
            assert_eq!(head.header("content-type"), Some(kind));
        }
        let plain = world.get(n, "").await;
        assert_eq!(plain.header("content-type"), Some("application/octet-stream"));
    }
    assert_eq!(world.full_gets(), 3);
    world.until(FILLING, 0).await;
    assert_eq!(world.metric(COMPLETE), 3);
    assert_eq!(world.metric(OBJECTS), 3);
}

/// Two versions that S3 tells apart by versionId alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_an_object_of_its_own() {
    let (one, two) = (pattern(5000), b"the second version".repeat(300));
    // Each is checked, which this origin answers with a 200, and fetched.
    let plan = |body: &Vec<u8>| Plan::ok(0).body(body.clone());
    let plans = vec![plan(&one), plan(&one), plan(&two), plan(&two), plan(&one), plan(&two)];
    let origin = FaultOrigin::start_each(plans).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dripline = spooling(&origin.addr().to_string(), "b", dir.path()).start().await;
    let get =
        async |id: &str| http1::get(dripline.http, format!("/file/k?versionId={id}"), "").await;
    assert_whole(&get("one").await, &one);
    assert_whole(&get("two").await, &two);
    assert_whole(&get("one").await, &one);
    assert_whole(&get("two").await, &two);
    dripline.until(FILLING, 0).await;
    assert_eq!(dripline.metric(COMPLETE), 2);
    assert_eq!(origin.requests().len(), 6);
}
