//! What a decision waits for where nothing may happen without its record.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use crate::{log::AuditUnavailable, queue::Progress};

/// How long a decision waits for its record to be written. A disk that takes longer is one that fails, and the
/// client is told so before its own patience ends.
const WRITTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The record of a decision that is on its way to the sink.
#[derive(Debug)]
#[must_use = "the decision takes effect after the record is kept"]
pub struct Receipt(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    number: u64,
    progress: watch::Receiver<Progress>,
}

impl Receipt {
    /// There is nothing to wait for.
    pub(crate) const NONE: Self = Self(None);

    /// For the record with this number, counted from 1.
    pub(crate) const fn of(number: u64, progress: watch::Receiver<Progress>) -> Self {
        Self(Some(Waiting { number, progress }))
    }

    /// Waits, if the log is required, until the kernel has the record: then a crash of this program does not lose it.
    /// All that wait at a time wait for one write.
    ///
    /// # Errors
    ///
    /// If the write fails, or takes longer than 5 s. The record stays in the queue, and may be written later:
    /// whoever refuses for that makes a record of the refusal, too.
    pub async fn kept(self) -> Result<(), AuditUnavailable> {
        let Some(Waiting { number, mut progress }) = self.0 else { return Ok(()) };
        let is_decided = |progress: &Progress| progress.written >= number || progress.is_stuck;
        match timeout(WRITTEN_TIMEOUT, progress.wait_for(is_decided)).await {
            Ok(Ok(progress)) if progress.written >= number => Ok(()),
            Ok(_) | Err(_) => Err(AuditUnavailable),
        }
    }
}
