//! The line that all share: house, router, modem and internet, four namespaces in a row. The modem
//! is the bottleneck: it sends at the link's rate and has a deep first-in, first-out buffer, as modems
//! have. The router can shape what leaves the house with the kernel's HTB. It must not know what flows.
//!
//!     house 10.77.1.x ── 10.77.1.254 router 10.77.2.1 ── 10.77.2.2 modem ═delay═ internet 203.0.113.2
//!                                     HTB here            TBF here

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::delay::{self, Delay};
use super::passed::Passed;
use super::place::Place;

/// Where dripline and the echo's client are.
pub const HOUSE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// The house's machines, each an address: bulk, a second one with bulk, and one with regular traffic.
pub const MACHINES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 77, 1, 2), Ipv4Addr::new(10, 77, 1, 3), Ipv4Addr::new(10, 77, 1, 4)];
/// The far end.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The port there that bulk traffic goes to, and by which the router knows it.
pub const BULK: u16 = 4433;
/// The port there of regular traffic.
pub const REGULAR: u16 = 4434;
/// The port there that sends back what comes, of the regular class too.
pub const CLICKS: u16 = 4435;

/// Propagation in one direction. Twice this is the round trip of an idle line.
const EACH_WAY: Duration = Duration::from_millis(10);
/// The modem's buffer, in time at the link's rate.
const BUFFER: Duration = Duration::from_millis(400);
/// Packets that a class's queue in the router holds: RouterOS's `default` queue type.
const QUEUE: u32 = 50;

/// A tree of two classes, bits per second on the wire, Ethernet headers included.
#[derive(Clone, Copy)]
pub struct Tree {
    /// What the modem can send.
    pub link: u64,
    /// The parent's max-limit, and that of both classes.
    pub parent: u64,
    /// The bulk class's limit-at. The regular class has the rest of the parent.
    pub bulk: u64,
}

impl Tree {
    /// The regular class's limit-at.
    pub fn regular(self) -> u64 {
        self.parent - self.bulk
    }
}

/// The namespaces and what joins them.
pub struct Line {
    /// Where senders are.
    pub house: Place,
    /// Where HTB is.
    pub router: Place,
    /// Where receivers are.
    pub internet: Place,
    /// What the bottleneck let through.
    pub passed: Arc<Passed>,
    _delay: Delay,
    _modem: Place,
}

impl Line {
    /// Makes all of it. `congestion` is the algorithm of every sender, `cubic` for one.
    pub async fn new(tree: Tree, congestion: &str) -> Result<Self, String> {
        let (house, router) = (Place::new("house").await?, Place::new("router").await?);
        let (modem, internet) = (Place::new("modem").await?, Place::new("internet").await?);
        for place in [&house, &router, &modem, &internet] {
            // Neighbour discovery is noise here. A kernel without IPv6 has none.
            let _ = place.sysctl("net/ipv6/conf/all/disable_ipv6", "1").await;
        }
        for end in [&house, &internet] {
            // What one connection learnt of the path must not decide the next one's start.
            end.sysctl("net/ipv4/tcp_no_metrics_save", "1").await?;
        }
        for gate in [&router, &modem] {
            gate.sysctl("net/ipv4/ip_forward", "1").await?;
        }

        let cable = |from, to, place: &Place| {
            format!("ip link add {from} type veth peer name {to} netns {}", place.file())
        };
        house.tool(&cable("lan", "lan", &router)).await?;
        router.tool(&cable("wan", "wan", &modem)).await?;
        for address in [HOUSE].iter().chain(&MACHINES) {
            house.tool(&format!("ip addr add {address}/24 dev lan")).await?;
        }
        router.tool("ip addr add 10.77.1.254/24 dev lan").await?;
        router.tool("ip addr add 10.77.2.1/24 dev wan").await?;
        modem.tool("ip addr add 10.77.2.2/24 dev wan").await?;
        let near = modem.run(async { delay::device("line") }).await?;
        let far = internet.run(async { delay::device("line") }).await?;
        modem.tool("ip addr add 203.0.113.1/24 dev line").await?;
        internet.tool(&format!("ip addr add {INTERNET}/24 dev line")).await?;
        for (place, device) in [
            (&house, "lan"),
            (&router, "lan"),
            (&router, "wan"),
            (&modem, "wan"),
            (&modem, "line"),
            (&internet, "line"),
        ] {
            // A packet is a packet: no queue is to see 64 KB in one piece.
            place.tool(&format!("ip link set dev {device} gso_max_segs 1 up")).await?;
        }
        // By the route, since a namespace may not make its default what its host restricts.
        house.tool(&format!("ip route add default via 10.77.1.254 congctl {congestion}")).await?;
        router.tool("ip route add default via 10.77.2.2").await?;
        modem.tool("ip route add 10.77.1.0/24 via 10.77.2.1").await?;
        internet.tool("ip route add default via 203.0.113.1").await?;

        let buffer = (tree.link / 8) as u128 * BUFFER.as_millis() / 1000;
        let link = tree.link;
        modem
            .tool(&format!(
                "tc qdisc add dev line root tbf rate {link}bit burst 4000 limit {buffer}"
            ))
            .await?;
        let passed = Arc::new(Passed::default());
        let delay = Delay::start(near, far, EACH_WAY, Arc::clone(&passed))?;
        Ok(Self { house, router, internet, passed, _delay: delay, _modem: modem })
    }

    /// Has the router shape by this tree, RouterOS's priorities 2 and 8. Whatever is not bulk is
    /// regular, the echo too.
    pub async fn shape(&self, tree: Tree) -> Result<(), String> {
        let parent = tree.parent;
        self.router.tool("tc qdisc add dev wan root handle 1: htb default 10").await?;
        self.class("add", "1: classid 1:1", parent, parent, 0).await?;
        self.class("add", "1:1 classid 1:10", tree.regular(), parent, 1).await?;
        self.class("add", "1:1 classid 1:20", tree.bulk, parent, 7).await?;
        for class in ["10", "20"] {
            let queue = format!("tc qdisc add dev wan parent 1:{class} pfifo limit {QUEUE}");
            self.router.tool(&queue).await?;
        }
        self.router
            .tool(&format!(
                "tc filter add dev wan parent 1: protocol ip u32 match ip dport {BULK} 0xffff flowid 1:20"
            ))
            .await
    }

    /// Gives the bulk class another max-limit.
    pub async fn limit_bulk(&self, tree: Tree, max_limit: u64) -> Result<(), String> {
        self.class("change", "1:1 classid 1:20", tree.bulk.min(max_limit), max_limit, 7).await
    }

    /// Has the router no longer shape.
    pub async fn unshape(&self) -> Result<(), String> {
        self.router.tool("tc qdisc del dev wan root").await
    }

    async fn class(
        &self,
        verb: &str,
        whose: &str,
        limit_at: u64,
        max_limit: u64,
        priority: u8,
    ) -> Result<(), String> {
        self.router
            .tool(&format!(
                "tc class {verb} dev wan parent {whose} htb rate {limit_at}bit ceil {max_limit}bit prio {priority} quantum 1514"
            ))
            .await
    }
}
