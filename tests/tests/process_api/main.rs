//! The process API: `exeat sandbox serve`, called by curl and Node.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::process::ExitCode;

use exeat_tests::harness;

/// Makes a scenario of each function for everybody who can start it here.
macro_rules! by_each_starter {
    ($($name:ident),+ $(,)?) => {{
        let each = |starter: Starter| {
            vec![$(Scenario::new(format!("{}_{}", stringify!($name), starter.word()), move || $name(starter))),+]
        };
        Starter::all().iter().copied().flat_map(each).collect::<Vec<Scenario>>()
    }};
}

mod bounds;
mod callers;
mod execute;
mod lifetime;
mod sockets;
mod tokens;

fn main() -> ExitCode {
    let mut scenarios = execute::scenarios();
    scenarios.extend(callers::scenarios());
    scenarios.extend(bounds::scenarios());
    scenarios.extend(lifetime::scenarios());
    scenarios.extend(sockets::scenarios());
    scenarios.extend(tokens::scenarios());
    harness::main(scenarios)
}
