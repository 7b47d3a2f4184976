//! After the 200: what begins a tunnel must be a ClientHello with the host's name, in any pieces.

use super::*;
use tokio::net::TcpListener;

/// What OpenSSL sends first.
pub fn hello(name: Option<&str>) -> Vec<u8> {
    struct Sink(Vec<u8>);
    impl std::io::Read for Sink {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::WouldBlock.into())
        }
    }
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut configuration =
        SslConnector::builder(SslMethod::tls_client()).unwrap().build().configure().unwrap();
    configuration.set_use_server_name_indication(name.is_some());
    let ssl = configuration.into_ssl(name.unwrap_or("a")).unwrap();
    let mut stream = openssl::ssl::SslStream::new(ssl, Sink(Vec::new())).unwrap();
    let _ = stream.connect();
    std::mem::take(&mut stream.get_mut().0)
}

/// The same message in records of `size` bytes.
fn cut(hello: &[u8], size: usize) -> Vec<u8> {
    let record = |piece: &[u8]| {
        [&[22, 3, 1], &u16::try_from(piece.len()).unwrap().to_be_bytes()[..], piece].concat()
    };
    hello[5..].chunks(size).flat_map(record).collect()
}

struct Far {
    listener: TcpListener,
    proxy: Proxy,
}

impl Far {
    async fn new(keys: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let proxy = Proxy::start(&format!("resolve: {{{HOST}: '{addr}'}}, {keys}")).await;
        Self { listener, proxy }
    }

    /// Both ends of what is to become a tunnel.
    async fn open(&self) -> (TcpStream, TcpStream) {
        let (client, answer) = self.proxy.connect(TARGET).await;
        assert_eq!(answer.status, 200);
        (client, self.listener.accept().await.unwrap().0)
    }

    /// What begins so is closed, with not a byte for the server.
    async fn refused(&self, begin: &[u8], reason: &str) {
        let (mut client, mut server) = self.open().await;
        client.write_all(begin).await.unwrap();
        assert_eq!(end_of(&mut client).await, b"", "{reason}");
        assert_eq!(end_of(&mut server).await, b"", "nothing gets through: {reason}");
        self.proxy.until_refused(reason, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_in_pieces_is_put_together_and_passed_on_as_it_came() {
    let far = Far::new("").await;
    for (records, pieces) in [(4096, 1), (1, 4096), (16, 5), (100, 100)] {
        let bytes = cut(&hello(Some(HOST)), records);
        let (mut client, mut server) = far.open().await;
        client.set_nodelay(true).unwrap();
        let (last, first) = bytes.split_last().unwrap();
        for piece in first.chunks(pieces) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let early = timeout(Duration::from_millis(100), server.read_u8()).await;
        assert!(early.is_err(), "held back until the last byte: {early:?}");
        client.write_all(&[*last]).await.unwrap();
        let mut seen = vec![0; bytes.len()];
        timeout(LIMIT, server.read_exact(&mut seen)).await.expect("in time").unwrap();
        assert_eq!(seen, bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_comes_with_the_request_is_not_lost() {
    let far = Far::new("").await;
    let hello = hello(Some(HOST));
    let mut client = TcpStream::connect(far.proxy.addr).await.unwrap();
    let request = format!("CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\n");
    client.write_all(&[request.as_bytes(), &hello].concat()).await.unwrap();
    assert_eq!(answer(&mut client).await.status, 200);
    let (mut server, _) = far.listener.accept().await.unwrap();
    let mut seen = vec![0; hello.len()];
    timeout(LIMIT, server.read_exact(&mut seen)).await.expect("in time").unwrap();
    assert_eq!(seen, hello);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_none_or_no_tls_is_closed_and_counted() {
    let far = Far::new("hello_bytes: 4KiB").await;
    far.refused(&hello(Some("evil.s3.ap-southeast-2.amazonaws.com")), "sni").await;
    far.refused(&hello(None), "no_sni").await;
    far.refused(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "not_tls").await;
    far.refused(&cut(&hello(Some(HOST)), 1)[..], "hello_bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_the_hosts_whatever_its_case() {
    let far = Far::new("").await;
    let (mut client, mut server) = far.open().await;
    client.write_all(&hello(Some(&HOST.to_uppercase()))).await.unwrap();
    timeout(LIMIT, server.read_u8()).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_whose_hello_does_not_come_is_closed_in_time() {
    let far = Far::new("hello_timeout: 300ms").await;
    let begin = hello(Some(HOST));
    far.refused(&begin[..begin.len() - 1], "hello_timeout").await;
    let (mut client, mut server) = far.open().await;
    let start = std::time::Instant::now();
    end_of(&mut client).await;
    end_of(&mut server).await;
    assert!(start.elapsed() >= Duration::from_millis(290), "{:?}", start.elapsed());
    far.proxy.until_refused("hello_timeout", 2).await;
    far.proxy.until("dripline_tunnels", 0).await;
}
