//! Who asks: a password that was right before, and one whose hash is fast.

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use exeat_identity::{Authenticator, Clients, PasswordHash, generate_password, hash_generated};

use crate::world::{PASSWORD, USER, World};

pub(crate) fn passwords(criterion: &mut crate::Criterion) {
    let world = World::of(1);
    remembered(criterion, "password/argon2, remembered", &world.loaded.clients, PASSWORD);

    let secret = generate_password().expect("a password");
    let mut clients = Clients::new();
    let hash = PasswordHash::parse(&hash_generated(secret.as_bytes())).expect("a hash");
    clients.insert(USER, world.principal.clone(), vec![hash]);
    remembered(criterion, "password/generated", &clients, &secret);
}

fn remembered(criterion: &mut crate::Criterion, name: &str, clients: &Clients, password: &str) {
    let authenticator = Authenticator::new().expect("random bytes");
    let field = format!("Basic {}", STANDARD.encode(format!("{USER}:{password}")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    criterion.bench_function(name, |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let fields = [black_box(field.as_bytes())];
            authenticator
                .authenticate(clients, None, &exeat_identity::Peer::default(), &fields)
                .await
                .expect("a principal")
        });
    });
}
