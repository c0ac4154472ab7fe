//! The first process of a sandbox, which is a child of the launcher's: the stage, and then init, which comes of it.

use std::process::Child;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::failure::{Failure, Step};

/// The one that it is by now.
#[derive(Debug)]
pub(crate) enum First {
    Stage(Child),
    /// Until it is waited for here, nobody else has its number.
    Init(Pid),
}

impl First {
    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Stage(stage) => stage.id(),
            Self::Init(init) => init.as_raw_nonzero().get().unsigned_abs(),
        }
    }

    /// Init of this number is there, and the stage ends. Returns once that has left nothing, so that it is not counted any more.
    ///
    /// # Errors
    /// If there is no such child.
    pub(crate) fn becomes(&mut self, init: u32) -> Result<(), Failure> {
        let init = i32::try_from(init).ok().and_then(Pid::from_raw).filter(|init| is_running(*init));
        let init = init.ok_or_else(|| Failure::new(Step::Talk, "it is no child of this process"))?;
        if let Self::Stage(mut stage) = std::mem::replace(self, Self::Init(init)) {
            // Only its status would be missing, if whoever started us wants no children waited for.
            let _ = stage.wait();
        }
        Ok(())
    }

    /// Ends it, and with init everything inside: when this returns, all that is gone.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Stage(stage) => {
                let _ = stage.kill();
                let _ = stage.wait();
            }
            Self::Init(init) => {
                // Its number may be another's by now if it has been waited for.
                if is_running(*init) && kill_process(*init, Signal::KILL).is_ok() {
                    while matches!(waitpid(Some(*init), WaitOptions::empty()), Err(Errno::INTR)) {}
                }
            }
        }
    }
}

/// Whether this is a child of ours that has not ended. If it has, it is waited for hereby.
fn is_running(child: Pid) -> bool {
    matches!(waitpid(Some(child), WaitOptions::NOHANG), Ok(None))
}
