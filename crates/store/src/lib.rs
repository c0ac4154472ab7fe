//! Reads configuration: one TOML file and the group files it names, every problem with its place.
//!
//! [`load`] walks the whole tree and never stops at the first problem, so that `exeat check` prints them all, each
//! with file, line, column, underline and correction. What it returns is typed and compiled: nothing after it
//! meets a string that still has to be understood. No report ever shows a password or its hash.
#![forbid(unsafe_code)]

mod api;
mod caps;
mod certificates;
mod changed;
mod clients;
mod dns;
mod document;
mod edit;
mod entry;
mod files;
mod firewall;
mod flags;
mod floor;
mod groups;
mod import;
mod issuers;
mod key_servers;
mod keys;
mod limits;
mod listeners;
mod load;
mod names;
mod next_hop_tls;
mod next_hops;
mod notes;
mod policies;
mod problem;
mod reader;
mod references;
mod regular;
mod report;
mod revisions;
mod secrets;
mod sections;
mod settings;
mod source;
mod suggest;
mod surroundings;
mod syntax;
mod tap;
mod tap_out;
mod verified;
mod workloads;
mod written;

pub use api::api_socket;
pub use edit::{EditError, Existing, NewClient, WriteError, add_client, add_entry, write_atomically};
pub use files::{
    Beginning, GROUP_FILE_BYTES_MAX, GROUP_FILE_PROBLEMS_MAX, GROUP_LINE_BYTES_MAX, beginning_of_file,
};
pub use flags::{AttachFlags, FLAGS_CLIENT, Flags, from_attach_flags, from_flags};
pub use import::{Imported, import_hosts_yaml};
pub use listeners::address_help;
pub use load::{
    CONFIGURATION_BYTES_MAX, CONFIGURATION_PROBLEMS_MAX, Options, Purpose, load, load_as, load_text,
};
pub use problem::{Code, Location, Problem, Severity};
pub use regular::open_regular;
pub use report::{Colour, Report};
pub use revisions::{History, HistoryError, Kept, News, Origin, REVISIONS_BYTES_MAX, REVISIONS_MAX};
pub use settings::{
    ApiSettings, AuditSettings, DnsListener, DnsSettings, FirewallSettings, LISTEN_DEFAULT, Listener, Loaded,
    Settings, SocketListener, TapOutSettings, TapSettings, TokenRefused,
};
pub use suggest::closest;
pub use surroundings::{
    CONTAINER_DIRECTORY, CONTAINER_USER, Mount, NoListener, Platform, Surroundings, files_named, surroundings,
};
pub use written::{Digest, NamedFile, Written, digest_of_file};
