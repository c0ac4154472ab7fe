//! The one record of a forwarded request, made whatever way the request ends.

use std::sync::Arc;

use exeat_audit::Event;

use crate::{body::Moved, respond::Refusal, shared::Shared, trail::Trail};

/// Makes the record of a forwarded request when it is dropped: after the response, or where the request was given up.
pub(crate) struct Report {
    shared: Arc<Shared>,
    /// What is known of the request.
    pub(crate) trail: Trail,
    /// What has moved of its bodies.
    pub(crate) moved: Arc<Moved>,
    /// Why it ended, once that is known.
    pub(crate) end: Option<&'static str>,
}

impl Report {
    /// Returns the report of a request that begins.
    pub(crate) fn new(shared: Arc<Shared>, trail: Trail) -> Self {
        Self { shared, trail, moved: Arc::default(), end: None }
    }

    /// Notes the refusal that the client is sent.
    pub(crate) fn note_refusal(&mut self, refusal: &Refusal) {
        self.trail.status = Some(refusal.status);
        self.end = Some(refusal.reason.token());
    }

    /// Whoever drops an exchange without a reason is the client that left, or the end of the proxy.
    fn given_up(&self) -> &'static str {
        self.shared.flows.stop().borrow().map_or("client_reset", exeat_policy::Reason::token)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let ending = self.moved.ending(self.end.unwrap_or_else(|| self.given_up()));
        // The request has ended whether or not that can be recorded.
        let _ = self.shared.record(self.trail.record(Event::Request, Some(ending)));
    }
}
