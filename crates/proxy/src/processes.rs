//! Which process made a connection, where somebody can tell: for records, summaries and questions, never for decisions.

use std::{fmt::Debug, net::SocketAddr, sync::Arc};

use exeat_audit::{Event, Record};

use crate::{Proxy, shared::Shared};

/// Somebody who can tell.
pub trait Processes: Debug + Send + Sync {
    /// Returns the name of the process whose end of a connection this is. Best effort and in bounded time; names are what processes
    /// call themselves.
    fn at(&self, client: SocketAddr) -> Option<Arc<str>>;

    /// Returns the name of the process that a record is about, and may remember what it asked for.
    fn of(&self, record: &Record) -> Option<Arc<str>>;
}

impl Proxy {
    /// Has records tell from now on which process was it. To be called once.
    pub fn tell_processes(&self, processes: Arc<dyn Processes>) {
        let _only_once = self.shared.processes.set(processes);
    }

    /// Returns the name of the process at the other end of a client's connection, if somebody can tell.
    #[must_use]
    pub fn process_of(&self, client: SocketAddr) -> Option<Arc<str>> {
        self.shared.processes.get()?.at(client)
    }
}

impl Shared {
    /// Adds to a record which process it is about. Of the end of something that was decided on before nothing is asked: the
    /// connection may be gone.
    pub(crate) fn with_process(&self, mut record: Record) -> Record {
        let asks = matches!(record.event, Event::Decision | Event::Request | Event::Dns);
        if let (true, Some(processes)) = (asks, self.processes.get()) {
            record.process = processes.of(&record);
        }
        record
    }
}
