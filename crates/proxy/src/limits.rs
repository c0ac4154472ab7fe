//! Every bound that a client, an upstream or the operator's patience sets on the proxy.

use std::time::Duration;

use exeat_policy::Caps;

/// The limits of one proxy instance. Each has a default with its reason; the configuration may change any of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Open client connections in all. 10 000: two descriptors each stay well below a usual limit of 65 536.
    pub connections: usize,
    /// Open client connections from one source, so that one workload cannot take every slot. A source is an IPv4 address
    /// or an IPv6 network of 64 bits.
    pub connections_per_source: usize,
    /// Requests and tunnels at one time on one HTTP/2 connection. RFC 9113 §6.5.2 asks for no fewer than 100.
    pub streams_per_connection: usize,
    /// Live tunnels of one principal, over all its connections. Clients without credentials are counted by source.
    pub tunnels_per_client: usize,
    /// New connections a second from one source; 0 sets no bound. Off by default: behind one address there may be many
    /// clients, and only the operator knows.
    pub connection_rate_per_source: usize,
    /// Requests a second from one source, counted before credentials are checked; 0 sets no bound. Off by default,
    /// likewise.
    pub request_rate_per_source: usize,
    /// Requests a second of one principal, over all its connections; 0 sets no bound. Off by default: how many are too
    /// many depends on what the client is.
    pub request_rate_per_client: usize,
    /// How much of each of these rates may come at once after a pause. Ten seconds' worth: a page with all its parts, or
    /// a build that begins.
    pub rate_burst: Duration,
    /// Bytes of one request head, request line included. A token in Basic credentials alone can need 8 KiB.
    pub head_bytes: usize,
    /// Bytes of one request line. RFC 9112 §3 asks for at least 8 000 octets.
    pub uri_bytes: usize,
    /// Header fields of one request or response head.
    pub header_count: usize,
    /// From the first byte of a request head (or from accept, for the first) to its last, however the bytes trickle in.
    pub head_timeout: Duration,
    /// How long a client connection may stay open without a request.
    pub keepalive_timeout: Duration,
    /// Name resolution is not part of it: the whole budget for all addresses of one permit.
    pub connect_timeout: Duration,
    /// From the 200 of a tunnel to the last byte of its opening (a TLS client hello or a request head).
    pub opening_timeout: Duration,
    /// Bytes of a tunnel's opening. Post-quantum client hellos pass 2 KiB; some stacks send much more.
    pub opening_bytes: usize,
    /// A tunnel or a body without a byte in either direction for this long has ended.
    pub idle_timeout: Duration,
    /// A tunnel, or a forwarded request with its response, that is older has ended. None by default: pushes and
    /// terminals last for days.
    pub flow_age: Option<Duration>,
    /// Bytes that one tunnel or forwarded request may send upstream. None by default: it is a matter of policy.
    pub flow_bytes_up: Option<u64>,
    /// Bytes that one tunnel or forwarded request may bring back. None by default, likewise.
    pub flow_bytes_down: Option<u64>,
    /// Bytes a second that a client must send of a request body, on average over the time that it was waited for; 0
    /// asks for none. A modem of 1990 sends 1 000.
    pub upload_rate: usize,
    /// How long a request body is waited for, in all, before its rate counts. Pauses of a person or a slow disk fit.
    pub upload_grace: Duration,
    /// From the last byte of a forwarded request to its response head. Long polls need more than a minute.
    pub response_head_timeout: Duration,
    /// Bytes of one response head.
    pub response_head_bytes: usize,
    /// Interim (1xx) responses before the final one.
    pub informational_max: usize,
    /// Idle upstream connections kept in all.
    pub pool_idle: usize,
    /// Idle upstream connections kept for one principal, address and authority.
    pub pool_idle_per_key: usize,
    /// How long an idle upstream connection is kept. Shorter than what common servers keep, so that few are stale.
    pub pool_idle_timeout: Duration,
    /// How old an upstream connection may be when it is used again.
    pub pool_age: Duration,
    /// Bytes read from a client after a refusal, so that it reads the refusal and not a reset.
    pub linger_bytes: usize,
    /// How long such reading may last.
    pub linger_timeout: Duration,
    /// How long live tunnels may go on after a drain began.
    pub drain_timeout: Duration,
}

/// The header fields that hyper takes by itself.
const HYPER_HEADERS: usize = 100;

impl Limits {
    /// How many header fields hyper has to be told that there may be. Told nothing, it takes as many as there are by
    /// default, and need not set their room up each time.
    pub(crate) fn headers_for_hyper(&self) -> Option<usize> {
        (self.header_count != HYPER_HEADERS).then_some(self.header_count)
    }

    /// What every flow may come to, whatever allowed it.
    #[must_use]
    pub fn caps(&self) -> Caps {
        Caps {
            idle_timeout: Some(self.idle_timeout),
            max_age: self.flow_age,
            max_bytes_up: self.flow_bytes_up,
            max_bytes_down: self.flow_bytes_down,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_source: 4096,
            streams_per_connection: 128,
            tunnels_per_client: 4096,
            connection_rate_per_source: 0,
            request_rate_per_source: 0,
            request_rate_per_client: 0,
            rate_burst: Duration::from_secs(10),
            head_bytes: 64 * 1024,
            uri_bytes: 8 * 1024,
            header_count: 100,
            head_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            opening_timeout: Duration::from_secs(10),
            opening_bytes: 64 * 1024,
            idle_timeout: Duration::from_secs(300),
            flow_age: None,
            flow_bytes_up: None,
            flow_bytes_down: None,
            upload_rate: 500,
            upload_grace: Duration::from_secs(30),
            response_head_timeout: Duration::from_secs(120),
            response_head_bytes: 64 * 1024,
            informational_max: 16,
            pool_idle: 256,
            pool_idle_per_key: 8,
            pool_idle_timeout: Duration::from_secs(30),
            pool_age: Duration::from_secs(300),
            linger_bytes: 64 * 1024,
            linger_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
