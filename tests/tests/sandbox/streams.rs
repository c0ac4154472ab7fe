//! Standard streams come from outside: what leads further than to whoever gave it is not handed in.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Stdio;

use anyhow::{Result, ensure};
use exeat_tests::confined::Starter;
use exeat_tests::harness::Scenario;
use exeat_tests::world::World;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

pub(crate) fn scenarios() -> Vec<Scenario> {
    by_each_starter![sockets_that_lead_on_are_no_streams, a_pair_of_unix_sockets_is_a_stream]
}

fn sockets_that_lead_on_are_no_streams(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    let unconnected = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    let (datagrams, _other) = UnixDatagram::pair()?;
    let (network, without_peer) = ("a socket of a network", "a unix socket without a peer");
    let streams: [(OwnedFd, &str); 5] = [
        (UdpSocket::bind("0.0.0.0:0")?.into(), network),
        (unconnected, network),
        // As of a super-server: it can be disconnected, and connected to somebody else.
        (accepted.into(), network),
        (listener.into(), network),
        // It can be sent from to any address that the host's network knows.
        (datagrams.into(), without_peer),
    ];
    for (stream, what) in streams {
        for place in ["input", "output", "error"] {
            let mut command = starter.command(home, &["--allow", "@any-public"], &["touch", "ran"])?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let given = Stdio::from(stream.try_clone()?);
            match place {
                "input" => command.stdin(given),
                "output" => command.stdout(given),
                // Nobody hears of it then.
                _ => command.stderr(given),
            };
            let output = command.output()?;
            ensure!(output.status.code() == Some(125), "{starter:?}: {what} as {place}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            let is_told = said.contains(&format!("standard {place} is {what}")) && said.contains("| cat");
            ensure!(is_told || place == "error", "{starter:?}: {what} as {place}: {said}");
            ensure!(!home.join("ran").exists(), "{starter:?}: it was run with {what} as {place}");
        }
    }
    drop(client);
    Ok(())
}

fn a_pair_of_unix_sockets_is_a_stream(starter: Starter) -> Result<()> {
    let world = World::new()?;
    // As other programs and ssh servers start theirs.
    let (mut here, there) = UnixStream::pair()?;
    let there = OwnedFd::from(there);
    let mut command = starter.command(world.directory(), &["-q"], &["cat"])?;
    command.stdin(Stdio::from(there.try_clone()?)).stdout(Stdio::from(there));
    let mut child = command.spawn()?;
    drop(command);
    here.write_all(b"through")?;
    here.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    here.read_to_string(&mut text)?;
    let status = child.wait()?;
    ensure!(status.success() && text == "through", "{starter:?}: {status:?} {text:?}");
    Ok(())
}
