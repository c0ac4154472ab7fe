//! A change of what decides reaches the kernel in steps, between which names are opened: nobody waits longer for an answer
//! than one transaction takes, however much there is to take away.

use std::io;

use exeat_model::Transport;

use super::{Inner, Swept, hold::New};
use crate::{
    conntrack::{self, Flow},
    element::Element,
    kernel::{ELEMENTS_PER_BATCH, ELEMENTS_PER_REMOVAL},
    wire::Batch,
};

impl Inner {
    /// Tells the kernel what nothing opens any more and what is `new`, and cuts the flows that are no longer allowed. One
    /// caller at a time.
    ///
    /// # Errors
    /// If the kernel was not told all of it. What is leaving is taken out the next time.
    pub(super) fn follow(&self, new: &[New]) -> io::Result<Swept> {
        let leaving = self.take_out(Round::First)?;
        for new in new.chunks(ELEMENTS_PER_BATCH) {
            self.working().put_opened(new)?;
        }
        let swept = self.sweep()?;
        if leaving == 0 {
            return Ok(swept);
        }
        // A packet that was under way may have renewed what was being taken out, and others may have begun flows by it.
        self.take_out(Round::Last)?;
        let again = self.sweep()?;
        Ok(Swept { cut: swept.cut + again.cut, kept: again.kept })
    }

    /// Takes out of the kernel what is leaving and was not opened again meanwhile. Returns how much that was.
    fn take_out(&self, round: Round) -> io::Result<usize> {
        let leaving: Vec<Element> = self.working().leaving.iter().copied().collect();
        for some in leaving.chunks(ELEMENTS_PER_REMOVAL) {
            let mut working = self.working();
            let some: Vec<Element> =
                some.iter().filter(|element| working.leaving.contains(element)).copied().collect();
            working.kernel.take_out(&some)?;
            match round {
                Round::First => {}
                Round::Last => some.iter().for_each(|element| {
                    working.leaving.remove(element);
                }),
            }
        }
        Ok(leaving.len())
    }

    /// Cuts the flows that are open and not allowed.
    pub(super) fn sweep(&self) -> io::Result<Swept> {
        let flows = conntrack::flows()?;
        if flows.is_empty() {
            return Ok(Swept::default());
        }
        let (cut, kept) = self.working().part(&self.config, flows)?;
        let kept_apart = self.keep_apart(&cut);
        conntrack::cut(&cut)?;
        self.counts.cut(cut.len());
        kept_apart.map(|()| Swept { cut: cut.len(), kept })
    }

    /// Lets the datagrams of flows that are cut not begin them again from the other side.
    fn keep_apart(&self, cut: &[Flow]) -> io::Result<()> {
        let datagrams: Vec<&Flow> = cut.iter().filter(|flow| flow.transport == Transport::Udp).collect();
        for flows in datagrams.chunks(ELEMENTS_PER_BATCH) {
            let mut batch = Batch::default();
            for flow in flows {
                batch.keep_apart((flow.client, flow.client_port), (flow.address, flow.port.get()));
            }
            self.working().kernel.commit(batch)?;
        }
        Ok(())
    }
}

/// How often it was done for the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Round {
    /// They may come back by a packet that is under way.
    First,
    /// They do not.
    Last,
}
