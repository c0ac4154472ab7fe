//! What holds for a stream of dnstap, whatever its bytes are.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::names_world::{self, CLIENT, Snapshot, Watched, World};
use bytes::BytesMut;
use exeat_dns::{ADDRESSES_MAX, Feed, FeedError, Heard, LIFETIME_MIN, Next, Server};
use exeat_model::{AddressClass, CanonicalIp};
use exeat_policy::Entry;
use tokio::runtime::{Builder, Runtime};

/// Octets that may wait for the rest of a frame: the longest one that is read, and its length.
const WAITING_MAX: usize = 2 * 65_535 + 4096 + 4;

struct Stage {
    runtime: Runtime,
    world: Arc<World>,
    server: Server,
    gate: Arc<Watched>,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let world = World::new(Snapshot::new(1, &[Entry::parse("*.example.com").unwrap()], &[]));
    let gate = Arc::new(Watched::default());
    // Nobody is asked: all is known from the stream.
    let nobody = "127.0.0.1:9".parse().unwrap();
    let server = names_world::server(&world, Arc::clone(&gate) as _, nobody, Duration::from_secs(1));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    Stage { runtime, world, server, gate }
});

/// Reads `bytes` as a stream, and learns of every message. Returns how many ways were opened.
pub(crate) fn check(bytes: &[u8]) -> usize {
    let (whole, end) = read(bytes, bytes.len().max(1));
    // However it is cut up, it is the same stream.
    assert_eq!((&whole, &end), (&read(bytes, 7).0, &read(bytes, 7).1));
    let Stage { runtime, world, server, gate } = &*STAGE;
    let mut opened = 0;
    for next in whole {
        let Next::Message(message) = next else { continue };
        let Ok(heard) = Heard::read(&message) else { continue };
        gate.openings.lock().unwrap().clear();
        world.records.lock().unwrap().clear();
        runtime.block_on(server.learn(&heard));
        let records = world.records.lock().unwrap();
        for opening in gate.openings.lock().unwrap().iter() {
            opened += 1;
            // Only for the one who asked, only by the asked name, only what the answer tells, and only on record.
            assert_eq!(opening.client, CLIENT.ip());
            assert!(opening.name.as_str().ends_with(".example.com"), "{}", opening.name);
            assert!(Some(&opening.name) == heard.name().as_ref());
            assert!(opening.lifetime >= LIFETIME_MIN);
            let [record] = records.as_slice() else { panic!("{} records", records.len()) };
            let told = record.answers.as_ref().unwrap();
            assert!(told.len() <= ADDRESSES_MAX);
            for address in opening.reach.iter().flat_map(|reach| &reach.addrs) {
                assert_eq!(CanonicalIp::new(*address).class(), AddressClass::Global, "{address}");
                // IPv4 in the form of IPv6 is the same address.
                assert!(told.iter().any(|told| told.to_canonical() == *address), "{address}");
            }
        }
    }
    opened
}

/// What a stream comes to if `step` octets come at a time, and how it ends.
fn read(bytes: &[u8], step: usize) -> (Vec<Next>, Option<FeedError>) {
    let (mut feed, mut buffer, mut found) = (Feed::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match feed.next(&mut buffer) {
                Ok(Next::Wait) => break,
                Ok(next @ Next::End(_)) => {
                    found.push(next);
                    return (found, None);
                }
                Ok(next) => found.push(next),
                Err(error) => return (found, Some(error)),
            }
        }
        assert!(buffer.len() <= WAITING_MAX, "{} octets wait", buffer.len());
    }
    (found, None)
}
