//! `forward_proxy`.

use super::*;

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
        (
            "[{class: desk}]",
            format!("{at}[0].clients: missing; write the networks whose tunnels the class is for"),
        ),
        (
            "[{clients: [], class: desk}]",
            format!("{at}[0].clients: is empty; nobody could be counted here"),
        ),
        (
            "[{clients: [10.0.0.0/8]}]",
            format!("{at}[0].class: missing; write a class of shaping.classes"),
        ),
        (
            "[{clients: [10.0.0.0/8], class: up}]",
            format!(
                "{at}[0].class: `up` has children, and only a class without any can be fed; write one of desk, rest"
            ),
        ),
        (
            "[{clients: [10.0.0.0/8], class: desc}]",
            format!("{at}[0].class: there is no class `desc`; write one of desk, rest"),
        ),
        (
            "[{clients: [10.0.0.0/8], class: desk, rate: 1}]",
            format!("{at}[0].rate: unknown key; remove it"),
        ),
    ] {
        assert_eq!(errors(&proxy(classes)), [expected], "{classes}");
    }
}

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
    assert_eq!(tunnels.limits, crate::forward_proxy::Limits::default());
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
