//! The simulated network under the programs' own TLS: turmoil's sockets, and a name for whichever controller leads.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use turmoil::net::{TcpListener, TcpStream};
use vigie_transport::network::{Accept, Network, Socket};

use crate::world::{CONTROLLERS, World};

/// What a client dials through.
pub(crate) struct Simulated(pub(crate) Arc<World>);

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Simulated")
    }
}

#[async_trait]
impl Network for Simulated {
    /// Every name is the controllers': it stands for the one that leads, as a name in DNS does that somebody moves.
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![(turmoil::lookup(CONTROLLERS[self.0.leader()]), port).into()])
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        Ok(Box::new(TcpStream::connect(address).await?))
    }
}

/// A socket that listens.
struct Listening(TcpListener);

/// Listens on a port of the present host.
pub(crate) async fn listen(port: u16) -> io::Result<Box<dyn Accept>> {
    Ok(Box::new(Listening(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?)))
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listening")
    }
}

#[async_trait]
impl Accept for Listening {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (socket, address) = self.0.accept().await?;
        Ok((Box::new(socket), address))
    }
}
