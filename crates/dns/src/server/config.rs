//! How a policy server answers.

use hickory_proto::rr::RecordType;

/// How a policy server answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerConfig {
    /// What a question for a name gets that the policy does not allow.
    pub denied: DeniedAnswer,
    /// The types of record that may be asked for beside addresses (A, AAAA) and how to connect (HTTPS, SVCB), of names
    /// that the policy allows.
    pub types: Vec<Extra>,
    /// Questions of one source a second, with twice as many at once; 0 sets no bound.
    pub queries_per_second: usize,
    /// Different names that one source may ask for in a minute by one rule; 0 sets no bound. What a name spells leaves
    /// with the question, so this bounds what can be carried out under a wildcard.
    pub names_per_minute: usize,
    /// TCP connections.
    pub connections: usize,
}

impl Default for ServerConfig {
    /// 1000 questions a second are a hundred times what a busy host asks, and a hundredth of what one core answers. 300
    /// names a minute are several pages of the web, one after the other; a tunnel would get some 200 octets a second.
    /// 1024 connections cost some 10 MB.
    fn default() -> Self {
        Self {
            denied: DeniedAnswer::NxDomain,
            types: Vec::new(),
            queries_per_second: 1000,
            names_per_minute: 300,
            connections: 1024,
        }
    }
}

/// What a question for a name gets that the policy does not allow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DeniedAnswer {
    /// There is no such name, which every program understands; or no such record, if a name below it is allowed.
    #[default]
    NxDomain,
    /// The server refuses to say. Some programs then ask the next server.
    Refused,
    /// The unspecified address, where nothing listens.
    Sinkhole,
}

impl DeniedAnswer {
    /// Every one, with the word for it in the configuration.
    pub const ALL: [(&'static str, Self); 3] =
        [("nxdomain", Self::NxDomain), ("refused", Self::Refused), ("sinkhole", Self::Sinkhole)];
}

/// A type of record that is passed on only where the configuration says so: its text can carry anything in, and none of
/// it is an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extra(RecordType);

impl Extra {
    /// Every one, by its name.
    pub const ALL: [(&'static str, Self); 10] = [
        ("CAA", Self(RecordType::CAA)),
        ("CNAME", Self(RecordType::CNAME)),
        ("MX", Self(RecordType::MX)),
        ("NAPTR", Self(RecordType::NAPTR)),
        ("NS", Self(RecordType::NS)),
        ("SOA", Self(RecordType::SOA)),
        ("SRV", Self(RecordType::SRV)),
        ("SSHFP", Self(RecordType::SSHFP)),
        ("TLSA", Self(RecordType::TLSA)),
        ("TXT", Self(RecordType::TXT)),
    ];

    pub(crate) fn record_type(self) -> RecordType {
        self.0
    }
}
