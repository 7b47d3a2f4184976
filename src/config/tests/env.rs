//! Variables, classic names and the env file: which source wins, and what is wrong with one.

use super::*;

#[test]
fn variables_overlay_the_file_key_by_key() {
    let config = world()
        .yaml("s3: {bucket: from-file, region: eu-west-1}\ndrip: {wait: 2s, chunk_size: 64}\nadmin: off\n")
        .var("DRIPLINE__DRIP__WAIT", "500ms")
        .var("DRIPLINE__S3", "{bucket: whole-map}")
        .var("DRIPLINE__S3__REGION", "us-west-2")
        .var("DRIPLINE__LISTEN", r#"[{addr: "0.0.0.0:8443", tls: {}}, {addr: "[::1]:80"}]"#)
        .var("DRIPLINE__DRIP__RESPONSE_HEADERS", "[x-amz-version-id]")
        .var("DRIPLINE__UPSTREAM__RECV_BUFFER", "8192")
        .var("DRIPLINE__SERVER__THREADS", "")
        .var("DRIPLINE__HEALTH__ADDR", "[::1]:9101")
        .var("DRIPLINE_SERVICE_HOST", "10.0.0.1")
        .load();
    assert_eq!(s3(&config).endpoint.host(), "whole-map.s3.us-west-2.amazonaws.com");
    assert_eq!(config.drip.wait, Duration::from_millis(500));
    assert_eq!(config.drip.chunk_size.bytes(), 64);
    assert_eq!(config.drip.response_headers.len(), 1);
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.upstream.recv_buffer, ByteSize::new(8192));
    assert_eq!(config.health, Some("[::1]:9101".parse().unwrap()));
    let cut = "listen[0].tls: the certificate message has ";
    assert!(config.warnings[0] == SELF_SIGNED && config.warnings[1].starts_with(cut));
    assert_eq!(config.warnings.len(), 2);
}

#[test]
fn a_variable_that_looks_like_a_number_is_text_where_text_is_wanted() {
    for (value, host) in [("123", "123"), ("0123", "0123"), ("'456'", "456"), ("1e3", "1e3")] {
        let config =
            world().var("DRIPLINE__S3__BUCKET", value).var("AWS_REGION", "eu-west-1").load();
        assert_eq!(s3(&config).endpoint.host(), format!("{host}.s3.eu-west-1.amazonaws.com"));
    }
}

