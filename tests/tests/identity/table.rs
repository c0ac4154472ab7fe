//! How proofs combine, and what is no proof.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{PASSWORD, password_entry, request_with};
use exeat_tests::namespace::PROXY;
use exeat_tests::raw::{Raw, authorization};
use exeat_tests::world::World;

use crate::setup::{BATCH, FACTOR, NOWHERE, config, denied, exeat_says, get_at, get_from, listen, ok};

/// One row of the table in the documentation.
struct Row {
    cells: Vec<String>,
}

impl Row {
    fn fits(&self, combination: [&str; 4], demands: &[&str]) -> bool {
        let [from, _, anonymous, presents] = combination;
        let is = |at: usize, word: &str| self.cells[at] == "any" || self.cells[at] == word;
        is(0, from)
            && is(2, anonymous)
            && is(3, presents)
            && (is(1, "any") || demands.contains(&&*self.cells[1]))
    }
}

fn table() -> Result<Vec<Row>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity.md");
    let text = fs::read_to_string(path)?;
    let table = text.lines().skip_while(|line| !line.starts_with("| comes from ")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|')).map(|line| {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        Row { cells }
    });
    let rows: Vec<Row> = rows.collect();
    ensure!(!rows.is_empty() && rows.iter().all(|row| row.cells.len() == 6), "the table has six columns");
    Ok(rows)
}

pub(crate) fn every_combination_of_proofs_is_as_the_table_says() -> Result<()> {
    let world = World::new()?;
    let rows = table()?;
    let mut used = vec![0; rows.len()];
    let demands: [&[&str]; 4] = [&[], &["password"], &["origin"], &["origin", "password"]];
    let port = |at: usize| format!("10.99.0.1:{}", 3128 + at);
    let listeners: Vec<String> = (0..demands.len())
        .map(|at| format!("{{ address = \"{}\", demand = {:?} }}", port(at), demands[at]))
        .collect();
    let tied = format!(
        "[client.tied]\npasswords = [\"{}\"]\norigin = [\"factor\"]\npolicies = [\"web\"]\n",
        password_entry(PASSWORD)
    );
    for anonymous in ["let in", "refused"] {
        let word = if anonymous == "let in" { "web" } else { "none" };
        let proxy = format!("listen = [{}]\nanonymous = \"{word}\"", listeners.join(", "));
        let rest = format!(
            "{tied}[workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n\
             [workload.factor]\naddresses = [\"93.184.216.102\"]\nalone = false\npolicies = [\"web\"]\n"
        );
        let directory = world.directory().join(word);
        fs::create_dir(&directory)?;
        let mut exeat = Exeat::serve(&directory, &config(&proxy, &rest), PROXY)?;
        let mut asked = 0;
        for (from, source) in [("batch", BATCH), ("factor", FACTOR), ("nowhere", NOWHERE)] {
            for (at, demanded) in demands.iter().enumerate() {
                for (presents, fields) in [
                    ("nothing", String::new()),
                    ("a wrong password", authorization("app", "wrong")),
                    ("the password of app", authorization("app", PASSWORD)),
                    ("the password of tied", authorization("tied", PASSWORD)),
                ] {
                    let combination = [from, "", anonymous, presents];
                    let found = rows.iter().position(|row| row.fits(combination, demanded));
                    let row = found.with_context(|| format!("no row for {combination:?} {demanded:?}"))?;
                    used[row] += 1;
                    let (status, reason) = get_from(source, port(at).parse()?, &fields)?;
                    let answer = reason.map_or(status.to_string(), |reason| format!("{status} {reason}"));
                    ensure!(answer == rows[row].cells[4], "{combination:?} {demanded:?}: {answer}");
                    asked += 1;
                    let record = exeat.audit_until("a record for each", |records| records.len() >= asked)?;
                    let record = record.last().context("a record")?.clone();
                    let who = record["principal"]["name"].as_str().unwrap_or("nobody");
                    ensure!(who == rows[row].cells[5], "{combination:?} {demanded:?}: {record}");
                    let place = record["workload"].as_str().unwrap_or("nowhere");
                    ensure!(place == from, "{combination:?}: {record}");
                    let proof = record["principal"]["proof"].as_str().unwrap_or_default();
                    ensure!((proof == "origin") == (who == "batch"), "{combination:?}: {record}");
                }
            }
        }
        exeat.stop()?;
    }
    ensure!(used.iter().all(|count| *count > 0), "rows that nothing fits: {used:?}");
    Ok(())
}

