//! When a place proves nothing any more.

use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{PASSWORD, echoes, password_entry};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::World;

use crate::setup::{
    BATCH, FACTOR, NOWHERE, config, denied, exeat_says, get_at, listen, ok, record_of, reload, tunnel,
};

pub(crate) fn is_reset(tunnel: &mut Raw) -> Result<()> {
    let mut bytes = [0; 64];
    match tunnel.writer()?.read(&mut bytes) {
        Ok(count) => bail!("{count} bytes instead of a reset"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn flows_end_with_the_place_that_proved_them() -> Result<()> {
    let world = World::new()?;
    let tied = |origin: &str| {
        format!(
            "[client.tied]\npasswords = [\"{}\"]\norigin = [\"{origin}\"]\npolicies = [\"web\"]\n",
            password_entry(PASSWORD)
        )
    };
    let workload = |name: &str, address: &str, more: &str| {
        format!("[workload.{name}]\naddresses = [\"{address}\"]\npolicies = [\"web\"]\n{more}")
    };
    let (batch, factor) = ("93.184.216.101", "93.184.216.102");
    let both = |more: &str| workload("batch", batch, more) + &workload("factor", factor, "");
    let before = tied("factor") + &both("");
    let exeat = Exeat::serve(world.directory(), &config(&listen(), &before), PROXY)?;
    for (name, after, ends, stays) in [
        ("the workload has gone", tied("factor") + &workload("factor", factor, ""), true, true),
        (
            "it is somewhere else",
            tied("factor") + &workload("batch", "93.184.216.104", "") + &workload("factor", factor, ""),
            true,
            true,
        ),
        (
            "somebody else is there",
            tied("factor") + &workload("new", batch, "") + &workload("factor", factor, ""),
            true,
            true,
        ),
        ("it is no proof any more", tied("factor") + &both("alone = false\n"), true, true),
        (
            "it may reach less",
            tied("factor") + &both("").replacen("policies = [\"web\"]\n", "policies = []\n", 1),
            true,
            true,
        ),
        ("a password counts from elsewhere", tied("batch") + &both(""), false, false),
    ] {
        reload(&world, &config(&listen(), &before))?;
        let mut by_place = tunnel(BATCH, "")?;
        let mut by_password = tunnel(FACTOR, &authorization("tied", PASSWORD))?;
        let mut bystander = tunnel(NOWHERE, &authorization("app", PASSWORD))?;
        reload(&world, &config(&listen(), &after))?;
        for (who, tunnel, ended) in [
            ("place", &mut by_place, ends),
            ("password", &mut by_password, !stays),
            ("bystander", &mut bystander, false),
        ] {
            let outcome = if ended { is_reset(tunnel) } else { echoes(tunnel) };
            outcome.with_context(|| format!("{name}: the tunnel by {who}"))?;
        }
    }
    exeat.stop()
}

pub(crate) fn a_workload_in_quarantine_reaches_nothing_with_any_password() -> Result<()> {
    let world = World::new()?;
    let rest = "[workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&listen(), rest), PROXY)?;
    let app = authorization("app", PASSWORD);
    let mut by_place = tunnel(BATCH, "")?;
    let mut by_password = tunnel(BATCH, &app)?;
    let mut elsewhere = tunnel(NOWHERE, &app)?;
    let says = |args: &[&str]| exeat_says(&world, &[args, &["--socket", "admin.sock"]].concat());
    let listed = says(&["flows", "--workload", "batch", "--json"])?;
    ensure!(listed.out.contains("\"total\":2"), "{listed:?}");
    let outcome = says(&["quarantine", "workload=batch"])?;
    ensure!(outcome.out.contains("2 flows end"), "{outcome:?}");
    is_reset(&mut by_place)?;
    is_reset(&mut by_password)?;
    echoes(&mut elsewhere)?;
    for fields in ["", &app] {
        ensure!(get_at(BATCH, fields)? == denied(403, "policy_changed"));
    }
    ensure!(get_at(NOWHERE, &app)? == ok());
    ensure!(says(&["quarantine"])?.out == "workload=batch\n");
    ensure!(says(&["quarantine", "workload=batch", "--release"])?.code == 0);
    ensure!(get_at(BATCH, "")? == ok());
    record_of(&mut exeat, "of the place", |record| {
        record["workload"] == "batch" && record["principal"]["name"] == "app"
    })?;
    drop(elsewhere);
    exeat.stop()
}
