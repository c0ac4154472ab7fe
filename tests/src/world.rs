//! Everything that one scenario needs besides the product.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tempfile::TempDir;

use crate::dns::{Dns, Entry};
use crate::http::{self, Handler, Reply, Request};
use crate::namespace::{NAME_SERVER, scratch};
use crate::origin::{Origin, greet_and_echo};
use crate::tls::Authority;

/// Ports on which an origin greets first, as mail and database servers do.
const GREETING_PORTS: [u16; 6] = [22, 25, 5432, 6379, 8080, 9901];
/// What it says.
pub const GREETING: &str = "220 at your service\r\n";

/// Origins at every address of the namespace, on the ports that scenarios use, and the name server.
pub struct World {
    directory: TempDir,
    /// The name server; its table begins with the names of [`World::new`].
    pub dns: Dns,
    /// Plain HTTP on port 80 of every address.
    pub http: Origin,
    /// HTTPS on port 443 of every address, with a certificate for every name.
    pub https: Origin,
    /// Everything else that listens: HTTPS on 8443, and servers that speak first.
    pub others: Vec<Origin>,
    /// The authority that signs the certificates.
    pub authority: Arc<Authority>,
}

impl World {
    /// A world whose web servers answer `hello from <host>` to everything.
    ///
    /// # Errors
    /// When a server cannot be started.
    pub fn new() -> Result<Self> {
        Self::serving(Arc::new(|request: &Request| {
            Reply::new(200, format!("hello from {}\n", request.host())).with("Content-Type", "text/plain")
        }))
    }

    /// A world whose web servers answer with `handler`.
    ///
    /// # Errors
    /// When a server cannot be started.
    pub fn serving(handler: Handler) -> Result<Self> {
        let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let authority = Authority::new()?;
        let dns = Dns::start(NAME_SERVER.parse()?)?;
        for (name, addresses) in [
            ("example.com", &["93.184.216.34", "2606:2800:220:1::34"][..]),
            ("*.example.org", &["93.184.216.35", "2606:2800:220:1::35"]),
            ("example.org", &["93.184.216.36"]),
            ("cdn.example.net", &["93.184.216.37"]),
            ("evil.test", &["93.184.216.66"]),
            ("*.evil.test", &["93.184.216.66"]),
        ] {
            dns.set(name, Entry::addresses(addresses));
        }
        let https = authority.service(Arc::clone(&handler))?;
        let mut others = vec![Origin::start(everywhere(8443), Arc::clone(&https))?];
        for port in GREETING_PORTS {
            others.push(Origin::start(everywhere(port), greet_and_echo(GREETING))?);
        }
        let directory = TempDir::new_in(scratch())?;
        authority.write(&directory.path().join("ca.pem"))?;
        Ok(Self {
            directory,
            dns,
            http: Origin::start(everywhere(80), http::service(handler))?,
            https: Origin::start(everywhere(443), https)?,
            others,
            authority,
        })
    }

    /// A folder that is removed at the end.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The authority's certificate, as clients want it: a path.
    #[must_use]
    pub fn ca_file(&self) -> String {
        self.directory().join("ca.pem").to_string_lossy().into_owned()
    }

    /// Connections that any origin, at any address, has accepted so far.
    #[must_use]
    pub fn accepts(&self) -> usize {
        self.origins().map(Origin::accepts).sum()
    }

    /// Whether one of the origins listens on this port.
    #[must_use]
    pub fn has_origin_at(&self, port: u16) -> bool {
        self.origins().any(|origin| origin.address().port() == port)
    }

    /// The (address, port) pairs to which connections were made.
    #[must_use]
    pub fn reached(&self) -> Vec<SocketAddr> {
        self.origins().flat_map(|origin| origin.seen().into_iter().map(|seen| seen.local)).collect()
    }

    fn origins(&self) -> impl Iterator<Item = &Origin> {
        [&self.http, &self.https].into_iter().chain(&self.others)
    }
}
