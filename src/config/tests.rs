//! Whole configurations: every message word for word, all of them together, and which source wins.

use std::fs;
use std::path::Path;

use super::*;
use crate::tls::identity::Identity;

/// A directory of files, and the environment beside it.
struct World {
    dir: tempfile::TempDir,
    sources: Sources,
}

fn world() -> World {
    World { dir: tempfile::tempdir().unwrap(), sources: Sources::default() }
}

/// A world whose environment alone is enough to run.
fn classic() -> World {
    world().var("S3_BUCKET", "firmware").var("AWS_REGION", "ap-southeast-2")
}

impl World {
    fn var(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn yaml(mut self, text: &str) -> Self {
        self.sources.file = Some(self.write("dripline.yaml", text.as_bytes()));
        self
    }

    fn env_file(mut self, text: &str) -> Self {
        self.sources.env_file = Some(self.write(".env", text.as_bytes()));
        self
    }

    fn write(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self) -> Config {
        Config::load(&self.sources).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The errors' lines, with the directory's name as `DIR`.
    fn errors(&self) -> Vec<String> {
        let errors = Config::load(&self.sources).expect_err("it loads").to_string();
        errors
            .replace(&self.dir.path().display().to_string(), "DIR")
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// The errors of a file beside the classic names.
fn errors(yaml: &str) -> Vec<String> {
    classic().yaml(yaml).errors()
}

/// The errors of one variable beside the classic names.
fn variable_errors(name: &str, value: &str) -> Vec<String> {
    classic().var(name, value).errors()
}

fn pem() -> (Vec<u8>, Vec<u8>) {
    let identity = Identity::self_signed(&["localhost"]).unwrap();
    (identity.cert_pem().unwrap(), identity.key().private_key_to_pem_pkcs8().unwrap())
}

fn text(pem: &[u8]) -> &str {
    std::str::from_utf8(pem).unwrap()
}

/// Where objects come from.
fn s3(config: &Config) -> &S3 {
    config.s3.as_ref().expect("a bucket")
}

const SELF_SIGNED: &str = "listen[0].tls: 0.0.0.0:8443 serves a self-signed certificate made at start, which no \
    device trusts; name cert and key, or set DRIPLINE_TLS_CERT_PEM and DRIPLINE_TLS_KEY_PEM";
const PLAIN: &str = "listen[1]: 0.0.0.0:8080 serves plain HTTP, because `listen` is not set; presigned URLs can \
    be read on the way";

#[test]
fn the_classic_names_alone_run_with_the_defaults() {
    let config = classic().load();
    let listeners: Vec<_> =
        config.listen.iter().map(|l| (l.addr.to_string(), l.tls.is_some())).collect();
    assert_eq!(listeners, [("0.0.0.0:8443".to_owned(), true), ("0.0.0.0:8080".to_owned(), false)]);
    assert_eq!(s3(&config).endpoint.host(), "firmware.s3.ap-southeast-2.amazonaws.com");
    assert_eq!((&s3(&config).ca, s3(&config).authorization), (&None, false));
    assert_eq!(config.drip.chunk_size.bytes(), 4096);
    assert_eq!(config.drip.wait, Duration::from_millis(500));
    assert!(config.drip.response_headers.is_empty());
    assert_eq!(config.upstream, Upstream::default());
    assert_eq!(config.admin, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(config.health, None);
    assert_eq!(config.log, LogFormat::Text);
    assert_eq!(config.server, Server::default());
    assert_eq!(config.warnings, [SELF_SIGNED, PLAIN]);
}

#[test]
fn every_key_reaches_the_configuration() {
    let world = world();
    let (cert, key) = pem();
    let cert = world.write("cert.pem", &cert).display().to_string();
    let key = world.write("key.pem", &key).display().to_string();
    let config = world
        .yaml(&format!(
            "listen: [{{addr: '127.0.0.1:0', tls: {{cert: {cert}, key: {key}}}}}, {{addr: '[::1]:80'}}]\n\
             s3: {{bucket: b.c, endpoint: 'http://127.0.0.1:9000', addressing: path, ca: {cert}, authorization: true}}\n\
             drip: {{chunk_size: 1KiB, wait: 0, response_headers: [x-amz-meta-*, X-Amz-Version-Id]}}\n\
             upstream: {{connect_timeout: 1s, response_timeout: 2s, idle_timeout: 3s, recv_buffer: 4KiB}}\n\
             admin: {{addr: '[::1]:9100'}}\nhealth: {{addr: '0.0.0.0:9101'}}\n\
             log: {{format: json}}\nserver: {{threads: 3, drain_timeout: 1h30m}}\n"
        ))
        .load();
    assert_eq!(config.listen.len(), 2);
    assert!(config.listen[0].tls.is_some() && config.listen[1].tls.is_none());
    assert_eq!(s3(&config).endpoint.host(), "127.0.0.1");
    assert_eq!(s3(&config).ca, Some(cert.into()));
    assert!(s3(&config).authorization);
    assert_eq!(config.drip.chunk_size.bytes(), 1024);
    assert_eq!(config.drip.wait, Duration::ZERO);
    let headers: Vec<_> = config.drip.response_headers.iter().map(ToString::to_string).collect();
    assert_eq!(headers, ["x-amz-meta-*", "x-amz-version-id"]);
    let upstream = [
        config.upstream.connect_timeout,
        config.upstream.response_timeout,
        config.upstream.idle_timeout,
    ];
    assert_eq!(upstream.map(|timeout| timeout.as_secs()), [1, 2, 3]);
    assert_eq!(config.upstream.recv_buffer, ByteSize::new(4096));
    assert_eq!(config.admin, Some("[::1]:9100".parse().unwrap()));
    assert_eq!(config.health, Some("0.0.0.0:9101".parse().unwrap()));
    assert_eq!(config.log, LogFormat::Json);
    assert_eq!(
        config.server,
        Server { threads: 3, drain_timeout: Duration::from_secs(5400), ..Server::default() }
    );
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn an_empty_file_or_section_is_as_good_as_none() {
    for yaml in ["", "# nothing\n", "s3:\ndrip: {}\nlisten:\nhealth:\nadmin:\n"] {
        assert_eq!(classic().yaml(yaml).load().listen.len(), 2);
    }
}

#[test]
fn all_errors_come_together_each_with_its_path_and_source() {
    let world = world()
        .yaml(
            "lisen: []\nlisten: [{addr: 8443}]\ns3: {bukket: x, region: 7}\ndrip: {chunk_size: 0, wait: 500}\n\
             spool: {max_bytes: 20M}\n",
        )
        .var("DRIPLINE__UPSTREAM__IDLE_TIMEOUT", "0s")
        .var("DRIPLINE__LOG__FROMAT", "json");
    assert_eq!(
        world.errors(),
        [
            "listen[0].addr: `8443` is not an IP address and a port; write one such as 127.0.0.1:8080 or [::1]:8080",
            "s3.bucket: missing; write the bucket's name here or in S3_BUCKET",
            "s3.region: must be text, not a number; write \"7\"",
            "s3.bukket: unknown key; did you mean s3.bucket?",
            "drip.chunk_size: 0 bytes is not a possible record size; write 64 to 16384",
            "drip.wait: `500` has no unit; write 500ms or 500s",
            "spool.max_bytes: `20M` does not say which unit; write 20MiB or 20MB",
            "upstream.idle_timeout: `0s` is out of range; write 1ms to 1day (from DRIPLINE__UPSTREAM__IDLE_TIMEOUT)",
            "log.fromat: unknown key; did you mean log.format? (from DRIPLINE__LOG__FROMAT)",
            "lisen: unknown key; did you mean listen?",
        ]
    );
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

#[test]
fn a_profile_has_the_class_of_all_unless_it_names_one() {
    let config = classic()
        .yaml(
            "shaping: {classes: [{name: all, max_limit: 8Mbit}, {name: few, max_limit: 8Mbit}]}\n\
             drip: {class: all}\nprofiles: [{name: a, match: {sni: a}}, {name: b, match: {sni: b}, class: few}, \
             {name: c, match: {sni: c}, class: off}]",
        )
        .load();
    let of = |at: usize| config.profiles.list[at].drip.class.as_deref();
    assert_eq!([of(0), of(1), of(2)], [Some("all"), Some("few"), None]);
    assert_eq!(config.profiles.default.drip.class.as_deref(), Some("all"));
}

#[test]
fn uploads_are_off_unless_enabled() {
    let uploads = |yaml: &str| classic().yaml(yaml).load().uploads;
    assert_eq!(uploads(""), None);
    let tree = "shaping: {classes: [{name: a, max_limit: 8Mbit}]}\n";
    assert_eq!(uploads(&format!("{tree}uploads: {{class: a}}")), None);
    let under = Some(Uploads { class: Some("a".into()) });
    assert_eq!(uploads(&format!("{tree}uploads: {{enabled: true, class: a}}")), under);
    assert_eq!(uploads("uploads: {enabled: true}"), Some(Uploads { class: None }));
    assert_eq!(
        errors("uploads: {enabled: yes, clas: a}"),
        [
            "uploads.enabled: `yes` is not a switch; write true or false",
            "uploads.clas: unknown key; did you mean uploads.class?"
        ]
    );
}

#[test]
fn limits_have_defaults_and_ranges() {
    let limits = |yaml: &str| classic().yaml(yaml).load().limits;
    let default = limits("");
    assert_eq!(default, crate::limits::Settings::default());
    assert_eq!((default.connections, default.per_client), (20_000, 0));
    assert_eq!((default.header_bytes, default.requests_per_connection), (8192, 1000));
    let set = limits(
        "limits: {connections: 7, per_client: 2, header_bytes: 4KiB, header_timeout: 1s, handshake_timeout: 2s, \
         send_timeout: 3s, receive_timeout: 5s, requests_per_connection: 1, idle_timeout: 4s}",
    );
    assert_eq!(set.receive_timeout, Duration::from_secs(5));
    assert_eq!((set.connections, set.per_client, set.header_bytes), (7, 2, 4096));
    assert_eq!(set.requests_per_connection, 1);
    let times = [set.header_timeout, set.handshake_timeout, set.send_timeout, set.idle_timeout];
    assert_eq!(times, [1, 2, 3, 4].map(Duration::from_secs));
    for (wrong, message) in [
        ("connections: 0", "connections: `0` is not a number from 1 to 1048576"),
        ("per_client: -1", "per_client: `-1` is not a number from 0 to 1048576"),
        ("header_bytes: 1023", "header_bytes: `1023` is out of range; write 1KiB to 256KiB"),
        ("header_timeout: 0s", "header_timeout: `0s` is out of range; write 1ms to 1day"),
        (
            "requests_per_connection: 0",
            "requests_per_connection: `0` is not a number from 1 to 4294967295",
        ),
        ("idle: 1s", "idle: unknown key; remove it"),
    ] {
        assert_eq!(errors(&format!("limits: {{{wrong}}}")), [format!("limits.{message}")]);
    }
}

#[test]
fn a_proxy_protocol_needs_networks() {
    let listen = |proxy: &str| format!("listen: [{{addr: '0.0.0.0:1', proxy_protocol: {proxy}}}]");
    let trusted =
        |proxy: &str| classic().yaml(&listen(proxy)).load().listen[0].proxy_protocol.clone();
    assert_eq!(trusted("off"), None);
    let networks = trusted("{from: [10.0.0.0/8, '2001:db8::/32', 192.0.2.1]}").unwrap().from;
    assert_eq!(networks.len(), 3);
    for (wrong, message) in [
        ("{}", ".from: missing; write the networks of the load balancers, such as [10.0.0.0/8]"),
        ("{from: []}", ".from: is empty; every connection would be refused"),
        (
            "{from: [x]}",
            ".from[0]: is not a network; write one such as 10.0.0.0/8 or 2001:db8::/32",
        ),
        ("yes", ": must be a map of keys, not text"),
    ] {
        assert_eq!(errors(&listen(wrong)), [format!("listen[0].proxy_protocol{message}")]);
    }
}

#[test]
fn the_spool_is_on_unless_it_has_no_bytes() {
    let spool = |yaml: &str| classic().yaml(yaml).load().spool;
    let default = spool("").unwrap();
    assert_eq!(default.dir, std::path::Path::new("/var/cache/dripline"));
    assert_eq!((default.max_bytes, default.max_object), (1 << 30, 512 << 20));
    assert_eq!((default.max_objects, default.max_fills), (4096, 16));
    assert_eq!(default.trust, Duration::ZERO);
    assert_eq!(spool("spool: {max_bytes: 0}"), None);
    let set = spool(
        "spool: {dir: /a, max_bytes: 2GiB, max_object: 1MiB, max_objects: 7, max_fills: 3, trust: 5m}",
    );
    let set = set.unwrap();
    assert_eq!(set.dir, std::path::Path::new("/a"));
    assert_eq!((set.max_bytes, set.max_object), (2 << 30, 1 << 20));
    assert_eq!((set.max_objects, set.max_fills), (7, 3));
    assert_eq!(set.trust, Duration::from_secs(300));
    for (yaml, expected) in [
        ("spool: {dir: cache}", "spool.dir: cache is not an absolute path"),
        ("spool: {max_fills: 0}", "spool.max_fills: `0` is not a number from 1 to 1024"),
        (
            "spool: {max_objects: many}",
            "spool.max_objects: `many` is not a number from 1 to 1048576",
        ),
        ("spool: {trust: 8d}", "spool.trust: `8d` is out of range; write 0s to 7days"),
    ] {
        assert_eq!(errors(yaml), [expected]);
    }
}

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
fn s3_needs_what_its_host_needs() {
    let missing_region = "s3.region: missing; write the bucket's region here or in AWS_REGION";
    let bucket = |rest: &str| world().yaml(&format!("s3: {{bucket: firmware{rest}}}"));
    for rest in ["", ", host: dualstack", ", host: fips"] {
        assert_eq!(bucket(rest).errors(), [missing_region]);
    }
    assert_eq!(s3(&bucket(", host: global").load()).endpoint.host(), "firmware.s3.amazonaws.com");
    bucket(", host: accelerate").load();
    bucket(", endpoint: 'https://minio.example.net'").load();
    bucket(", region: eu-west-1, endpoint: 'https://minio.example.net'").load();
    assert_eq!(
        bucket(", host: regional, endpoint: 'https://minio.example.net'").errors(),
        ["s3.host: s3.endpoint names the host already; remove one of the two"]
    );
    assert_eq!(
        world().errors(),
        ["s3.bucket: missing; write the bucket's name here or in S3_BUCKET", missing_region]
    );
}

#[test]
fn what_s3s_own_types_refuse_is_reported_at_its_key() {
    let at = |yaml: &str| {
        let world = classic().yaml(yaml);
        let errors = Config::load(&world.sources).unwrap_err();
        assert_eq!(errors.as_slice().len(), 1, "{errors}");
        errors.as_slice()[0].at.clone()
    };
    assert_eq!(at("s3: {endpoint: 'ftp://x'}"), "s3.endpoint");
    assert_eq!(at("s3: {endpoint: 'http://[::1]:9000', addressing: virtual}"), "s3.addressing");
    assert_eq!(at("s3: {host: accelerate, addressing: path}"), "s3.addressing");
    assert_eq!(at("s3: {addressing: 5}"), "s3.addressing");
    let world = world().yaml("s3: {bucket: My_Bucket}");
    assert_eq!(
        world.errors(),
        [
            "s3.region: missing; write the bucket's region here or in AWS_REGION",
            "s3.bucket: \"My_Bucket\" cannot be a bucket at Amazon S3 or in virtual-hosted addressing: only lower-case \
             letters, digits, dots and hyphens may be in it",
        ]
    );
    let world = self::world().yaml("s3: {region: cn-north-1, host: global}");
    assert_eq!(
        world.errors(),
        [
            "s3.bucket: missing; write the bucket's name here or in S3_BUCKET",
            "s3.host: cn-north-1 has no global host, as no China region has: write regional or dualstack",
        ]
    );
    assert_eq!(at("drip: {response_headers: [etag, 'not a header']}"), "drip.response_headers[1]");
    let world = self::world().var("S3_BUCKET", "Not a bucket").var("AWS_REGION", "not a region");
    let errors = Config::load(&world.sources).unwrap_err();
    let places: Vec<_> =
        errors.as_slice().iter().map(|e| (e.at.as_str(), e.source.clone())).collect();
    let variable = |name: &str| Where::Variable(name.to_owned());
    assert_eq!(
        places,
        [("s3.bucket", variable("S3_BUCKET")), ("s3.region", variable("AWS_REGION"))]
    );
}

#[test]
fn the_ca_file_must_be_there_and_hold_certificates() {
    let world = classic();
    let none = world.write("none.pem", b"nothing").display().to_string();
    assert_eq!(
        world.yaml(&format!("s3: {{ca: {none}}}")).errors(),
        ["s3.ca: DIR/none.pem holds no PEM certificate"]
    );
    assert_eq!(
        errors("s3: {ca: /nonexistent/ca}"),
        ["s3.ca: cannot read /nonexistent/ca: No such file or directory (os error 2)"]
    );
}

#[test]
fn listeners_need_an_address_and_a_certificate_that_fits() {
    let world = classic();
    let (cert, key) = pem();
    let (_, other) = pem();
    for (name, pem) in
        [("cert", &cert), ("key", &key), ("other", &other), ("junk", &b"junk".to_vec())]
    {
        world.write(name, pem);
    }
    let dir = world.dir.path().display().to_string();
    let yaml = [
        "listen:\n- tls: {}".to_owned(),
        format!("- {{addr: '0.0.0.0:2', tls: {{cert: {dir}/cert}}}}"),
        format!("- {{addr: '0.0.0.0:3', tls: {{key: {dir}/key}}}}"),
        format!("- {{addr: '0.0.0.0:4', tls: {{cert: {dir}/gone, key: {dir}/lost}}}}"),
        format!("- {{addr: '0.0.0.0:5', tls: {{cert: {dir}/cert, key: {dir}/lost}}}}"),
        format!("- {{addr: '0.0.0.0:6', tls: {{cert: {dir}/cert, key: {dir}/other}}}}"),
        format!("- {{addr: '0.0.0.0:7', tls: {{cert: {dir}/empty, key: {dir}/key}}}}"),
        "- {addr: localhost:8, tls: }".to_owned(),
    ];
    world.write("empty", b"");
    assert_eq!(
        world.yaml(&yaml.join("\n")).errors(),
        [
            "listen[0].addr: missing; write an IP address and a port, such as 0.0.0.0:8443",
            "listen[1].tls.key: missing; write the path of the PEM file with the certificate's key",
            "listen[2].tls.cert: missing; write the path of the PEM file with the key's certificate",
            "listen[3].tls.cert: cannot read DIR/gone: No such file or directory (os error 2)",
            "listen[3].tls.key: cannot read DIR/lost: No such file or directory (os error 2)",
            "listen[4].tls.key: cannot read DIR/lost: No such file or directory (os error 2)",
            "listen[5].tls.key: the key is not the one of the certificate",
            "listen[6].tls.cert: not a PEM certificate chain: it holds no PEM certificate",
            "listen[7].addr: `localhost:8` is not an IP address and a port; write one such as 127.0.0.1:8080 or \
             [::1]:8080",
            "listen[7].tls: has no value; write {} for a certificate from the environment or a self-signed one, or \
             remove the key for plain HTTP",
        ]
    );
    assert_eq!(
        errors("listen: []"),
        [
            "listen: nothing to listen on; write [{addr: \"0.0.0.0:8443\", tls: {}}] or remove the key"
        ]
    );
}

#[test]
fn no_two_listeners_share_an_address() {
    let pair = |one: &str, other: &str| {
        classic().yaml(&format!("admin: off\nlisten: [{{addr: '{one}'}}, {{addr: '{other}'}}]"))
    };
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("127.0.0.1:80", "0.0.0.0:80"),
        ("[::]:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "[::]:80"),
        ("[::]:80", "[::1]:80"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
    ] {
        let expected = format!(
            "listen[1].addr: {other} is taken by listen[0].addr ({one}); choose another port"
        );
        assert_eq!(pair(one, other).errors(), [expected]);
    }
    for (one, other) in [
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("0.0.0.0:0", "0.0.0.0:0"),
    ] {
        pair(one, other).load();
    }
    assert_eq!(
        errors("listen: [{addr: '0.0.0.0:9100'}]\nhealth: {addr: '127.0.0.1:9100'}"),
        [
            "admin.addr: 127.0.0.1:9100 is taken by listen[0].addr (0.0.0.0:9100); choose another port, or write \
             `admin: off`",
            "health.addr: 127.0.0.1:9100 is taken by listen[0].addr (0.0.0.0:9100); choose another port",
        ]
    );
    assert_eq!(
        errors("health: {addr: '127.0.0.1:8080'}"),
        [
            "health.addr: 127.0.0.1:8080 is taken by listen[1].addr (0.0.0.0:8080, the default); choose another port"
        ]
    );
}

#[test]
fn admin_stays_on_loopback_or_off() {
    for yaml in ["admin: off", "admin: false", "admin: 'off'"] {
        assert_eq!(classic().yaml(yaml).load().admin, None);
    }
    assert_eq!(classic().var("DRIPLINE__ADMIN", "off").load().admin, None);
    let on = classic().yaml("admin: off").var("DRIPLINE__ADMIN__ADDR", "[::1]:9200").load();
    assert_eq!(on.admin, Some("[::1]:9200".parse().unwrap()));
    let default = classic().yaml("admin: {}").load();
    assert_eq!(default.admin, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(
        errors("admin: {addr: '0.0.0.0:9100'}"),
        [
            "admin.addr: 0.0.0.0:9100 is not a loopback address; elsewhere admin.token would be needed, which is not \
          available in this version of dripline; write 127.0.0.1:9100"
        ]
    );
    assert_eq!(
        errors("health: {}"),
        ["health.addr: missing; write an IP address and a port, such as 0.0.0.0:9101"]
    );
}

#[test]
fn pem_text_from_the_environment_serves_every_listener_without_files() {
    let (cert, key) = pem();
    let leaf = Identity::from_pem(&cert, &key).unwrap().chain()[0].to_pem().unwrap();
    let config = classic()
        .var("DRIPLINE_TLS_CERT_PEM", text(&cert))
        .var("DRIPLINE_TLS_KEY_PEM", &text(&key).replace('\n', "\\n"))
        .yaml("listen: [{addr: '0.0.0.0:1', tls: {}}, {addr: '0.0.0.0:2', tls: {}}]")
        .load();
    for listener in &config.listen {
        assert_eq!(listener.tls.as_ref().unwrap().identities[0].cert_pem().unwrap(), leaf);
    }
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn pem_text_that_is_wrong_names_its_variable() {
    let (cert, key) = pem();
    let (_, other) = pem();
    let load = |cert: &str, key: &str| {
        classic().var("DRIPLINE_TLS_CERT_PEM", cert).var("DRIPLINE_TLS_KEY_PEM", key)
    };
    let (cert, key, other) = (text(&cert), text(&key), text(&other));
    assert_eq!(
        load("junk", key).errors(),
        [
            "listen[0].tls.cert: not a PEM certificate chain: it holds no PEM certificate (from DRIPLINE_TLS_CERT_PEM)"
        ]
    );
    assert_eq!(
        load(cert, other).errors(),
        [
            "listen[0].tls.key: the key is not the one of the certificate (from DRIPLINE_TLS_KEY_PEM)"
        ]
    );
    assert_eq!(
        load(cert, "").errors(),
        [
            "listen[0].tls.key: missing; DRIPLINE_TLS_CERT_PEM is set, so set DRIPLINE_TLS_KEY_PEM too"
        ]
    );
    assert_eq!(
        load("", key).errors(),
        [
            "listen[0].tls.cert: missing; DRIPLINE_TLS_KEY_PEM is set, so set DRIPLINE_TLS_CERT_PEM too"
        ]
    );
    let unused = load(cert, key).yaml("listen: [{addr: '0.0.0.0:1'}]").load();
    assert_eq!(
        unused.warnings,
        ["DRIPLINE_TLS_CERT_PEM and DRIPLINE_TLS_KEY_PEM are not used: no listener has `tls: {}`"]
    );
}

#[test]
fn a_private_key_is_never_shown() {
    let (cert, key) = pem();
    let secret = text(&key).lines().nth(1).unwrap();
    let in_yaml = text(&key).replace('\n', "\\n");
    let misplaced = classic()
        .yaml(&format!(
            "listen: [{{addr: '0.0.0.0:1', tls: {{cert: \"{in_yaml}\", key: \"{in_yaml}\"}}}}]"
        ))
        .var("DRIPLINE_TLS_CERT_PEM", text(&cert))
        .var("DRIPLINE_TLS_KEY_PEM", text(&key))
        .var("DRIPLINE__DRIP__WAIT", text(&key))
        .var("DRIPLINE__S3__CA", text(&key))
        .var("CHUNK_SIZE", text(&key))
        .env_file(&format!("A={secret} {secret}\n"));
    let errors = misplaced.errors().join("\n");
    assert!(errors.contains("drip.chunk_size: `MASKED` is not a number of bytes"), "{errors}");
    assert_eq!(
        errors.matches("holds PEM text (MASKED); write the path of a file that holds it").count(),
        4
    );
    let debug = format!("{:?}", misplaced.sources);
    assert!(debug.contains("MASKED"), "{debug}");
    let loaded = classic()
        .var("DRIPLINE_TLS_CERT_PEM", text(&cert))
        .var("DRIPLINE_TLS_KEY_PEM", text(&key))
        .yaml("drip: {wait: 1s}")
        .load();
    let config = format!("{loaded:?}");
    assert!(config.contains("Listener { addr: 0.0.0.0:8443, tls: Some(\"MASKED\"), "), "{config}");
    for shown in [errors, debug, config] {
        assert!(!shown.contains(secret) && !shown.contains("BEGIN"), "{shown}");
    }
}

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
            "s3.bucket: S3_BUCKET (from-classic) goes before the file's from-file",
            "s3.region: AWS_DEFAULT_REGION (us-west-2) goes before the file's eu-west-1",
            "drip.wait: TLS_WAIT_TIME (250ms) goes before the file's 2s",
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
        ["s3.region: AWS_REGION (sa-east-1) goes before the file's eu-west-1"]
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
fn a_file_that_is_not_yaml_says_where() {
    let invalid = "DIR/dripline.yaml is not valid YAML";
    for (yaml, expected) in [
        ("s3: {bucket: a\ndrip: {}", format!("line 2 column 5: {invalid}: did not find expected ',' or '}}'")),
        ("drip:\n  wait: 1s\n  wait: 2s\n", format!("line 2 column 3: {invalid}: drip: duplicate entry with key \"wait\"")),
        ("- a\n", "DIR/dripline.yaml: must be a map of keys, such as `drip: {wait: 500ms}`, not a list".to_owned()),
        ("a: 1\n---\nb: 2\n", "DIR/dripline.yaml: not valid YAML: deserializing from YAML containing more than one document".to_owned()),
    ] {
        let errors = world().yaml(yaml).errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&expected), "{errors:?}");
    }
    // Both sources are reported, and nothing that may be in the lost part counts as missing.
    let world = world().yaml("\t").env_file("what").var("DRIPLINE__DRIP__WAIT", "5");
    let errors = world.errors();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert_eq!(
        errors[2],
        "drip.wait: `5` has no unit; write 5ms or 5s (from DRIPLINE__DRIP__WAIT)"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let mut gone = classic();
    gone.sources.file = Some("/nonexistent/dripline.yaml".into());
    assert_eq!(
        gone.errors(),
        ["/nonexistent/dripline.yaml: cannot be read: No such file or directory (os error 2)"]
    );
    gone.sources.file = Some(gone.write("latin1", b"s3: {bucket: \xe9}"));
    assert_eq!(gone.errors(), ["DIR/latin1: cannot be read: it is not UTF-8 text"]);
}

#[test]
fn a_profile_has_what_it_says_and_the_rest_from_drip() {
    let config = classic()
        .yaml(
            "listen: [{addr: '0.0.0.0:1'}, {addr: '0.0.0.0:2'}]\n\
             drip: {chunk_size: 4096, wait: 100ms, trusted_header: {name: X-Drip, from: [10.0.0.0/8]}}\n\
             profiles:\n\
             - {name: a, match: {listener: '0.0.0.0:2', sni: A.example, client: 192.0.2.1}, chunk_size: 512}\n\
             - {name: b, match: {key_prefix: fw/, header: {User-Agent: 'x*'}, client: [10.0.0.0/8, '2001:db8::/32']},\n\
                wait: 1s, fill: true, response_headers: [x-amz-meta-*],\n\
                bounds: {chunk_size: [512, 8192], wait: [0, 2s]}}",
        )
        .load();
    assert_eq!(config.warnings, Vec::<String>::new());
    let [a, b] = &config.profiles.list[..] else { panic!("two profiles") };
    assert_eq!((a.drip.chunk_size.bytes(), a.drip.wait.as_millis(), a.fill), (512, 100, false));
    assert_eq!(a.matches.server_name.as_deref(), Some("a.example"));
    assert_eq!(a.matches.clients.to_string(), "192.0.2.1/32");
    assert_eq!((b.drip.chunk_size.bytes(), b.drip.wait.as_millis(), b.fill), (4096, 1000, true));
    assert_eq!((b.drip.response_headers.len(), b.matches.headers.len()), (1, 1));
    let bounds = b.bounds.as_ref().unwrap();
    assert_eq!(bounds.chunk_size.end().bytes(), 8192);
    assert_eq!(*bounds.wait.end(), Duration::from_secs(2));
    assert_eq!(config.profiles.default.drip.chunk_size.bytes(), 4096);
}

#[test]
fn every_error_in_a_profile_is_named() {
    for (yaml, expected) in [
        ("profiles: {}", "profiles: must be a list, not a map"),
        (
            "profiles: [{name: a}]",
            "profiles[0].match: missing; write whom the profile is for, such as {key_prefix: firmware/nrf/}",
        ),
        (
            "profiles: [{match: {sni: a}}]",
            "profiles[0].name: missing; write a name for the log and the metrics",
        ),
        (
            "profiles: [{name: default, match: {sni: a}}]",
            "profiles[0].name: `default` is the name of another profile; choose one of its own",
        ),
        (
            "profiles: [{name: a, match: {}}]",
            "profiles[0].match: is empty; name at least one of listener, sni, key_prefix, header, client",
        ),
        (
            "profiles: [{name: a, match: {client: ten}}]",
            "profiles[0].match.client: is not a network; write one such as 10.0.0.0/8 or 2001:db8::/32",
        ),
        (
            "profiles: [{name: a, match: {header: {'a b': c}}}]",
            "profiles[0].match.header.a b: is not the name of a header",
        ),
        (
            "profiles: [{name: a, match: {sni: '*.example'}}]",
            "profiles[0].match.sni: must be one host name, such as nrf.example.com",
        ),
        (
            "profiles: [{name: a, match: {listener: '0.0.0.0:99'}}]",
            "profiles[0].match.listener: 0.0.0.0:99 is none of the listeners; write one as in listen[].addr",
        ),
        (
            "profiles: [{name: a, match: {key_prefix: 'a b'}}]",
            "profiles[0].match.key_prefix: must be how keys begin in a URL, without /file/ and percent-encoded, such as fw/nrf/",
        ),
        (
            "profiles: [{name: a, match: {sni: a}, bounds: {wait: [2s, 1s]}}]",
            "profiles[0].bounds.wait: must be a list of two: the least and the most",
        ),
        (
            "profiles: [{name: a, match: {sni: a}, chunk_size: 1}]",
            "profiles[0].chunk_size: 1 bytes is not a possible record size; write 64 to 16384",
        ),
        (
            "drip: {trusted_header: {from: [10.0.0.0/8]}}",
            "drip.trusted_header.name: missing; write a header's name, such as X-Drip",
        ),
        (
            "drip: {trusted_header: {name: X-Drip}}",
            "drip.trusted_header.from: missing; write the networks whose clients may send it",
        ),
        (
            "listen: [{addr: '0.0.0.0:1', tls: {certificates: []}}]",
            "listen[0].tls.certificates: is empty; write [{cert: …, key: …}], or remove the key",
        ),
        (
            "listen: [{addr: '0.0.0.0:1', tls: {certificates: [{}]}}]",
            "listen[0].tls.certificates[0].cert: missing; write the paths of a PEM certificate and its key",
        ),
        (
            "listen: [{addr: '0.0.0.0:1', tls: {tickets: 3}}]",
            "listen[0].tls.tickets: must be a number of session tickets, 0 to 2",
        ),
    ] {
        assert_eq!(errors(yaml), [expected], "{yaml}");
    }
}

#[test]
fn every_shipped_file_loads() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut found = 0;
    for entry in fs::read_dir(shipped).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let sources = Sources { file: Some(path.clone()), ..Sources::default() };
            let loaded = Config::load(&sources);
            assert!(loaded.is_ok(), "{}:\n{}", path.display(), loaded.unwrap_err());
            found += 1;
        }
    }
    assert!(found > 0, "there is no shipped file");
}

#[test]
fn the_reference_file_shows_every_key_and_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/dripline.yaml");
    let reference = fs::read_to_string(&path).unwrap();
    let everything = "listen: [{addr: x, tls: {}}, {addr: x, tls: {certificates: [{}]}}]\n\
         health: {addr: x}\nadmin: {addr: x}\ndrip: {trusted_header: {}}\n\
         profiles: [{match: {}, bounds: {}}]\nforward_proxy: {users: [{}], classes: [{}]}\n\
         shaping: {links: [{}], classes: [{pcq: {}}]}";
    let reader = Reader::default();
    let Value::Mapping(tree) = serde_yaml::from_str(everything).unwrap() else { panic!("no map") };
    let env = Environment::gather(&Sources::default(), &mut Reader::default());
    let _ = sections::config(reader.root(tree), &env);
    let known = reader.known();
    assert!(
        known.contains("listen[].tls.cert") && known.contains("upstream.recv_buffer"),
        "{known:?}"
    );
    for path in known {
        let key = format!("{}:", path.rsplit('.').next().unwrap());
        let shown = |line: &str| line.trim_start_matches([' ', '#', '-']).starts_with(&key);
        assert!(reference.lines().any(shown), "conf/dripline.yaml does not show {path}");
    }

    let sources = Sources { file: Some(path), ..Sources::default() };
    let (reference, default) = (Config::load(&sources).unwrap(), classic().load());
    let addresses = |config: &Config| {
        config.listen.iter().map(|l| (l.addr, l.tls.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&reference), addresses(&default));
    assert_eq!(format!("{:?}", reference.drip), format!("{:?}", default.drip));
    assert_eq!((reference.upstream, reference.server), (default.upstream, default.server));
    assert_eq!(
        (reference.admin, reference.health, reference.log),
        (default.admin, default.health, default.log)
    );
    let (reference, default) = (reference.s3.unwrap(), default.s3.unwrap());
    assert_eq!((reference.ca, reference.authorization), (default.ca, default.authorization));
}

/// The tree that the documentation shows.
const TREE: &str = "shaping:\n  links: [{name: wan}]\n  count: wire\n  classes:\n\
    \x20   - {name: upload, link: wan, max_limit: 20Mbit}\n\
    \x20   - {name: regular, parent: upload, limit_at: 19Mbit, max_limit: 20Mbit, priority: 2}\n\
    \x20   - {name: s3-bulk, parent: upload, limit_at: 1Mbit, max_limit: 20Mbit, priority: 8, burst: 64KiB,\n\
    \x20      pcq: {classifier: src-address, rate: 0}, dscp: le, pacing: true,\n\
    \x20      timetable: '08:00,2Mbit 18:00,10Mbit 23:00,off', timezone: Australia/Sydney}\n";

#[test]
fn every_key_of_a_class_reaches_the_tree() {
    let config = classic().yaml(TREE).load();
    let shaping = config.shaping.expect("a tree");
    assert_eq!((shaping.count, shaping.classes.len()), (shape::Count::Wire, 3));
    let bulk = &shaping.classes[2];
    assert_eq!((&*bulk.name, bulk.parent.as_deref()), ("s3-bulk", Some("upload")));
    assert_eq!((bulk.limit_at.bits(), bulk.max_limit.unwrap().bits()), (1_000_000, 20_000_000));
    assert_eq!((bulk.priority.number(), bulk.burst.unwrap().bytes()), (8, 64 << 10));
    assert_eq!(bulk.pcq.classifier, shape::Classifier::SrcAddress);
    assert_eq!((bulk.dscp.unwrap().tos(), bulk.pacing), (4, true));
    // 08:00 in Sydney's summer is 21:00 the day before in London's winter.
    let at = |time: &str| bulk.timetable.as_ref().unwrap().at(time.parse().unwrap());
    assert_eq!(at("2026-01-05T21:00:00Z").unwrap().to_string(), "2Mbit");
    assert_eq!(at("2026-01-05T12:00:00Z"), None);
    let unfed = |at, name| {
        format!(
            "shaping.classes[{at}]: nothing feeds {name}; name it in uploads.class, forward_proxy.class or profiles[].class"
        )
    };
    assert_eq!(config.warnings[2..], [unfed(1, "regular"), unfed(2, "s3-bulk")]);
    assert_eq!(classic().yaml("shaping: {classes: []}").load().shaping, None);
}

#[test]
fn every_error_of_the_classes_has_its_path() {
    let yaml = "shaping:\n  count: bytes\n  links: [{name: wan, scavenger: true, floor: 256kbit, target: 30ms}, {}]\n  classes:\n\
        \x20   - {name: up, link: lan, max_limit: 20M, prioriy: 3}\n\
        \x20   - {name: a, parent: up, limit_at: 5, max_limit: 0, priority: 9}\n\
        \x20   - {name: a, parent: down, dscp: low, burst: 1k, pcq: {classifier: port, rate: 1M}}\n\
        \x20   - {parent: up, timetable: '08:00,2Mbit 25:00,off', timezone: Mars/Olympus, pacing: maybe}\n\
        \x20   - {name: b, parent: c}\n    - {name: c, parent: b, limit_at: 2Mbit, max_limit: 1Mbit}\n";
    assert_eq!(
        errors(yaml),
        [
            "shaping.count: `bytes` is not what can be counted; write payload or wire",
            "shaping.links[0].scavenger: not available in this version of dripline; remove it",
            "shaping.links[0].floor: not available in this version of dripline; remove it",
            "shaping.links[0].target: not available in this version of dripline; remove it",
            "shaping.links[1].name: missing; write a name that classes can give as link",
            "shaping.classes[0].link: there is no link `lan`; describe it in shaping.links",
            "shaping.classes[0].max_limit: `20M` does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s",
            "shaping.classes[0].prioriy: unknown key; did you mean shaping.classes[0].priority?",
            "shaping.classes[1].limit_at: `5` has no unit; write 5bit, 5kbit or 5Mbit, or 5kB/s in bytes",
            "shaping.classes[1].priority: `9` is not a number from 1 (first) to 8",
            "shaping.classes[2].pcq.classifier: `port` is not a classifier; write src-address, user or connection",
            "shaping.classes[2].pcq.rate: `1M` does not say bits or bytes; write 1Mbit, 1MB/s or 1MiB/s",
            "shaping.classes[2].dscp: `low` is not a DSCP; write le, cs0 to cs7, af11 to af43, ef or 0 to 63",
            "shaping.classes[2].burst: `1k` does not say which unit; write 1KiB or 1kB",
            "shaping.classes[3].name: missing; write a name for the log and the metrics",
            "shaping.classes[3].pacing: `maybe` is not a switch; write true or false",
            "shaping.classes[3].timezone: `Mars/Olympus` is not a time zone; write one such as Australia/Sydney or UTC",
            "shaping.classes[3].timetable: `25:00,off` has no time of the day; write 00:00 to 23:59",
            "shaping.classes[1].max_limit: 0bit is out of range; write 1kbit to 1000Gbit",
            "shaping.classes[2].name: `a` is the name of another class; choose one of its own",
            "shaping.classes[2].parent: there is no class `down`",
            "shaping.classes[4].parent: `c` leads back to this class: that is a loop",
            "shaping.classes[5].max_limit: 1Mbit is less than limit_at, 2Mbit; a guarantee cannot exceed the ceiling",
            "shaping.classes[5].parent: `b` leads back to this class: that is a loop",
        ]
    );
    let blog = "shaping:\n  classes:\n    - {name: up, max_limit: 20Mbit}\n\
        \x20   - {name: a, parent: up, limit_at: 20Mbit}\n    - {name: b, parent: up, limit_at: 10Mbit}\n";
    assert_eq!(
        errors(blog),
        [
            "shaping.classes[0].max_limit: the limit_at of its children are 30Mbit together, more than its max_limit of 20Mbit"
        ]
    );
}

#[test]
fn clients_of_the_forward_proxy_may_have_classes_of_their_own() {
    let tree = "shaping: {classes: [{name: up, max_limit: 9Mbit}, {name: desk, parent: up}, {name: rest, parent: up}]}\n";
    let proxy = |classes: &str| {
        format!("{tree}forward_proxy: {{addr: '127.0.0.1:3128', class: rest, classes: {classes}}}")
    };
    let one = classic().yaml(&proxy("[{clients: [10.0.0.0/8, 'fd00::/8'], class: desk}]")).load();
    let own = &one.forward_proxy.unwrap().classes[0];
    assert_eq!((own.clients.len(), &*own.class), (2, "desk"));
    assert!(!one.warnings.iter().any(|warning| warning.contains("nothing feeds")), "desk is fed");

    let at = "forward_proxy.classes";
    for (classes, expected) in [
        ("[{class: desk}]", format!("{at}[0].clients: missing; write the networks")),
        (
            "[{clients: [], class: desk}]",
            format!("{at}[0].clients: is empty; nobody could be counted here"),
        ),
        ("[{clients: [10.0.0.0/8]}]", format!("{at}[0].class: missing; write a class")),
        ("[{clients: [10.0.0.0/8], class: up}]", format!("{at}[0].class: `up` has children")),
        ("[{clients: [10.0.0.0/8], class: desc}]", format!("{at}[0].class: ")),
        ("[{clients: [10.0.0.0/8], class: desk, rate: 1}]", format!("{at}[0].rate: ")),
    ] {
        let errors = errors(&proxy(classes));
        assert!(errors[0].starts_with(&expected), "{classes}: {errors:?}");
    }
}

#[test]
fn what_changes_nothing_in_a_tree_is_warned_of() {
    let yaml = "shaping:\n  classes:\n    - {name: up, priority: 1, dscp: le}\n\
        \x20   - {name: a, parent: up, timezone: UTC}\n";
    let config = classic().yaml(yaml).load();
    assert_eq!(
        config.warnings[2..],
        [
            "shaping.classes[1].timezone changes nothing without a timetable",
            "shaping.classes[0].priority changes nothing: up has children, and it is theirs that counts",
            "shaping.classes[0].dscp changes nothing: up has children, and it is theirs that counts",
            "shaping.classes[0]: up shares nothing out without a max_limit; write a little less than its link can carry",
            "shaping.classes[1]: nothing feeds a; name it in uploads.class, forward_proxy.class or profiles[].class",
        ]
    );
}

#[test]
fn a_class_that_is_named_must_be_one_that_can_be_fed() {
    let yaml = format!("{TREE}a: {{class: regular}}\nb: {{class: upload}}\nc: {{class: nobody}}\n");
    let reader = Reader::default();
    let Value::Mapping(tree) = serde_yaml::from_str(&yaml).unwrap() else { panic!("no map") };
    let mut root = reader.root(tree);
    let shaping = shaping::shaping(root.section("shaping"));
    let mut uses = shaping::ClassUses::default();
    for key in ["a", "b", "c"] {
        let mut section = root.section(key);
        assert!(uses.take(&mut section, "class").is_some());
        section.finish(&[]);
    }
    uses.judge(&reader, &shaping);
    root.finish(&[]);
    let errors = reader.finish().unwrap_err().to_string();
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "b.class: `upload` has children, and only a class without any can be fed; write one of regular, s3-bulk",
            "c.class: there is no class `nobody`; write one of regular, s3-bulk",
        ]
    );
}

const TUNNELS: &str = "forward_proxy: {addr: '192.168.80.2:3128', clients: [192.168.80.0/24, fd00::/8],\n\
    \x20 users: [{name: ann, password: 'a: b'}], endpoints: ['minio.lan:9000', '*.r2.cloudflarestorage.com:443'],\n\
    \x20 unshaped: none, buckets: [photos], resolve: {MinIO.lan: '10.0.0.9:9000'}, class: s3-bulk,\n\
    \x20 download_class: regular, connections: 5, per_client: 2, header_bytes: 1KiB, header_timeout: 1s,\n\
    \x20 hello_bytes: 4KiB, hello_timeout: 2s, connect_timeout: 3s, idle_timeout: 1h}\n";

#[test]
fn every_key_of_the_forward_proxy_reaches_it_and_no_bucket_is_needed() {
    let config = world().yaml(&format!("{TUNNELS}{TREE}")).load();
    assert!(config.listen.is_empty() && config.s3.is_none());
    let tunnels = config.forward_proxy.expect("a forward proxy");
    assert_eq!(tunnels.addr, "192.168.80.2:3128".parse().unwrap());
    assert_eq!(tunnels.clients.len(), 2);
    assert_eq!(&*tunnels.users[0].name, "ann");
    let endpoints: Vec<_> = tunnels.rules.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["minio.lan:9000", "*.r2.cloudflarestorage.com:443"]);
    assert!(!tunnels.rules.credentials);
    assert_eq!(tunnels.rules.buckets, Some(vec!["photos".to_owned()]));
    assert_eq!(tunnels.resolve["minio.lan"], "10.0.0.9:9000".parse().unwrap());
    let classes = (tunnels.class.as_deref(), tunnels.download_class.as_deref());
    assert_eq!(classes, (Some("s3-bulk"), Some("regular")));
    let limits = tunnels.limits;
    assert_eq!((limits.connections, limits.per_client), (5, 2));
    assert_eq!((limits.header_bytes, limits.hello_bytes), (1024, 4096));
    let times = [limits.header_timeout, limits.hello_timeout, limits.connect_timeout];
    assert_eq!(times.map(|time| time.as_secs()), [1, 2, 3]);
    assert_eq!(limits.idle_timeout.as_secs(), 3600);
    let least = world().var("DRIPLINE__FORWARD_PROXY__ADDR", "127.0.0.1:3128").load();
    assert!(least.listen.is_empty() && least.warnings.is_empty(), "{:?}", least.warnings);
    let tunnels = least.forward_proxy.expect("a forward proxy");
    assert_eq!((tunnels.rules.credentials, tunnels.class), (true, None));
    assert_eq!(tunnels.limits, forward_proxy::Limits::default());
}

#[test]
fn devices_are_listened_for_beside_a_forward_proxy_where_there_is_a_bucket() {
    let proxy = "forward_proxy: {addr: '127.0.0.1:3128'}\n";
    assert_eq!(classic().yaml(proxy).load().listen.len(), 2);
    let none = classic().yaml(&format!("{proxy}listen: []\n")).load();
    assert!(none.listen.is_empty() && none.s3.is_some());
    // AWS_REGION is in many an environment, whatever for.
    assert!(world().var("AWS_REGION", "us-east-1").yaml(proxy).load().listen.is_empty());
    let missing = ["s3.bucket: missing; write the bucket's name here or in S3_BUCKET"];
    let listens = format!("{proxy}listen: [{{addr: '0.0.0.0:80'}}]\ns3: {{region: us-east-1}}\n");
    assert_eq!(world().yaml(&listens).errors(), missing);
    assert_eq!(world().yaml("forward_proxy: off\ns3: {region: us-east-1}\n").errors(), missing);
}

#[test]
fn every_error_of_the_forward_proxy_has_its_path() {
    for (keys, expected) in [
        (
            "addr: '0.0.0.0:3128'",
            "clients: missing; write the networks whose clients may use the proxy, such as [192.168.80.0/24]",
        ),
        (
            "clients: [10.0.0.0/8]",
            "addr: missing; write an IP address and a port, such as 127.0.0.1:3128",
        ),
        (
            "addr: '127.0.0.1:8443'",
            "addr: 127.0.0.1:8443 is taken by listen[0].addr (0.0.0.0:8443, the default); choose another port",
        ),
        ("addr: '127.0.0.1:1', clients: []", "clients: is empty; nobody could use the proxy"),
        (
            "addr: '127.0.0.1:1', users: []",
            "users: must have 1 to 1000 entries; remove the key to ask nobody",
        ),
        (
            "addr: '127.0.0.1:1', users: [{name: 'a:b', password: 'x'}]",
            "users[0].name: must be a name without a colon (RFC 7617 §2)",
        ),
        (
            "addr: '127.0.0.1:1', users: [{name: a, password: 12345}]",
            "users[0].password: must be text in quotes, not a number",
        ),
        (
            "addr: '127.0.0.1:1', users: [{name: a, password: ''}]",
            "users[0].password: must not be empty",
        ),
        ("addr: '127.0.0.1:1', users: [{name: a}]", "users[0].password: missing"),
        (
            "addr: '127.0.0.1:1', endpoints: ['*.amazonaws.com:443']",
            "endpoints[0]: `*.amazonaws.com:443` would let clients reach hosts that are not S3; write a longer suffix, or the endpoints' names",
        ),
        (
            "addr: '127.0.0.1:1', endpoints: ['10.0.0.1:9000']",
            "endpoints[0]: `10.0.0.1:9000` is an IP address, which TLS cannot name (RFC 6066 §3); write a name here and its address in resolve",
        ),
        (
            "addr: '127.0.0.1:1', unshaped: all",
            "unshaped: `all` is not known; write aws-auth or none",
        ),
        (
            "addr: '127.0.0.1:1', buckets: [a_b]",
            "buckets[0]: cannot be part of a host name, by which alone a bucket is seen here",
        ),
        (
            "addr: '127.0.0.1:1', resolve: {a.b: '0.0.0.0:1'}",
            "resolve.a.b: is nothing to connect to",
        ),
        (
            "addr: '127.0.0.1:1', resolve: {'a b': '1.1.1.1:1'}",
            "resolve.a b: does not stand at a host name",
        ),
        (
            "addr: '127.0.0.1:1', ip_ranges: /nowhere/ip-ranges.json",
            "ip_ranges: cannot read /nowhere/ip-ranges.json: No such file or directory (os error 2)",
        ),
        (
            "addr: '127.0.0.1:1', class: a",
            "class: `a`: there are no classes; describe it in shaping.classes",
        ),
        (
            "addr: '127.0.0.1:1', hello_bytes: 1MiB",
            "hello_bytes: `1MiB` is out of range; write 512B to 64KiB",
        ),
        (
            "addr: '127.0.0.1:1', clinets: [10.0.0.0/8]",
            "clinets: unknown key; did you mean forward_proxy.clients?",
        ),
    ] {
        let expected = format!("forward_proxy.{expected}");
        assert_eq!(errors(&format!("forward_proxy: {{{keys}}}")), [expected], "{keys}");
    }
}

#[test]
fn a_password_is_never_shown() {
    let world = world().yaml(
        "forward_proxy: {addr: '127.0.0.1:1', users: [{name: 'a:b', password: 's3cret-1'}, \
         {name: x, password: [s3cret-2]}, {name: y, passwort: s3cret-3}]}",
    );
    let errors = world.errors().join("\n");
    assert!(errors.lines().count() >= 4 && !errors.contains("s3cret"), "{errors}");
    let config = classic().yaml(&format!("{TUNNELS}{TREE}")).load();
    assert!(!format!("{config:?}").contains("a: b"));
}
