//! Why something was refused or ended: one closed table, shared by every enforcement point.
//!
//! Tokens are a public contract: add rows, never rename or reuse one.

use std::fmt;

/// What a refusal becomes on each wire that Exeat speaks.
struct Row {
    token: &'static str,
    http_status: u16,
    proxy_status: &'static str,
    socks_reply: u8,
    tls_alert: u8,
    dns: DnsRefusal,
    kernel: KernelVerdict,
}

/// How a DNS answer says a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DnsRefusal {
    /// The response code (RFC 1035 §4.1.1).
    pub rcode: u8,
    /// The extended DNS error (RFC 8914 §4).
    pub ede: u16,
}

/// What the kernel does with a refused packet. Never a silent drop: clients fail at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KernelVerdict {
    /// ICMP "administratively prohibited": a new flow that the policy does not allow.
    Reject,
    /// A TCP reset: a flow that was open and must end.
    Reset,
}

const NXDOMAIN_BLOCKED: DnsRefusal = DnsRefusal { rcode: 3, ede: 15 };
const REFUSED_PROHIBITED: DnsRefusal = DnsRefusal { rcode: 5, ede: 18 };
const SERVFAIL_UNREACHABLE: DnsRefusal = DnsRefusal { rcode: 2, ede: 22 };
const SERVFAIL_NOT_READY: DnsRefusal = DnsRefusal { rcode: 2, ede: 14 };
const FORMERR_OTHER: DnsRefusal = DnsRefusal { rcode: 1, ede: 0 };

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $token:literal $status:literal $proxy:literal $socks:literal $alert:literal $dns:ident $kernel:ident;)*) => {
        /// Why a request was refused or a flow ended.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        token: $token,
                        http_status: $status,
                        proxy_status: $proxy,
                        socks_reply: $socks,
                        tls_alert: $alert,
                        dns: $dns,
                        kernel: KernelVerdict::$kernel,
                    },)*
                }
            }
        }
    };
}

