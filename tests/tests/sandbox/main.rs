//! `exeat run`: what leaves a confined command, and what does not.

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

mod action;
mod approval;
mod around;
mod ask;
mod cargo;
mod clients;
mod command;
mod escapes;
mod files;
mod found;
mod kin;
mod limits;
mod places;
mod planted;
mod refused;
mod selftest;
mod streams;
mod suggest;
mod tricks;

fn main() -> ExitCode {
    let mut scenarios = escapes::scenarios();
    scenarios.extend(files::scenarios());
    scenarios.extend(places::scenarios());
    scenarios.extend(found::scenarios());
    scenarios.extend(approval::scenarios());
    scenarios.extend(ask::scenarios());
    scenarios.extend(tricks::scenarios());
    scenarios.extend(command::scenarios());
    scenarios.extend(around::scenarios());
    scenarios.extend(clients::scenarios());
    scenarios.extend(cargo::scenarios());
    scenarios.extend(planted::scenarios());
    scenarios.extend(refused::scenarios());
    scenarios.extend(selftest::scenarios());
    scenarios.extend(streams::scenarios());
    scenarios.extend(limits::scenarios());
    scenarios.extend(kin::scenarios());
    scenarios.extend(action::scenarios());
    scenarios.extend(suggest::scenarios());
    harness::main(scenarios)
}
