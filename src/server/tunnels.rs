//! The forward proxy's listener: a socket, and what happens to the connections that it accepts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use log::info;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::accept::{Serve, accept};
use super::{Report, StartError};
use crate::forward_proxy::{self, ForwardProxy};
use crate::lifecycle::Lifecycle;
use crate::proxy::ProcessState;
use crate::shape::Shaper;
use crate::upgrade::Role;

/// A forward proxy whose socket is bound.
pub(super) struct Tunnels {
    pub(super) report: Report,
    proxy: Arc<ForwardProxy>,
}

impl Tunnels {
    /// Binds it with `socket`, if there is to be one.
    pub(super) fn bind(
        settings: Option<&forward_proxy::Settings>,
        shaper: &Option<Arc<Shaper>>,
        state: &ProcessState,
        socket: &mut impl FnMut(Role, SocketAddr, &str) -> Result<TcpListener, StartError>,
    ) -> Result<Option<Self>, StartError> {
        let Some(settings) = settings.cloned() else { return Ok(None) };
        let addr = settings.addr;
        let socket = socket(Role::ForwardProxy, addr, "forward_proxy.addr")?;
        let proxy =
            ForwardProxy::new(settings, shaper.clone(), &state.metrics, state.transfers.clone());
        Ok(Some(Self { report: Report { addr, socket }, proxy }))
    }

    /// To put other settings in place.
    pub(super) fn proxy(&self) -> Arc<ForwardProxy> {
        Arc::clone(&self.proxy)
    }

    /// Accepts until a drain begins.
    pub(super) fn serve(self, tasks: &mut JoinSet<()>, lifecycle: &Lifecycle) -> io::Result<()> {
        let Self { report: Report { socket, .. }, proxy } = self;
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