#[test]
fn variables_that_are_wrong_are_named() {
    for (name, value, expected) in [
        (
            "DRIPLINE__DIRP__WAIT",
            "1s",
            "dirp: unknown key; did you mean drip? (from DRIPLINE__DIRP__WAIT)",
        ),
        (
            "DRIPLINE__S3__BUCKT",
            "x",
            "s3.buckt: unknown key; did you mean s3.bucket? (from DRIPLINE__S3__BUCKT)",
        ),
        (
            "DRIPLINE__LISTEN__0__ADDR",
            "0.0.0.0:80",
            "listen: must be a list, not a map (from DRIPLINE__LISTEN__0__ADDR)",
        ),
        (
            "DRIPLINE_DRIP_WAIT",
            "1s",
            "DRIPLINE_DRIP_WAIT: unknown variable; did you mean DRIPLINE__DRIP__WAIT?",
        ),
        (
            "DRIPLINE_S3__BUKCET",
            "x",
            "DRIPLINE_S3__BUKCET: unknown variable; did you mean DRIPLINE__S3__BUCKET?",
        ),
        (
            "DRIPLINE_TLS_CERT",
            "x",
            "DRIPLINE_TLS_CERT: unknown variable; write DRIPLINE__S3__BUCKET for s3.bucket and so on, or remove it",
        ),
        (
            "DRIPLINE_TLS_CRT_PEM",
            "x",
            "DRIPLINE_TLS_CRT_PEM: unknown variable; did you mean DRIPLINE_TLS_CERT_PEM?",
        ),
        (
            "DRIPLINE_PORT",
            "8443",
            "DRIPLINE_PORT: unknown variable; write DRIPLINE__S3__BUCKET for s3.bucket and so on, or remove it",
        ),
        (
            "DRIPLINE__S3__",
            "x",
            "DRIPLINE__S3__: names no key; write DRIPLINE__S3__BUCKET for s3.bucket and so on",
        ),
        (
            "DRIPLINE__LISTEN",
            "[{addr: 5}]",
            "listen[0].addr: `5` is not an IP address and a port; write one such as 127.0.0.1:8080 or [::1]:8080 \
             (from DRIPLINE__LISTEN)",
        ),
        (
            "CHUNK_SIZE",
            "4KiB",
            "drip.chunk_size: `4KiB` is not a number of bytes; write one without a unit, such as 4096 \
             (from CHUNK_SIZE)",
        ),
        (
            "CHUNK_SIZE",
            "65536",
            "drip.chunk_size: 65536 bytes is not a possible record size; write 64 to 16384 (from CHUNK_SIZE)",
        ),
        (
            "TLS_WAIT_TIME",
            "500ms",
            "drip.wait: `500ms` is not a number of milliseconds; write one without a unit, such as 500 \
             (from TLS_WAIT_TIME)",
        ),
        (
            "TLS_WAIT_TIME",
            "3600001",
            "drip.wait: `3600001ms` is out of range; write 0s to 1h (from TLS_WAIT_TIME)",
        ),
    ] {
        assert_eq!(variable_errors(name, value), [expected]);
    }
    for value in ["[{addr: }", "[*]", "{"] {
        let error = &variable_errors("DRIPLINE__LISTEN", value)[0];
        assert!(error.starts_with("listen: not valid YAML: "), "{error}");
        assert!(error.ends_with(" (from DRIPLINE__LISTEN)"), "{error}");
    }
    assert_eq!(
        classic()
            .yaml("listen: [{addr: '0.0.0.0:1'}]\ndrip: {wait: 1s}")
            .var("DRIPLINE__LISTEN__0__ADDR", "0.0.0.0:80")
            .var("DRIPLINE__DRIP__WAIT__MS", "5")
            .errors(),
        [
            "drip.wait.ms: drip.wait is not a map; set the whole of it, as YAML, in DRIPLINE__DRIP__WAIT \
             (from DRIPLINE__DRIP__WAIT__MS)",
            "listen.0.addr: listen is not a map; set the whole of it, as YAML, in DRIPLINE__LISTEN \
             (from DRIPLINE__LISTEN__0__ADDR)",
        ]
    );
}

#[test]
fn classic_names_go_before_the_file_and_behind_their_overlay() {
    let file = "s3: {bucket: from-file, region: eu-west-1}\ndrip: {chunk_size: 4KiB, wait: 2s}\nlisten: [{addr: '0.0.0.0:1'}]";
    let classic = || {
        world()
            .yaml(file)
            .var("S3_BUCKET", "from-classic")
            .var("AWS_DEFAULT_REGION", "us-west-2")
            .var("CHUNK_SIZE", " 4096 ")
            .var("TLS_WAIT_TIME", "250")
    };
    let config = classic().load();
    assert_eq!(s3(&config).endpoint.host(), "from-classic.s3.us-west-2.amazonaws.com");
    assert_eq!(config.drip.wait, Duration::from_millis(250));
    assert_eq!(
        config.warnings,
        [
            "s3.bucket: S3_BUCKET (from-classic) takes precedence over the file's from-file",
            "s3.region: AWS_DEFAULT_REGION (us-west-2) takes precedence over the file's eu-west-1",
            "drip.wait: TLS_WAIT_TIME (250ms) takes precedence over the file's 2s",
        ]
    );
    let config = classic()
        .var("AWS_REGION", "sa-east-1")
        .var("DRIPLINE__S3__BUCKET", "from-overlay")
        .var("DRIPLINE__DRIP", "{wait: 3s}")
        .load();
    assert_eq!(s3(&config).endpoint.host(), "from-overlay.s3.sa-east-1.amazonaws.com");
    assert_eq!(config.drip.wait, Duration::from_secs(3));
    assert_eq!(
        config.warnings,
        ["s3.region: AWS_REGION (sa-east-1) takes precedence over the file's eu-west-1"]
    );
    let config = classic().var("S3_BUCKET", "").var("AWS_DEFAULT_REGION", " ").load();
    assert_eq!(s3(&config).endpoint.host(), "from-file.s3.eu-west-1.amazonaws.com");
    let region = world()
        .var("S3_BUCKET", "b-1")
        .var("AWS_REGION", "")
        .var("AWS_DEFAULT_REGION", "eu-west-3")
        .load();
    assert_eq!(s3(&region).endpoint.host(), "b-1.s3.eu-west-3.amazonaws.com");
}

