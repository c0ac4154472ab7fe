//! The one record of a forwarded request, or the last one of a WebSocket, made whatever way the request ends.

use std::sync::Arc;

use exeat_audit::Event;

use crate::{flows::Live, meter::Meter, respond::Refusal, shared::Shared, trail::Trail};

/// Makes the record of a forwarded request when it is dropped: after the response, or where the request was given up.
pub(crate) struct Report {
    shared: Arc<Shared>,
    /// What is known of the request.
    pub(crate) trail: Trail,
    /// What has moved of its bodies, and whether it must end.
    pub(crate) meter: Arc<Meter>,
    /// Its place in the table of flows, once it is allowed.
    pub(crate) flow: Option<Live>,
    /// What the record is of: the whole request, unless its decision has a record already.
    event: Event,
    /// Why it ended, once that is known.
    pub(crate) end: Option<&'static str>,
}

impl Report {
    /// Returns the report of a request that begins.
    pub(crate) fn new(shared: Arc<Shared>, trail: Trail) -> Self {
        shared.metrics.requests.begin();
        let meter = Arc::new(Meter::new(&shared.limits).counting(&shared.metrics));
        Self { shared, trail, meter, flow: None, event: Event::Request, end: None }
    }

    /// The request has become a tunnel, whose decision has been recorded: what is left is the record of its end.
    pub(crate) fn becomes_tunnel(&mut self) {
        self.event = Event::End;
        self.shared.metrics.requests.end();
    }

    /// Notes the refusal that the client is sent.
    pub(crate) fn note_refusal(&mut self, refusal: &Refusal) {
        self.trail.status = Some(refusal.status);
        self.end = Some(refusal.reason.token());
    }

    /// Whoever drops an exchange without a reason is what ended the flow, the end of the proxy, or the client that
    /// left.
    fn given_up(&self) -> &'static str {
        let reason = self.meter.reason().or_else(|| *self.shared.flows.stop().borrow());
        reason.map_or("client_reset", exeat_policy::Reason::token)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let ending = self.meter.ending(self.end.unwrap_or_else(|| self.given_up()));
        if let Some(flow) = &self.flow {
            self.trail.note_flow(flow);
        }
        // The request has ended whether or not that can be recorded.
        self.shared.note(self.trail.record(self.event, Some(ending)));
        if self.event == Event::Request {
            self.shared.metrics.requests.end();
        }
    }
}
