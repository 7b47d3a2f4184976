//! A resolver that lies, and what its names lead to: each test runs in a network and a mount namespace of its
//! own, where /etc/hosts is the test's, which the system's resolver believes as it would a DNS server that
//! somebody else has a hand in, and where the loopback interface has an address of S3's. Nothing leaves it.

use super::*;
use std::process::Command;
use std::sync::Mutex;
use tokio::net::{TcpListener, UdpSocket};

/// Set in the process that has namespaces of its own.
const APART: &str = "DRIPLINE_TEST_APART";

/// An address of S3's, in those namespaces.
const S3: &str = "52.216.9.9";

/// As in Kubernetes: nearly every name is first looked up below the domain.
const RESOLV_CONF: &str =
    "nameserver 127.0.0.1\nsearch trap.example\noptions ndots:5 timeout:1 attempts:1\n";

/// Names of S3's, with where they are made to lead, and the line that says why that is refused.
const LIES: [(&str, &str, &str); 8] = [
    ("loop", "127.0.0.1", "it leads to 127.0.0.1, which is loopback"),
    ("loop6", "::1", "it leads to ::1, which is loopback"),
    ("meta", "169.254.169.254", "it leads to 169.254.169.254, which is link-local"),
    ("home", "192.168.1.1", "it leads to 192.168.1.1, which is private"),
    ("ula", "fd00::1", "it leads to fd00::1, which is private"),
    (
        "nat64",
        "64:ff9b::7f00:1",
        "it leads to 64:ff9b::7f00:1, which is an IPv4 address inside IPv6",
    ),
    ("cgnat", "100.64.0.1", "it leads to 100.64.0.1, which is carrier-grade NAT"),
    ("null", "0.0.0.0", "it leads to 0.0.0.0, which is unspecified"),
];

/// Runs `test`, which is this module's test of that name, where names lead to what `hosts` says.
fn apart(name: &str, hosts: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(APART).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(test);
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    std::fs::write(&file, hosts).unwrap();
    std::fs::write(dir.path().join("resolv.conf"), RESOLV_CONF).unwrap();
    let script = "mount --bind \"$0\" /etc/hosts && \
                  mount --bind \"${0%/*}\"/resolv.conf /etc/resolv.conf && ip link set lo up && ip addr add \"$1\"/32 dev lo && \
                  shift && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c", script])
        .arg(&file)
        .arg(S3)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("resolvers::{name}"), "--nocapture"])
        .env(APART, "yes")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
}

#[test]
fn names_of_s3_that_lead_into_the_house_are_refused() {
    let hosts: String =
        LIES.iter().map(|(name, ip, _)| format!("{ip} {name}.{SERVICE}.\n")).collect();
    let hosts = hosts + "127.0.0.1 sts.us-east-1.amazonaws.com. x.store.example.\n";
    apart("names_of_s3_that_lead_into_the_house_are_refused", &hosts, async {
        let proxy = Proxy::start("endpoints: ['*.store.example:443']").await;
        for (name, _, why) in LIES {
            let (_, answer) = proxy.connect(&format!("{name}.{SERVICE}:443")).await;
            assert_eq!(answer.status, 403, "{name}: {answer:?}");
            assert_eq!(answer.body.trim_end(), format!("{name}.{SERVICE} is refused: {why}"));
        }
        for target in ["sts.us-east-1.amazonaws.com:443", "x.store.example:443"] {
            let (_, answer) = proxy.connect(target).await;
            assert!(
                answer.status == 403 && answer.body.contains("which is loopback"),
                "{answer:?}"
            );
        }
        proxy.until_refused("address", 10).await;
    });
}

#[test]
fn of_several_addresses_those_that_pass_are_tried_in_turn() {
    // Two may not be used, one refuses the connection, one answers.
    let all = ["127.0.0.1", "10.0.0.1", "52.216.9.8", S3];
    let hosts: String = all.iter().map(|ip| format!("{ip} {HOST}.\n")).collect();
    apart("of_several_addresses_those_that_pass_are_tried_in_turn", &hosts, async {
        let listener = TcpListener::bind((S3, 443)).await.unwrap();
        let proxy = Proxy::start("").await;
        let (mut client, answer) = proxy.connect(TARGET).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client.write_all(&hellos::hello(Some(HOST))).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        timeout(LIMIT, server.read_u8()).await.expect("in time").unwrap();
    });
}

