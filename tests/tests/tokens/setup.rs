//! A proxy with an issuer, and what it answers.

use anyhow::{Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{configuration, request_with};
use exeat_tests::http::Reply;
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::tokens::TokenIssuer;
use exeat_tests::world::{GREETING, World};

/// What no token exceeds: more than the tokens of these scenarios list.
pub(crate) const CEILING: &str =
    r#"allow = ["example.com:80,443,25", "*.example.org:80,443,25", "example.org", "cdn.example.net:8443"]"#;

/// The proxy with an issuer whose tokens are below `ceiling`, and further lines of its section.
pub(crate) fn serve(world: &World, issuer: &TokenIssuer, ceiling: &str, lines: &str) -> Result<Exeat> {
    TokenIssuer::publish(&[issuer], world.directory())?;
    let config = configuration(ceiling, &TokenIssuer::section("app", lines));
    Exeat::serve(world.directory(), &config, PROXY)
}

/// What a request with these fields is answered: its status and the reason, if it is a refusal.
pub(crate) fn answer(line: &str, fields: &str) -> Result<(u16, String)> {
    let (_, reply) = ask(line, fields)?;
    Ok((reply.status, reply.head.field("x-deny-reason").unwrap_or_default().to_owned()))
}

pub(crate) fn ask(line: &str, fields: &str) -> Result<(Raw, Reply)> {
    let mut client = Raw::proxy()?;
    let reply = client.ask(request_with(line, fields))?;
    Ok((client, reply))
}

pub(crate) fn check(name: &str, line: &str, fields: &str, want: (u16, &str)) -> Result<()> {
    let got = answer(line, fields)?;
    ensure!((got.0, got.1.as_str()) == want, "{name}: {line} gave {got:?} instead of {want:?}");
    Ok(())
}

/// An open tunnel to a server that has spoken first.
pub(crate) fn tunnel(fields: &str) -> Result<Raw> {
    let (mut tunnel, reply) = ask("CONNECT example.com:25", fields)?;
    ensure!(reply.status == 200, "{reply:?}");
    ensure!(tunnel.exactly(GREETING.len())? == GREETING.as_bytes());
    Ok(tunnel)
}

/// Runs a command of the proxy's admin API.
pub(crate) fn command(world: &World, args: &[&str]) -> Result<String> {
    Ok(command_with_warnings(world, args)?.0)
}

/// The same, with what it says on standard error.
pub(crate) fn command_with_warnings(world: &World, args: &[&str]) -> Result<(String, String)> {
    let socket = world.directory().join("api.sock").to_string_lossy().into_owned();
    let all = [&["token"][..], args, &["--socket", &socket]].concat();
    let outcome = Client::new(exeat_tests::exeat::binary()?, world.directory()).args(all).run()?;
    ensure!(outcome.code == 0, "{args:?}: {outcome:?}");
    Ok((outcome.out, outcome.err))
}
