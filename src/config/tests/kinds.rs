//! What every section has in common: unknown keys, kinds of values, and ranges.

use super::*;

#[test]
fn unknown_keys_are_named_with_what_was_probably_meant() {
    for (yaml, expected) in [
        ("colour: red", "colour: unknown key; remove it"),
        ("1: x", "1: unknown key; remove it"),
        ("Drip: {}", "Drip: unknown key; did you mean drip?"),
        ("spol: {}", "spol: unknown key; did you mean spool?"),
        ("drip: {chunkSize: 64}", "drip.chunkSize: unknown key; did you mean drip.chunk_size?"),
        (
            "listen: [{addr: '0.0.0.0:1', tsl: {}}]",
            "listen[0].tsl: unknown key; did you mean listen[0].tls?",
        ),
    ] {
        assert_eq!(errors(yaml), [expected]);
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_reported_once() {
    for (yaml, expected) in [
        ("s3: my-bucket", "s3: must be a map of keys, not text"),
        ("drip: [1]", "drip: must be a map of keys, not a list"),
        ("drip: {wait: {ms: 5}}", "drip.wait: must be a single value, not a map"),
        ("drip: {wait: [5]}", "drip.wait: must be a single value, not a list"),
        ("drip: {wait: !s 5}", "drip.wait: must be a single value, not a tagged value"),
        (
            "drip: {response_headers: x-amz-meta-*}",
            "drip.response_headers: must be a list, not text",
        ),
        ("listen: 8443", "listen: must be a list, not a number"),
        ("listen: [0.0.0.0:8443]", "listen[0]: must be a map of keys, not text"),
        ("listen: [~]", "listen[0]: must be a map of keys, not empty"),
        (
            "listen: [{addr: '0.0.0.0:1', tls: true}]",
            "listen[0].tls: must be a map of keys, not true or false",
        ),
        ("admin: 127.0.0.1:9100", "admin: must be a map of keys, not text"),
        ("s3: {ca: 5}", "s3.ca: must be text, not a number; write \"5\""),
        ("s3: {ca: true}", "s3.ca: must be text, not true or false; write \"true\""),
        (
            "s3: {authorization: perhaps}",
            "s3.authorization: `perhaps` is not a switch; write true or false",
        ),
        ("log: {format: xml}", "log.format: \"xml\" is not a log format: write text or json"),
        (
            "s3: {addressing: host}",
            "s3.addressing: \"host\" is not a way of addressing: write auto, virtual or path",
        ),
        (
            "s3: {host: local}",
            "s3.host: \"local\" is not a kind of host: write regional, global, dualstack, fips or accelerate",
        ),
    ] {
        assert_eq!(errors(yaml), [expected]);
    }
}

#[test]
fn values_out_of_range_are_refused_and_the_ends_are_not() {
    let threads = |n: &str| {
        format!("server.threads: `{n}` is not a number of threads; write 0 (one per core) to 1024")
    };
    for (yaml, expected) in [
        (
            "drip: {chunk_size: 63}",
            "drip.chunk_size: 63 bytes is not a possible record size; write 64 to 16384",
        ),
        (
            "drip: {chunk_size: 4k}",
            "drip.chunk_size: `4k` does not say which unit; write 4KiB or 4kB",
        ),
        ("drip: {wait: 61m}", "drip.wait: `61m` is out of range; write 0s to 1h"),
        (
            "upstream: {connect_timeout: 0}",
            "upstream.connect_timeout: `0` is out of range; write 1ms to 1day",
        ),
        (
            "upstream: {response_timeout: 0s}",
            "upstream.response_timeout: `0s` is out of range; write 1ms to 1day",
        ),
        (
            "upstream: {idle_timeout: 25h}",
            "upstream.idle_timeout: `25h` is out of range; write 1ms to 1day",
        ),
        (
            "upstream: {recv_buffer: 4095}",
            "upstream.recv_buffer: `4095` is out of range; write 4KiB to 16MiB",
        ),
        (
            "upstream: {recv_buffer: 17MiB}",
            "upstream.recv_buffer: `17MiB` is out of range; write 4KiB to 16MiB",
        ),
        (
            "server: {drain_timeout: 31d}",
            "server.drain_timeout: `31d` is out of range; write 0s to 30days",
        ),
        (
            "server: {shutdown_delay: 61m}",
            "server.shutdown_delay: `61m` is out of range; write 0s to 1h",
        ),
        (
            "server: {upgrade_timeout: 0s}",
            "server.upgrade_timeout: `0s` is out of range; write 1s to 1h",
        ),
        (
            "server: {upgrade_sock: upgrade.sock}",
            "server.upgrade_sock: upgrade.sock is not an absolute path of at most 90 bytes; write it out, or `off`",
        ),
        ("server: {threads: 1025}", &threads("1025")),
        ("server: {threads: -1}", &threads("-1")),
        ("server: {threads: many}", &threads("many")),
    ] {
        assert_eq!(errors(yaml), [expected]);
    }
    for yaml in [
        "drip: {chunk_size: 64, wait: 1h}",
        "drip: {chunk_size: 16KiB, wait: 0s}",
        "upstream: {connect_timeout: 1ms, idle_timeout: 24h, recv_buffer: 16MiB}",
        "server: {threads: 1024, drain_timeout: 30d}",
        "server: {drain_timeout: 0, shutdown_delay: 1h, upgrade_timeout: 1s}",
        "server: {upgrade_sock: off, upgrade_drain_timeout: 30d}",
    ] {
        classic().yaml(yaml).load();
    }
}

#[test]
fn keys_of_later_versions_are_refused_as_such() {
    assert_eq!(
        errors("admin: {token: secret}"),
        ["admin.token: not available in this version of dripline; remove it"]
    );
    assert_eq!(
        variable_errors("DRIPLINE__ADMIN__TOKEN", "secret"),
        [
            "admin.token: not available in this version of dripline; remove it (from DRIPLINE__ADMIN__TOKEN)"
        ]
    );
}
