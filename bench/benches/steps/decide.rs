//! Is it allowed? By name, and by the addresses of the name.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use exeat_model::Transport;
use exeat_policy::{EgressRequest, Verdict, decide, permit};

use crate::world::{World, allowed_targets, target, unlisted};

pub(crate) fn decisions(criterion: &mut crate::Criterion) {
    for rules in [10, 1000, 1_000_000] {
        let world = World::of(rules);
        let (set, bound) = (&world.loaded.policy, &world.principal.bound);
        let allowed = allowed_targets(rules);
        let mut turns = allowed.iter().cycle();
        criterion.bench_function(&format!("decide/{rules}"), |bencher| {
            bencher.iter(|| {
                let target = black_box(turns.next()).expect("a target");
                let verdict = decide(set, &EgressRequest { bound, target, transport: Transport::Tcp });
                assert!(matches!(verdict, Verdict::Allow(_)));
                verdict
            });
        });
        let denied: Vec<_> = (0..4096).map(|number| target(&unlisted(number))).collect();
        let mut turns = denied.iter().cycle();
        criterion.bench_function(&format!("decide, denied/{rules}"), |bencher| {
            bencher.iter(|| {
                let target = black_box(turns.next()).expect("a target");
                let verdict = decide(set, &EgressRequest { bound, target, transport: Transport::Tcp });
                assert!(matches!(verdict, Verdict::Deny(_)));
                verdict
            });
        });
        permits(criterion, &world, rules);
    }
}

fn permits(criterion: &mut crate::Criterion, world: &World, rules: u64) {
    let (set, bound) = (&world.loaded.policy, &world.principal.bound);
    let target = allowed_targets(rules).remove(0);
    let request = EgressRequest { bound, target: &target, transport: Transport::Tcp };
    let Verdict::Allow(allowed) = decide(set, &request) else { panic!("{target} is denied") };
    let addresses: Vec<IpAddr> = (1..=4).map(|last| Ipv4Addr::new(127, 1, 0, last).into()).collect();
    criterion.bench_function(&format!("permit, 4 addresses/{rules}"), |bencher| {
        bencher.iter(|| permit(set, &request, &allowed, black_box(&addresses)).expect("a permit"));
    });
}
