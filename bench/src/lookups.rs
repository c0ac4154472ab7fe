//! Questions for names, by UDP: how long a name server takes, and what an answer costs it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::record::{Figures, Sheet};
use crate::{names, process};

/// Names that are asked for in turn where answers may be kept.
const KEPT: u64 = 1000;

/// An answer that has not come by then has been lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ask a name server.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Lookups {
    #[command(flatten)]
    sheet: Sheet,
    /// What the results call it
    #[arg(long)]
    name: String,
    /// Where it listens
    #[arg(long)]
    server: SocketAddr,
    /// Its process; 0 if what it uses does not matter
    #[arg(long, default_value_t = 0)]
    pid: u32,
    /// How many questions wait for an answer at a time
    #[arg(long)]
    clients: usize,
    /// Seconds that are measured
    #[arg(long)]
    seconds: f64,
    /// The round
    #[arg(long)]
    round: u32,
    /// How many names are allowed
    #[arg(long)]
    rules: u64,
    /// Ask for each name once only, from this number on, so that no cache knows it
    #[arg(long)]
    new_from: Option<u64>,
}

/// What the clients share.
struct Asking {
    options: Lookups,
    next: AtomicU64,
    began: Instant,
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    microseconds: Vec<u32>,
    errors: BTreeMap<String, u64>,
}

/// Asks for as long as it is told, and writes down what came of it.
///
/// # Errors
/// If there is no socket, or the results cannot be written.
pub(crate) async fn run(options: &Lookups) -> Result<()> {
    if options.new_from.is_none() {
        // So that every answer is there already.
        let asking = Asking::new(options);
        let socket = connect(options.server).await?;
        for number in 0..asking.kept() {
            ask(&socket, &asking.name(number), u16::try_from(number % 65_536)?).await?;
        }
    }
    let (asking, cpu) = (Arc::new(Asking::new(options)), process::cpu(options.pid));
    let clients: Vec<_> = (0..options.clients).map(|_| tokio::spawn(client(Arc::clone(&asking)))).collect();
    let mut all = Seen::default();
    for client in clients {
        let seen = client.await.context("a client panicked")??;
        all.microseconds.extend(seen.microseconds);
        for (kind, count) in seen.errors {
            *all.errors.entry(kind).or_default() += count;
        }
    }
    let (seconds, cpu) = (asking.began.elapsed().as_secs_f64(), process::cpu(options.pid).since(cpu));
    options.sheet.add(&options.name, options.round, figures(options, all, seconds, cpu))
}

fn figures(options: &Lookups, all: Seen, seconds: f64, cpu: process::Cpu) -> Figures {
    let units = all.microseconds.len() as u64;
    let mut figures = Figures { units, seconds, errors: all.errors, ..Figures::default() };
    figures.set("rate", units as f64 / seconds);
    if options.pid != 0 && units > 0 {
        figures.set("cpu_us", cpu.total() * 1e6 / units as f64);
        figures.set("system_share", cpu.system / cpu.total());
    }
    let mut microseconds: Vec<f64> = all.microseconds.into_iter().map(f64::from).collect();
    figures.set_quantiles(&mut microseconds, "us");
    figures
}

impl Asking {
    fn new(options: &Lookups) -> Self {
        let options = options.clone();
        Self { next: AtomicU64::new(options.new_from.unwrap_or(0)), options, began: Instant::now() }
    }

    fn kept(&self) -> u64 {
        KEPT.min(self.options.rules)
    }

    /// The name of this number: a new one each time, or one of those that are kept.
    fn name(&self, number: u64) -> String {
        match self.options.new_from {
            Some(_) => names::listed(number % self.options.rules),
            None => names::listed(number % self.kept()),
        }
    }
}

async fn client(asking: Arc<Asking>) -> Result<Seen> {
    let socket = connect(asking.options.server).await?;
    let mut seen = Seen::default();
    while asking.began.elapsed().as_secs_f64() < asking.options.seconds {
        let number = asking.next.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        match ask(&socket, &asking.name(number), (number % 65_536) as u16).await {
            Ok(()) => {
                seen.microseconds.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Err(error) => *seen.errors.entry(error.to_string()).or_default() += 1,
        }
    }
    Ok(seen)
}

async fn connect(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((
        if server.ip().is_loopback() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED },
        0,
    ))
    .await?;
    socket.connect(server).await?;
    Ok(socket)
}

/// Asks for one name and checks the answer.
async fn ask(socket: &UdpSocket, name: &str, id: u16) -> Result<()> {
    let mut query = Message::query();
    query.metadata.id = id;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(format!("{name}."))?, RecordType::A));
    socket.send(&query.to_vec()?).await?;
    let mut buffer = [0; 1500];
    loop {
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.context("no answer")??;
        let answer = Message::from_vec(buffer.get(..length).unwrap_or_default())?;
        if answer.metadata.id != id {
            // To a question that was given up.
            continue;
        }
        let code = answer.metadata.response_code;
        anyhow::ensure!(code == ResponseCode::NoError, "answered {code}");
        let right = RData::A(names::address(name).into());
        anyhow::ensure!(answer.answers.iter().any(|record| record.data == right), "another address");
        return Ok(());
    }
}
