//! Looks whether our rules are as we set them, and sets them again if somebody has flushed them.
//!
//! A control group that is made again, as that of a service is when it starts, is another one to the kernel: the rules are
//! set again for that, too.
//!
//! The kernel numbers every change of its rules, so a look costs one question. Its notifications would come sooner, and
//! make each of our own changes twice as dear, since it tells all of those, too.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{firewall::Inner, kernel::Kernel};

/// Between two looks: rules that were flushed are there again within a second, however busy the machine is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The thread that looks. It ends when this is dropped.
pub(crate) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to look.
    ///
    /// # Errors
    /// If the system gives no socket or no thread.
    pub(crate) fn start(inner: Arc<Inner>) -> io::Result<Self> {
        let mut kernel = Kernel::connect()?;
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("firewall".to_owned()).spawn(move || {
            let mut seen = None;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
                look(&mut kernel, &inner, &mut seen);
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

fn look(kernel: &mut Kernel, inner: &Inner, seen: &mut Option<u32>) {
    match inner.regroup() {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!("a control group that is held has come or gone: the rules name it as it is now")
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the rules of the firewall do not name the control groups as they are now"
            );
        }
    }
    let result = kernel.generation().and_then(|generation| {
        if *seen == Some(generation) {
            return Ok(None);
        }
        Ok(Some((generation, kernel.fingerprint()?)))
    });
    match result {
        Ok(None) => {}
        Ok(Some((generation, fingerprint))) => match inner.mend(fingerprint) {
            Ok(false) => *seen = Some(generation),
            Ok(true) => tracing::error!("somebody had changed the rules of the firewall: they are set again"),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the rules of the firewall are not in force"
                );
            }
        },
        Err(error) => {
            tracing::warn!(%error, "the kernel does not tell whether the rules of the firewall are in force")
        }
    }
}
