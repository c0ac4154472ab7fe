//! The product is killed while clients ask and connect: what is open stays so, nothing else opens, and the next process
//! knows what the last one has opened.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use exeat_tests::asker::Asker;
use exeat_tests::dns::Entry;
use exeat_tests::exeat::Exeat;
use exeat_tests::lan::Lan;
use exeat_tests::origin::PATIENCE;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

use exeat_tests::firewalled::{ONE, Stage, TWO, config};

const FOUR: &str = "93.184.216.70:5432";
const MAIL: &str = "93.184.216.35:25";
/// What nobody has asked for.
const NEVER: &str = "93.184.216.250:443";
/// Names that are asked for one after the other, each with an address of its own.
const NAMES: u8 = 200;
/// When it is killed.
const KILLED_AFTER: usize = 60;

fn name(number: u8) -> String {
    format!("n{number}.example.org")
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(93, 184, 218, number)
}

/// Asks for one name after the other and connects to what it is told at once, until there is no answer. Returns which
/// names it was told.
fn ask_all(lan: &Lan, told: &AtomicUsize) -> Result<BTreeSet<u8>> {
    lan.clients[0].run(|| {
        let asker = Asker::at("10.88.1.2")?.of("10.88.1.1:53")?;
        let mut names = BTreeSet::new();
        for number in 0..NAMES {
            let Ok(answer) = asker.ask(&name(number), RecordType::A) else { break };
            ensure!(answer.addresses() == [IpAddr::from(address(number))], "{answer:?}");
            TcpStream::connect((address(number), 443))
                .with_context(|| format!("told {}, and refused", address(number)))?;
            names.insert(number);
            told.fetch_add(1, Ordering::Relaxed);
        }
        Ok(names)
    })
}

/// Connects again and again until it is told to stop. Returns how many have worked and how many were refused.
fn connect_all(lan: &Lan, client: usize, to: &str, stop: &AtomicBool) -> Result<(usize, usize)> {
    let to: SocketAddr = to.parse()?;
    lan.clients[client - 1].run(|| {
        let (mut open, mut refused) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            match TcpStream::connect_timeout(&to, PATIENCE) {
                Ok(_) => open += 1,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => refused += 1,
                Err(error) => bail!("{to}: {error}"),
            }
        }
        Ok((open, refused))
    })
}

pub(crate) fn killed_and_started_again_nothing_leaks() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    for number in 0..NAMES {
        stage.world.dns.set(&name(number), Entry::addresses(&[&address(number).to_string()]));
    }
    let mail = stage.traffic(1, "mail.example.org", MAIL)?;
    let before = stage.opened()?;
    let (told, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (lan, exeat, stop) = (&stage.lan, &mut stage.exeat, &stop);
    let names = std::thread::scope(|scope| -> Result<BTreeSet<u8>> {
        let asking = scope.spawn(|| ask_all(lan, &told));
        let open = scope.spawn(|| connect_all(lan, 1, MAIL, stop));
        let others = [(1, NEVER), (2, MAIL), (2, "93.184.218.1:443")];
        let closed = others.map(|(client, to)| (to, scope.spawn(move || connect_all(lan, client, to, stop))));
        let killed = exeat.until("names to be asked for", |_| {
            ensure!(!asking.is_finished(), "who asks has stopped");
            Ok((told.load(Ordering::Relaxed) >= KILLED_AFTER).then_some(()))
        });
        let killed = killed.and_then(|()| exeat.signal(Signal::SIGKILL)).and_then(|()| exeat.wait());
        let names = asking.join().ok().context("who asks")?;
        // The flows of the others have some time without us.
        std::thread::sleep(std::time::Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let (worked, refused) = open.join().ok().context("who connects")??;
        ensure!(worked > 0 && refused == 0, "{MAIL}: open {worked}, refused {refused}");
        for (to, closed) in closed {
            let (worked, refused) = closed.join().ok().context("who may not")??;
            ensure!(worked == 0 && refused > 0, "{to}: open {worked}, refused {refused}");
        }
        ensure!(!killed?.success(), "it ended by itself");
        names
    })?;
    ensure!(names.len() >= KILLED_AFTER && names.len() < NAMES.into(), "{names:?}");
    mail.goes_on().context("killed")?;
    let last = address(NAMES - 1).to_string();
    ensure!(stage.connect(1, &format!("{last}:443"))?.is_none(), "what nobody was told is open");
    ensure!(stage.connect(1, &format!("{}:443", address(0)))?.is_some(), "what was told is closed");
    let nobody = stage.client(1, "dig")?.args(["+tries=1", "+time=3", "n0.example.org"]).run()?;
    ensure!(nobody.code == 9, "there is nobody to ask: {nobody:?}");

    stage.again()?;
    mail.goes_on().context("started again")?;
    let opened = stage.opened()?;
    let row = |number: &u8| ("10.88.1.2".to_owned(), name(*number), address(*number).to_string());
    // The last one may have been opened and not told.
    let next = names.last().map_or(0, |last| last + 1);
    let want: BTreeSet<_> = names.iter().map(row).chain(before).collect();
    let extra: Vec<_> = opened.difference(&want).filter(|opened| **opened != row(&next)).collect();
    ensure!(want.is_subset(&opened), "forgotten: {:?}", want.difference(&opened).collect::<Vec<_>>());
    ensure!(extra.is_empty(), "opened by nobody: {extra:?}");
    for (to, is_open) in
        [(NEVER, false), (&format!("{}:443", address(1)), true), (&format!("{last}:443"), false)]
    {
        ensure!(stage.connect(1, to)?.is_some() == is_open, "{to} after the start");
    }
    ensure!(stage.told(1, &name(NAMES - 1), "A")? == [last.clone()], "names are answered again");
    ensure!(stage.connect(1, &format!("{last}:443"))?.is_some(), "and open what they should");
    mail.end()?;
    let silenced = [NEVER, MAIL, "93.184.218.1:443", &format!("{last}:443")];
    stage.end(&silenced)
}

pub(crate) fn the_next_process_closes_what_its_policy_does() -> Result<()> {
    let mut stage = Stage::start(ONE, TWO)?;
    let mail = stage.traffic(1, "mail.example.org", MAIL)?;
    let four = stage.traffic(1, "four.example.com", FOUR)?;
    stage.exeat.signal(Signal::SIGKILL)?;
    stage.exeat.wait()?;
    let only_mail = config(r#"allow = ["mail.example.org:25"]"#, TWO);
    Exeat::write_config(stage.world.directory(), &only_mail)?;
    four.goes_on().context("while nobody is there")?;
    stage.again()?;
    four.cut()?;
    ensure!(stage.connect(1, FOUR)?.is_none(), "it is still open");
    stage.packet(1, FOUR, "ip_literal_not_allowed", &[])?;
    ensure!(stage.connect(1, MAIL)?.is_some(), "what is allowed is closed");
    let names: BTreeSet<String> = stage.opened()?.into_iter().map(|(_, name, _)| name).collect();
    ensure!(names == BTreeSet::from(["mail.example.org".to_owned()]), "{names:?}");
    mail.end()?;
    stage.end(&[FOUR])
}
