//! The forward proxy's listener, and its connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use log::info;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::accept::{Serve, Sockets, accept};
use super::{Bound, StartError};
use crate::forward_proxy::{self, ForwardProxy};
use crate::lifecycle::Lifecycle;
use crate::proxy::ProcessState;
use crate::shape::Shaper;
use crate::upgrade::Role;

/// A forward proxy whose socket is bound.
pub(super) struct Tunnels {
    pub(super) bound: Bound,
    proxy: Arc<ForwardProxy>,
}

impl Tunnels {
    /// Binds it.
    pub(super) fn bind(
        settings: &forward_proxy::Settings,
        shaper: &Option<Arc<Shaper>>,
        state: &ProcessState,
        sockets: &mut Sockets<'_>,
    ) -> Result<Self, StartError> {
        let bound = sockets.listen(Role::ForwardProxy, settings.addr, "forward_proxy.addr")?;
        let (metrics, transfers) = (&state.metrics, state.transfers.clone());
        let proxy = ForwardProxy::new(settings.clone(), shaper.clone(), metrics, transfers);
        Ok(Self { bound, proxy })
    }

    /// To put other settings in place.
    pub(super) fn proxy(&self) -> Arc<ForwardProxy> {
        Arc::clone(&self.proxy)
    }

    /// Accepts until a drain begins.
    pub(super) fn serve(self, tasks: &mut JoinSet<()>, lifecycle: &Lifecycle) -> io::Result<()> {
        let Self { bound: Bound { socket, .. }, proxy } = self;
        info!("forward proxy on {}", socket.local_addr()?);
        tasks.spawn(Arc::clone(&proxy).watch());
        let app = Arc::new(Tunneling { proxy });
        tasks.spawn(accept(socket, app, lifecycle.clone(), lifecycle.draining()));
        Ok(())
    }
}

struct Tunneling {
    proxy: Arc<ForwardProxy>,
}

impl Serve for Tunneling {
    async fn serve(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, lifecycle: Lifecycle) {
        self.proxy.serve(socket, peer, lifecycle).await;
    }
}