/// A PROXY header of version 2 that tells of a client at this address.
fn proxy_header(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(client);
    header.extend([10, 99, 0, 1, 0x30, 0x39, 0x0c, 0x38]);
    header
}

pub(crate) fn headers_say_nothing_of_the_place_and_trusted_senders_do() -> Result<()> {
    let world = World::new()?;
    let proxy = format!("{}\nproxy_protocol_from = [\"93.184.216.9\"]", listen());
    let rest = "[workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n\
                [workload.sender]\naddresses = [\"93.184.216.9\"]\npolicies = [\"web\"]\n";
    let mut exeat = Exeat::serve(world.directory(), &config(&proxy, rest), PROXY)?;
    ensure!(get_at(BATCH, "")? == ok());
    for field in [
        "X-Forwarded-For: 93.184.216.101",
        "Forwarded: for=93.184.216.101",
        "X-Real-IP: 93.184.216.101",
        "X-Client-IP: 93.184.216.101",
        "True-Client-IP: 93.184.216.101",
    ] {
        let answer = get_at(NOWHERE, &format!("{field}\r\n"))?;
        ensure!(answer == denied(407, "auth_required"), "{field}: {answer:?}");
    }
    for (name, source, told, want) in [
        ("a trusted sender tells of the workload", "93.184.216.9:0", [93, 184, 216, 101], Some(200)),
        (
            "it tells of nobody, and does not lend its own place",
            "93.184.216.9:0",
            [93, 184, 216, 103],
            Some(407),
        ),
        ("nobody else may tell", NOWHERE, [93, 184, 216, 101], Some(400)),
        ("not even the workload itself", BATCH, [93, 184, 216, 101], Some(400)),
    ] {
        let mut client = Raw::from(source.parse()?, PROXY.parse()?)?;
        client.send(proxy_header(told))?;
        let reply = client.ask(request_with("GET http://example.com/", ""));
        let status = reply.as_ref().ok().map(|reply| reply.status);
        ensure!(status == want, "{name}: {reply:?}");
    }
    // The second allowed request went by the connection of the first.
    ensure!(world.accepts() == 1, "{:?}", world.reached());
    let records = exeat.audit_until("all records", |records| records.len() >= 10)?;
    let of_batch = records.iter().filter(|record| record["principal"]["proof"] == "origin");
    ensure!(of_batch.clone().count() == 2, "{records:?}");
    ensure!(of_batch.clone().all(|record| record["workload"] == "batch"), "{records:?}");
    exeat.stop()
}

pub(crate) fn explain_tells_whether_a_password_counts() -> Result<()> {
    let world = World::new()?;
    let rest = format!(
        "[client.tied]\npasswords = [\"{}\"]\norigin = [\"batch\"]\npolicies = [\"web\"]\n\
         [workload.batch]\naddresses = [\"93.184.216.101\"]\npolicies = [\"web\"]\n\
         [workload.other]\naddresses = [\"93.184.216.102\"]\npolicies = [\"web\"]\n",
        password_entry(PASSWORD)
    );
    Exeat::write_config(world.directory(), &config(&listen(), &rest))?;
    for (name, args, code, text) in [
        ("the workload itself", &["batch"][..], 0, "allow"),
        ("a password from where it counts", &["tied", "--workload", "batch"], 0, "counts from batch"),
        ("from elsewhere", &["tied", "--workload", "other"], 1, "container_mismatch"),
        ("from nowhere said", &["tied"], 0, "counts from batch only"),
        ("of no such workload", &["tied", "--workload", "nobody"], 2, "there is no workload `nobody`"),
    ] {
        let url = ["http://example.com/", "--address", "93.184.216.34"];
        let outcome = exeat_says(&world, &[&["explain"], args, &url[..]].concat())?;
        let is_told = outcome.out.contains(text) || outcome.err.contains(text);
        ensure!(is_told && (outcome.code == code || code == 2 && outcome.code != 0), "{name}: {outcome:?}");
    }
    Ok(())
}