#[test]
fn the_env_file_stands_behind_the_environment() {
    let file = "\u{feff}# old settings\nexport S3_BUCKET=\"from-env-file\"\r\nAWS_REGION=eu-west-1 # Ireland\n\nCHUNK_SIZE=512\nTLS_WAIT_TIME=''\n";
    let config = world().env_file(file).var("CHUNK_SIZE", "1024").load();
    assert_eq!(s3(&config).endpoint.host(), "from-env-file.s3.eu-west-1.amazonaws.com");
    assert_eq!(config.drip.chunk_size.bytes(), 1024);
    let unset = world().env_file(file).var("CHUNK_SIZE", "").load();
    assert_eq!(unset.drip.chunk_size.bytes(), 4096);
}

#[test]
fn an_env_file_that_is_wrong_names_its_lines() {
    let world =
        world().env_file("S3_BUCKET=bucket\nnonsense # here\nA=b c\nAWS_REGION=x\nA='open\nB=1\n");
    let wrong = "not NAME=value; quote a value that has spaces in it";
    assert_eq!(
        world.errors(),
        [
            format!("DIR/.env line 2: {wrong}"),
            format!("DIR/.env line 3: {wrong}"),
            format!("DIR/.env line 5: {wrong}")
        ]
    );
    let mut gone = world;
    gone.sources.env_file = Some("/nonexistent/.env".into());
    assert_eq!(
        gone.errors(),
        ["/nonexistent/.env: cannot be read: No such file or directory (os error 2)"]
    );
}

#[test]
fn the_variables_of_a_kubernetes_service_are_left_alone() {
    let mut world = classic();
    for (name, value) in [
        ("DRIPLINE_SERVICE_HOST", "10.0.0.1"),
        ("DRIPLINE_SERVICE_PORT", "8443"),
        ("DRIPLINE_SERVICE_PORT_HTTPS", "8443"),
        ("DRIPLINE_PORT", "tcp://10.0.0.1:8443"),
        ("DRIPLINE_PORT_8443_TCP", "tcp://10.0.0.1:8443"),
        ("DRIPLINE_PORT_8443_TCP_ADDR", "10.0.0.1"),
        ("DRIPLINE_PORT_8443_TCP_PORT", "8443"),
        ("DRIPLINE_PORT_8443_TCP_PROTO", "tcp"),
        ("DRIPLINE_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("DRIPLINE_PORT_X_PORT_8443_TCP", "tcp://10.0.0.3:8443"),
        ("DRIPLINE_PORT_X_PORT_8443_TCP_PORT", "8443"),
    ] {
        world = world.var(name, value);
    }
    world.load();
}

#[test]
fn names_that_other_tools_have_for_a_key_are_warned_of_unless_it_has_a_value() {
    let near = |name: &str, value: &str| classic().var(name, value).load().warnings;
    assert_eq!(
        near("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")[0],
        "AWS_ENDPOINT_URL is not read; write s3.endpoint, or set DRIPLINE__S3__ENDPOINT"
    );
    assert_eq!(near("S3_REGION", "eu-west-1"), [SELF_SIGNED, PLAIN]);
    assert_eq!(near("AWS_ENDPOINT_URL", ""), [SELF_SIGNED, PLAIN]);
    let missing = world().var("S3_BUCKET_NAME", "b").var("S3_REGION", "eu-west-1").errors();
    assert_eq!(
        missing,
        [
            "s3.bucket: missing; write the bucket's name here or in S3_BUCKET (S3_BUCKET_NAME is not read)",
            "s3.region: missing; write the bucket's region here or in AWS_REGION (S3_REGION is not read)",
        ]
    );
}
