//! `listen`: addresses, certificates, the PROXY protocol, and what no other listener may take.

use super::*;

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
