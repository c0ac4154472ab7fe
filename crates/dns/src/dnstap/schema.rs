//! The messages of dnstap, as `dnstap.proto` of 2025 has them (dedicated to the public, CC0): those fields that are read or
//! written here. All but the types are optional there; here the types are too, so that their absence can be told.

use bytes::Bytes;
use prost::Message;

/// What every frame is: a wrapper with the sender's name.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dnstap {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) identity: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) version: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) extra: Option<Bytes>,
    #[prost(message, optional, tag = "14")]
    pub(crate) message: Option<DnsMessage>,
    #[prost(int32, optional, tag = "15")]
    pub(crate) r#type: Option<i32>,
}

/// The one type of a wrapper that there is.
pub(crate) const TYPE_MESSAGE: i32 = 1;

/// A message of DNS and its way.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DnsMessage {
    #[prost(int32, optional, tag = "1")]
    pub(crate) r#type: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) socket_family: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) socket_protocol: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) query_address: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub(crate) response_address: Option<Bytes>,
    #[prost(uint32, optional, tag = "6")]
    pub(crate) query_port: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub(crate) response_port: Option<u32>,
    #[prost(uint64, optional, tag = "8")]
    pub(crate) query_time_sec: Option<u64>,
    #[prost(fixed32, optional, tag = "9")]
    pub(crate) query_time_nsec: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub(crate) query_message: Option<Bytes>,
    #[prost(uint64, optional, tag = "12")]
    pub(crate) response_time_sec: Option<u64>,
    #[prost(fixed32, optional, tag = "13")]
    pub(crate) response_time_nsec: Option<u32>,
    #[prost(bytes = "bytes", optional, tag = "14")]
    pub(crate) response_message: Option<Bytes>,
    #[prost(message, optional, tag = "15")]
    pub(crate) policy: Option<Policy>,
}

/// What was decided on a message.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Policy {
    #[prost(string, optional, tag = "1")]
    pub(crate) r#type: Option<String>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) rule: Option<Bytes>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) action: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) r#match: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub(crate) value: Option<Bytes>,
}

/// What a policy has made of the answer.
pub(crate) mod action {
    /// There is no such name.
    pub(crate) const NXDOMAIN: i32 = 1;
    /// There is no such record.
    pub(crate) const NODATA: i32 = 2;
    /// What the servers said.
    pub(crate) const PASS: i32 = 3;
    /// What nobody but the policy says.
    pub(crate) const LOCAL_DATA: i32 = 6;
}

/// What of an exchange a policy has looked at.
pub(crate) mod matched {
    /// The name that was asked for.
    pub(crate) const QNAME: i32 = 1;
    /// Who asked.
    pub(crate) const CLIENT_IP: i32 = 2;
    /// An address of the answer.
    pub(crate) const RESPONSE_IP: i32 = 3;
}

/// The family of the addresses of a message.
pub(crate) mod family {
    pub(crate) const INET: i32 = 1;
    pub(crate) const INET6: i32 = 2;
}

/// What carried a message.
pub(crate) mod protocol {
    pub(crate) const UDP: i32 = 1;
    pub(crate) const TCP: i32 = 2;
}

/// What a message is: who answered whom.
pub(crate) mod message_type {
    /// A server with its own zones, to whoever asked.
    pub(crate) const AUTH_RESPONSE: i32 = 2;
    /// Another server, to the one that tells of it, which asked on its way down from the root.
    pub(crate) const RESOLVER_RESPONSE: i32 = 4;
    /// A client, to a resolver.
    pub(crate) const CLIENT_QUERY: i32 = 5;
    /// A resolver, to its client.
    pub(crate) const CLIENT_RESPONSE: i32 = 6;
    /// Another resolver, to the one that tells of it, which passes questions on.
    pub(crate) const FORWARDER_RESPONSE: i32 = 8;
}