// Columns: token, HTTP status, RFC 9209 §2.3 error, RFC 1928 §6 reply, RFC 8446 §6 alert, DNS, kernel.
reasons! {
    /// No rule allows this name.
    HostNotAllowed "host_not_allowed" 403 "http_request_denied" 2 49 NXDOMAIN_BLOCKED Reject;
    /// A deny rule names this destination.
    HostDenied "host_denied" 403 "http_request_denied" 2 49 NXDOMAIN_BLOCKED Reject;
    /// The host is neither a DNS name nor an address in its standard spelling.
    HostInvalid "host_invalid" 400 "http_request_error" 2 50 FORMERR_OTHER Reject;
    /// The opened connection speaks for another host than the one asked for.
    HostMismatch "host_mismatch" 421 "http_request_denied" 2 112 NXDOMAIN_BLOCKED Reset;
    /// The host is allowed, this port is not.
    PortNotAllowed "port_not_allowed" 403 "http_request_denied" 2 49 NXDOMAIN_BLOCKED Reject;
    /// The target is an address and no network rule covers it.
    IpLiteralNotAllowed "ip_literal_not_allowed" 403 "destination_ip_prohibited" 2 49 NXDOMAIN_BLOCKED Reject;
    /// An address behind the target is special-use, denied, or never reachable.
    AddressNotAllowed "address_not_allowed" 403 "destination_ip_prohibited" 2 49 NXDOMAIN_BLOCKED Reject;
    /// The method is not one that a forward proxy may pass on.
    MethodNotAllowed "method_not_allowed" 405 "http_request_denied" 7 49 REFUSED_PROHIBITED Reject;
    /// The scheme is not `http`.
    SchemeNotAllowed "scheme_not_allowed" 400 "http_request_denied" 2 49 REFUSED_PROHIBITED Reject;
    /// The protocol upgrade is not allowed.
    UpgradeNotAllowed "upgrade_not_allowed" 400 "http_request_denied" 2 49 REFUSED_PROHIBITED Reject;
    /// The rule limits paths and this one is outside.
    PathNotAllowed "path_not_allowed" 403 "http_request_denied" 2 49 REFUSED_PROHIBITED Reject;
    /// The bytes are not a well-formed request.
    RequestMalformed "request_malformed" 400 "http_request_error" 1 50 FORMERR_OTHER Reset;
    /// The length of the message body can be read in two ways (RFC 9112 §6.3).
    FramingAmbiguous "framing_ambiguous" 400 "http_request_error" 1 50 FORMERR_OTHER Reset;
    /// The request head is larger than the limit.
    HeaderTooLarge "header_too_large" 431 "http_request_error" 1 50 FORMERR_OTHER Reset;
    /// The request line is longer than the limit.
    UriTooLong "uri_too_long" 414 "http_request_error" 1 50 FORMERR_OTHER Reset;
    /// The first bytes did not arrive in time.
    HeadTimeout "head_timeout" 408 "http_request_error" 1 90 FORMERR_OTHER Reset;
    /// The rule expects TLS and the client sent something else.
    TlsRequired "tls_required" 403 "http_request_denied" 2 10 NXDOMAIN_BLOCKED Reset;
    /// The ClientHello names no server.
    SniMissing "sni_missing" 403 "http_request_denied" 2 109 NXDOMAIN_BLOCKED Reset;
    /// The ClientHello names another server than the one asked for.
    SniMismatch "sni_mismatch" 403 "http_request_denied" 2 112 NXDOMAIN_BLOCKED Reset;
    /// Encrypted ClientHello where the policy wants to see the name.
    EchNotAllowed "ech_not_allowed" 403 "http_request_denied" 2 49 NXDOMAIN_BLOCKED Reset;
    /// The rule expects HTTP/1 and the client sent something else.
    HttpRequired "http_required" 403 "http_request_denied" 2 10 NXDOMAIN_BLOCKED Reset;
    /// No credentials were sent.
    AuthRequired "auth_required" 407 "http_request_denied" 2 49 REFUSED_PROHIBITED Reject;
    /// The credentials are wrong.
    AuthInvalid "auth_invalid" 407 "http_request_denied" 2 49 REFUSED_PROHIBITED Reject;
    /// The token's lifetime is over.
    TokenExpired "token_expired" 407 "http_request_denied" 2 49 REFUSED_PROHIBITED Reset;
    /// The token was revoked.
    TokenRevoked "token_revoked" 407 "http_request_denied" 2 49 REFUSED_PROHIBITED Reset;
    /// The credential belongs to another container.
    ContainerMismatch "container_mismatch" 403 "http_request_denied" 2 49 REFUSED_PROHIBITED Reset;
    /// The credential may be used on a central node only.
    CentralizedEgressRequired "centralized_egress_required" 403 "http_request_denied" 2 49 REFUSED_PROHIBITED Reject;
    /// The next hop that the policy or the credential demands cannot be reached.
    EgressGatewayUnavailable "egress_gateway_unavailable" 503 "destination_unavailable" 1 80 SERVFAIL_NOT_READY Reject;
    /// The rule is not marked for the credential's class of data.
    ClassMismatch "class_mismatch" 403 "http_request_denied" 2 49 REFUSED_PROHIBITED Reject;
    /// Too many attempts in a time, or too many connections of one source.
    RateLimited "rate_limited" 429 "connection_limit_reached" 1 80 REFUSED_PROHIBITED Reject;
    /// Too many tunnels of one client, or connections in all, at a time.
    ConnectionLimit "connection_limit" 429 "connection_limit_reached" 1 80 REFUSED_PROHIBITED Reject;
    /// The allowed name could not be resolved.
    DnsFailed "dns_failed" 502 "dns_error" 4 80 SERVFAIL_UNREACHABLE Reject;
    /// No permitted address accepted a connection.
    ConnectFailed "connect_failed" 502 "connection_refused" 5 80 SERVFAIL_UNREACHABLE Reject;
    /// No permitted address answered in time.
    ConnectTimeout "connect_timeout" 504 "connection_timeout" 4 80 SERVFAIL_UNREACHABLE Reject;
    /// The request has passed through this proxy before.
    LoopDetected "loop_detected" 508 "proxy_loop_detected" 1 80 SERVFAIL_UNREACHABLE Reject;
    /// A newer policy no longer allows the flow.
    PolicyChanged "policy_changed" 403 "http_request_denied" 2 49 NXDOMAIN_BLOCKED Reset;
    /// There is no policy to decide by.
    PolicyUnavailable "policy_unavailable" 503 "proxy_configuration_error" 1 80 SERVFAIL_NOT_READY Reject;
    /// Audit is required and its sink fails.
    AuditUnavailable "audit_unavailable" 503 "proxy_internal_error" 1 80 SERVFAIL_NOT_READY Reject;
    /// No bytes moved for the idle limit.
    IdleTimeout "idle_timeout" 504 "connection_read_timeout" 6 90 SERVFAIL_UNREACHABLE Reset;
    /// The flow reached its maximum age.
    MaxAge "max_age" 403 "http_request_denied" 2 90 REFUSED_PROHIBITED Reset;
    /// The flow reached its maximum number of bytes.
    MaxBytes "max_bytes" 403 "http_request_denied" 2 90 REFUSED_PROHIBITED Reset;
    /// The proxy is stopping.
    Draining "draining" 503 "proxy_internal_response" 1 90 SERVFAIL_NOT_READY Reset;
}

impl Reason {
    /// The stable token, as sent in `x-deny-reason` and written to the audit log.
    #[must_use]
    pub const fn token(self) -> &'static str {
        self.row().token
    }

    /// The HTTP status code (RFC 9110 §15). Malformed versions answer 505 instead.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        self.row().http_status
    }

    /// The `Proxy-Status` error type (RFC 9209 §2.3).
    #[must_use]
    pub const fn proxy_status_error(self) -> &'static str {
        self.row().proxy_status
    }

    /// The SOCKS5 reply (RFC 1928 §6).
    #[must_use]
    pub const fn socks_reply(self) -> u8 {
        self.row().socks_reply
    }

    /// The fatal TLS alert (RFC 8446 §6) that ends an opening refused for this reason.
    #[must_use]
    pub const fn tls_alert(self) -> u8 {
        self.row().tls_alert
    }

    /// The DNS response code and extended error.
    #[must_use]
    pub const fn dns(self) -> DnsRefusal {
        self.row().dns
    }

    /// What the kernel does with a packet refused for this reason.
    #[must_use]
    pub const fn kernel_verdict(self) -> KernelVerdict {
        self.row().kernel
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn tokens_are_unique_and_lower_case() {
        let tokens: BTreeSet<_> = Reason::ALL.iter().map(|r| r.token()).collect();
        assert_eq!(tokens.len(), Reason::ALL.len());
        assert_eq!(tokens.len(), 42);
        assert!(tokens.iter().all(|t| t.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn only_credentials_answer_407() {
        for reason in Reason::ALL {
            let about_credentials = ["auth_", "token_"].iter().any(|p| reason.token().starts_with(p));
            assert_eq!(reason.http_status() == 407, about_credentials, "{reason}");
        }
    }
}