#[test]
fn an_exact_name_of_the_configuration_may_lead_into_the_house() {
    let hosts = "127.0.0.2 minio.lan\n127.0.0.1 minio.lan\n169.254.169.254 meta.lan\n";
    apart("an_exact_name_of_the_configuration_may_lead_into_the_house", hosts, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let keys = format!("endpoints: ['minio.lan:{port}', 'meta.lan:443']");
        let proxy = Proxy::start(&keys).await;
        let (mut client, answer) = proxy.connect(&format!("minio.lan:{port}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client.write_all(&hellos::hello(Some("minio.lan"))).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        timeout(LIMIT, server.read_u8()).await.expect("in time").unwrap();
        // But never to the metadata service.
        let (_, answer) = proxy.connect("meta.lan:443").await;
        assert!(answer.status == 403 && answer.body.contains("link-local"), "{answer:?}");
    });
}

#[test]
fn with_ip_ranges_s3s_names_lead_to_s3s_addresses_alone() {
    let hosts = format!("{S3} {HOST}. x.store.example\n");
    apart("with_ip_ranges_s3s_names_lead_to_s3s_addresses_alone", &hosts, async {
        let _listener = TcpListener::bind((S3, 443)).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ip-ranges.json");
        let write = |token: u32, prefix: &str| {
            let text = format!(
                r#"{{"syncToken":"{token}","prefixes":[{{"ip_prefix":"{prefix}","service":"S3"}},
                    {{"ip_prefix":"52.0.0.0/8","service":"AMAZON"}}],"ipv6_prefixes":[]}}"#
            );
            std::fs::write(&file, text).unwrap();
        };
        write(1, "52.92.0.0/17");
        let endpoints = "endpoints: ['x.store.example:443']";
        let proxy = Proxy::start(&format!("ip_ranges: '{}', {endpoints}", file.display())).await;
        let (_, answer) = proxy.connect(TARGET).await;
        let line = format!("{HOST} is refused: it leads to {S3}, which is not S3's\n");
        assert_eq!((answer.status, answer.body), (403, line));
        // An endpoint that is not Amazon's is not to be found there.
        assert_eq!(proxy.connect("x.store.example:443").await.1.status, 200);
        // The file changes, and with it what is S3's.
        write(2, "52.216.0.0/15");
        let changed = async {
            while proxy.connect(TARGET).await.1.status != 200 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        timeout(LIMIT, changed).await.expect("the new file");
    });
}

#[test]
fn a_name_that_does_not_resolve() {
    apart("a_name_that_does_not_resolve", "", async {
        let proxy = Proxy::start("endpoints: ['nowhere.invalid:443']").await;
        let (_, answer) = proxy.connect("nowhere.invalid:443").await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.body.starts_with("cannot resolve nowhere.invalid: "), "{answer:?}");
        proxy.until_refused("resolve", 1).await;
    });
}

/// A DNS server that knows every name below trap.example, and no other. Keeps what it is asked for.
async fn wildcard(socket: UdpSocket, asked: Arc<Mutex<Vec<String>>>) {
    let mut packet = [0; 512];
    loop {
        let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
        // RFC 1035 §4.1: 12 bytes of header, then the question: labels, type, class.
        let mut at = 12;
        let mut name = String::new();
        while packet[at] != 0 {
            let end = at + 1 + usize::from(packet[at]);
            name += &String::from_utf8_lossy(&packet[at + 1..end]);
            name += ".";
            at = end;
        }
        assert!(at + 5 <= length);
        let (known, is_a) = (name.ends_with(".trap.example."), packet[at + 2] == 1);
        asked.lock().unwrap().push(name);
        let mut answer = packet[..at + 5].to_vec();
        let found = u8::from(known && is_a);
        // QR, RD; RA, and NXDOMAIN for others; one question, no other record.
        answer[2..12].copy_from_slice(&[
            0x81,
            if known { 0x80 } else { 0x83 },
            0,
            1,
            0,
            found,
            0,
            0,
            0,
            0,
        ]);
        if found == 1 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 52, 216, 9, 9]);
        }
        socket.send_to(&answer, peer).await.unwrap();
    }
}

#[test]
fn a_name_that_does_not_exist_is_not_looked_for_elsewhere() {
    apart("a_name_that_does_not_exist_is_not_looked_for_elsewhere", "", async {
        let _listener = TcpListener::bind((S3, 443)).await.unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let socket = UdpSocket::bind("127.0.0.1:53").await.unwrap();
        tokio::spawn(wildcard(socket, Arc::clone(&asked)));
        let proxy = Proxy::start("endpoints: ['*.store.example:443', 'minio.lan:443']").await;
        let made_up = [HOST, "sts.us-east-1.amazonaws.com", "x.store.example"];
        for host in made_up {
            let (_, answer) = proxy.connect(&format!("{host}:443")).await;
            assert_eq!(answer.status, 502, "{host}: {answer:?}");
            let mut asked = asked.lock().unwrap();
            assert!(
                !asked.is_empty() && asked.iter().all(|name| *name == format!("{host}.")),
                "{asked:?}"
            );
            asked.clear();
        }
        // What the configuration has in full is meant as it is written.
        assert_eq!(proxy.connect("minio.lan:443").await.1.status, 200);
    });
}
