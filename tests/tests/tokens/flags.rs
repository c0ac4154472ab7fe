//! What a token demands of the way it is used.

use std::fs;

use anyhow::{Result, ensure};
use exeat_identity::SignatureAlgorithm::Es256;
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{configuration, password_entry, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::Raw;
use exeat_tests::tokens::{CONTAINER, TokenIssuer, basic, bearer};
use exeat_tests::world::World;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::setup::{CEILING, answer, ask, check, serve};

pub(crate) fn bindings_are_enforced() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let workload = "[workload.sandbox]\naddresses = [\"10.99.0.1\"]\ncontainer = \"sbx-1\"\nalone = false";
    let exeat = serve(&world, &issuer, CEILING, workload)?;
    let mismatch = (403, "container_mismatch");
    let plain = issuer.token(json!({}))?;
    let bound = issuer.token(json!({"enforce_container_binding": "true"}))?;
    let others = issuer.token(json!({"enforce_container_binding": true, "container_id": "sbx-2"}))?;
    let loose = issuer.token(json!({"enforce_container_binding": "false"}))?;
    let nobodys = issuer.token(json!({"enforce_container_binding": true, "container_id": null}))?;
    let odd = issuer.token(json!({"enforce_container_binding": "no"}))?;
    let line = "CONNECT example.com:443";
    for (name, fields, want) in [
        ("the container's own name", basic(CONTAINER, &plain), (200, "")),
        ("another container's name", basic("sbx-2", &plain), mismatch),
        ("bound, from its container", basic(CONTAINER, &bound), (200, "")),
        ("bound, as a bearer", bearer(&bound), (200, "")),
        ("bound, of another container", bearer(&others), mismatch),
        ("explicitly not bound", bearer(&loose), (200, "")),
        ("bound to nothing", bearer(&nobodys), (407, "auth_invalid")),
        ("neither true nor false", bearer(&odd), (407, "auth_invalid")),
    ] {
        check(name, line, &fields, want)?;
    }
    let mut elsewhere = Raw::from("93.184.216.200:0".parse()?, PROXY.parse()?)?;
    let refused = elsewhere.ask(request_with(line, &bearer(&bound)))?;
    ensure!(refused.head.field("x-deny-reason") == Some(mismatch.1), "from an unknown place: {refused:?}");
    ensure!(world.https.accepts() == 4, "{} connections", world.https.accepts());
    exeat.stop()
}

pub(crate) fn a_token_for_central_nodes_counts_there_alone() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let mut exeat = serve(&world, &issuer, CEILING, "")?;
    let token = issuer.token(json!({"enforce_centralized_egress": true}))?;
    let line = "GET http://example.com/";
    check("elsewhere", line, &bearer(&token), (403, "centralized_egress_required"))?;
    ensure!(world.accepts() == 0);
    let config = configuration(CEILING, &TokenIssuer::section("app", ""));
    let central = config.replacen("[proxy]\n", "[proxy]\ncentral = true\n", 1);
    Exeat::write_config(world.directory(), &central)?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    check("on a central node", line, &bearer(&token), (200, ""))?;
    exeat.stop()
}

pub(crate) fn a_token_that_must_use_the_gateway_goes_no_other_way() -> Result<()> {
    const HOP: &str = "10.99.0.1:3199";
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let mut exeat = serve(&world, &issuer, CEILING, "")?;
    let token = issuer.token(json!({"use_egress_gateway": "true"}))?;
    let (line, none) = ("GET http://example.com/", (503, "egress_gateway_unavailable"));
    check("without a next hop", line, &bearer(&token), none)?;
    check("without the flag", line, &bearer(&issuer.token(json!({}))?), (200, ""))?;
    let reached = world.accepts();

    let through = format!("next_hop = \"hop\"\n{CEILING}");
    let hop = format!("[next_hop.hop]\nurl = \"http://gate:{}@{HOP}\"\n", "gate");
    let config = configuration(&through, &(TokenIssuer::section("app", "") + &hop));
    Exeat::write_config(world.directory(), &config)?;
    exeat.signal(Signal::SIGHUP)?;
    exeat.wait_for_output("reloaded")?;
    check("a next hop that is down", line, &bearer(&token), none)?;
    ensure!(world.accepts() == reached, "nothing goes around it");

    let folder = world.directory().join("hop");
    fs::create_dir(&folder)?;
    let config = format!(
        "[proxy]\nlisten = [\"{HOP}\"]\n[audit]\nfile = \"AUDIT\"\n[policy.all]\nallow = [\"example.com\"]\n\
         [client.gate]\npasswords = [\"{}\"]\npolicies = [\"all\"]\n",
        password_entry("gate")
    );
    let mut hop = Exeat::serve(&folder, &config, HOP)?;
    exeat.until("the next hop to be tried again", |_| {
        Ok((answer(line, &bearer(&token))?.0 == 200).then_some(()))
    })?;
    hop.audit_until("its record", |records| records.iter().any(|record| record["status"] == 200))?;
    hop.stop()?;
    exeat.stop()
}

pub(crate) fn regulated_traffic_has_its_own_rules_and_tls() -> Result<()> {
    let world = World::new()?;
    let issuer = TokenIssuer::new(Es256, "k1")?;
    let ceiling = r#"allow = ["example.com", { host = "*.example.org", class = "hipaa" }]"#;
    let mut exeat = serve(&world, &issuer, ceiling, "")?;
    let regulated = issuer.token(json!({"is_hipaa_regulated": "true"}))?;
    let plain = issuer.token(json!({"is_hipaa_regulated": "false"}))?;
    for (name, line, token, want) in [
        ("a marked rule", "CONNECT a.example.org:443", &regulated, (200, "")),
        ("a rule without a mark", "CONNECT example.com:443", &regulated, (403, "class_mismatch")),
        ("no TLS", "GET http://a.example.org/patients/7", &regulated, (403, "tls_required")),
        ("of no class, no mark", "CONNECT example.com:443", &plain, (200, "")),
        ("of no class, marked", "GET http://a.example.org/patients/7", &plain, (200, "")),
    ] {
        check(name, line, &bearer(token), want)?;
    }
    let records = exeat.audit_until("records of all", |records| records.len() >= 7)?;
    ensure!(records.iter().all(|record| !record.to_string().contains("patients")), "a path is recorded");
    let mut tunnel = ask("CONNECT a.example.org:443", &bearer(&regulated))?.0;
    tunnel.send("GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n")?;
    let refused = tunnel.reply("GET")?;
    ensure!(refused.head.field("x-deny-reason") == Some("tls_required"), "{refused:?}");
    exeat.stop()
}
