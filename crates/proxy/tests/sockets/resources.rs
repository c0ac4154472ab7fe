//! What the proxy's port answers itself, through a real proxy on sockets.

use crate::common::{Setup, World, assert_refused};

#[tokio::test]
async fn a_pac_file_is_served_to_anybody_unless_it_is_switched_off() {
    let world = World::start().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", world.address);
    let all = world.talk(get("/proxy.pac")).await;
    assert!(all.starts_with("HTTP/1.1 200 OK\r\n"), "{all}");
    assert!(all.contains(&format!("return \"PROXY {}\";", world.address)), "{all}");
    assert_refused(&world.talk(get("/other")).await, 400, "request_malformed");
    let off = World::with(Setup { pac: false, ..Setup::default() }).await;
    assert_refused(&off.talk(get("/proxy.pac")).await, 400, "request_malformed");
    assert_eq!(world.records().len(), 1, "the malformed one alone");
}
