//! dnstap: what name servers tell each other of questions and answers (<https://dnstap.info>), in Frame Streams over a unix
//! socket. A stream that comes in tells what other name servers have answered: an import for sites whose clients cannot be
//! given another name server. It comes after the answer, so nothing is held back by it. One that goes out tells a collector what
//! was asked here, and what was decided.

mod feed;
mod frames;
mod heard;
mod outgoing;
mod schema;
mod tap;
mod tap_out;

pub use feed::{Feed, FeedError, Next, Unframed};
pub use heard::{Heard, Unheard};
pub(crate) use outgoing::{Action, Decided, Exchange, Matched};
pub use tap::Tap;
pub use tap_out::{Collector, TapOut, TapOutTask};
