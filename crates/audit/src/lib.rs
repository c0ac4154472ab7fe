//! One versioned record per decision and per flow, and where the records go.

mod control;
mod line;
mod log;
mod queue;
mod receipt;
mod record;
mod seldom;
mod sink;
mod text;
mod time;
mod writer;

pub use control::{Action, By, ControlRecord, Effect};
pub use log::{AuditLog, AuditUnavailable, AuditWriter, QUEUE_RECORDS_MAX};
pub use receipt::Receipt;
pub use record::{Event, Outcome, PrincipalRecord, Record, RuleRecord, SCHEMA_VERSION, TokenRecord};
pub use seldom::Seldom;
pub use sink::{Sink, open_plain};
pub use text::{TEXT_BYTES_MAX, Text};
