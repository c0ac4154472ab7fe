//! The decision engine from outside: settled semantics, agreement with a slow reference, and
//! explanations that tell the truth.

mod explain;
mod reference;
mod semantics;
mod support;
