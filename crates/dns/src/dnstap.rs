//! dnstap: what name servers tell each other of questions and answers (<https://dnstap.info>), in Frame Streams over a unix
//! socket. A stream that comes in tells what other name servers have answered: an import for sites whose clients cannot be
//! given another name server. It comes after the answer, so nothing is held back by it.

mod feed;
mod frames;
mod heard;
mod schema;
mod tap;

pub use feed::{Feed, FeedError, Next, Unframed};
pub use heard::{Heard, Unheard};
pub use tap::Tap;
