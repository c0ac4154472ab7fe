//! What is counted by: closed sets of values, known when the program is built.

use exeat_dns::Tapped;
use exeat_policy::Reason;

/// Defines a closed set of label values: an enum, every member of it, and the text of each.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name {
            $($(#[$member_doc])* $member,)+
        }

        impl Key for $name {
            const ALL: &'static [Self] = &[$(Self::$member),+];

            fn index(self) -> usize {
                self as usize
            }

            fn label(self) -> &'static str {
                match self {
                    $(Self::$member => $text,)+
                }
            }
        }
    };
}

/// A value that something is counted by: one of a few that are known when the program is built.
pub trait Key: Copy + 'static {
    /// Every value.
    const ALL: &'static [Self];

    /// The position in [`Key::ALL`].
    fn index(self) -> usize;

    /// The value as text.
    fn label(self) -> &'static str;
}

impl Key for Reason {
    const ALL: &'static [Self] = Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn label(self) -> &'static str {
        self.token()
    }
}

impl Key for Tapped {
    const ALL: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn label(self) -> &'static str {
        self.token()
    }
}

label! {
    /// Why a stream of another name server was not read to its end.
    TapStream {
        /// Its user may not write, or there were too many.
        Refused "refused",
        /// It is none, or broke off.
        Broken "broken",
    }
}

label! {
    /// What came of a message for the collector of dnstap.
    TapOutResult {
        /// It was written.
        Told "told",
        /// The collector is slow, or not there.
        Lost "lost",
    }
}

label! {
    /// What came of fetching the keys of an issuer.
    KeyFetch {
        /// They are here.
        Success "success",
        /// Those before stay.
        Failure "failure",
    }
}

label! {
    /// How a request that was passed on has left.
    WayTaken {
        /// Straight from here.
        Straight "straight",
        /// Through a next hop.
        NextHop "next_hop",
    }
}

label! {
    /// What came of checking who asks.
    AuthResult {
        /// The credentials are right.
        Accepted "accepted",
        /// No credentials, and the place that the connection comes from proves who asks.
        Origin "origin",
        /// No credentials, and a client certificate proves who asks.
        Certificate "certificate",
        /// No credentials, and such clients are let in.
        Anonymous "anonymous",
        /// No credentials, and they are needed.
        Required "required",
        /// The credentials are wrong.
        Invalid "invalid",
        /// The token has expired.
        Expired "expired",
        /// The token was revoked.
        Revoked "revoked",
        /// The credentials do not count where they come from or on this node, or nothing does.
        Mismatch "mismatch",
        /// Credentials from there were wrong too often; these were not looked at.
        Delayed "delayed",
        /// Too many passwords wait to be checked.
        RateLimited "rate_limited",
    }
}

label! {
    /// What came of resolving a name.
    DnsResult {
        /// Addresses.
        Answered "answered",
        /// The name does not exist.
        NoSuchName "no_such_name",
        /// The name has no address.
        NoAddress "no_address",
        /// No answer in time.
        Timeout "timeout",
        /// The server refused or failed, or could not be asked.
        Failed "failed",
        /// An answer that is not used: too many addresses or aliases, or a loop of them.
        Unusable "unusable",
    }
}

label! {
    /// A limit of the policy server for names, by its key in the configuration if it has one.
    DnsLimit {
        /// Questions of one source.
        QueriesPerSecond "queries_per_second",
        /// Names that one source asks for by one rule.
        NamesPerMinute "names_per_minute",
        /// Questions that wait for an answer.
        Waiting "waiting",
        /// TCP connections.
        Connections "connections",
        /// Addresses that stand for names.
        VirtualAddresses "virtual",
    }
}

label! {
    /// A limit that something ran into, by its key in the configuration.
    LimitHit {
        /// Connections in all.
        Connections "connections",
        /// Connections of one source.
        ConnectionsPerSource "connections_per_source",
        /// Tunnels of one principal.
        TunnelsPerClient "tunnels_per_client",
        /// New connections of one source.
        ConnectionRatePerSource "connection_rate_per_source",
        /// Requests of one source.
        RequestRatePerSource "request_rate_per_source",
        /// Requests of one principal.
        RequestRatePerClient "request_rate_per_client",
        /// Bytes of a request head.
        HeadBytes "head_bytes",
        /// Bytes of a request line.
        UriBytes "uri_bytes",
        /// Fields of a request head.
        HeaderCount "header_count",
        /// Time of a request head.
        HeadTimeout "head_timeout",
        /// Time to connect.
        ConnectTimeout "connect_timeout",
        /// Time of a tunnel's opening.
        OpeningTimeout "opening_timeout",
        /// Time without a byte.
        IdleTimeout "idle_timeout",
        /// Age of a flow.
        FlowAge "flow_age",
        /// Bytes of a flow, up or down.
        FlowBytes "flow_bytes",
        /// Pace of a request body.
        UploadRate "upload_rate",
        /// Time until an upstream responds.
        ResponseHeadTimeout "response_head_timeout",
    }
}

label! {
    /// How the bytes of a tunnel get from one side to the other.
    RelayPath {
        /// They are read and written.
        Copy "copy",
        /// The kernel moves them.
        Splice "splice",
    }
}

label! {
    /// How a flow ended, where no reason of the table ended it.
    FlowEnd {
        /// Both sides were done.
        Finished "finished",
        /// The client's connection broke.
        ClientReset "client_reset",
        /// The upstream's connection broke.
        UpstreamReset "upstream_reset",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_their_own_positions() {
        fn check<K: Key>() {
            for (index, key) in K::ALL.iter().enumerate() {
                assert_eq!(key.index(), index, "{}", key.label());
            }
        }
        check::<Reason>();
        check::<AuthResult>();
        check::<DnsResult>();
        check::<LimitHit>();
        check::<DnsLimit>();
        check::<TapStream>();
        check::<TapOutResult>();
        check::<Tapped>();
        check::<RelayPath>();
        check::<FlowEnd>();
    }
}
