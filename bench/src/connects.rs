//! A name is asked for and its address connected to at once, again and again: no first packet may be refused.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::time::Duration;

use crate::names;
use crate::record::{Figures, Sheet};

/// The port that the rule of the run is for.
pub(crate) const PORT: u16 = 9080;

/// Nothing takes this long that has not been lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ask and connect.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Connects {
    #[command(flatten)]
    sheet: Sheet,
    /// What the results call it
    #[arg(long)]
    name: String,
    /// The name server
    #[arg(long)]
    server: SocketAddr,
    /// How often, each time for another name with another address
    #[arg(long)]
    count: u16,
    /// The round
    #[arg(long)]
    round: u32,
}

/// Does it, and writes down what came of it.
///
/// # Errors
/// If the name server does not answer, or the results cannot be written.
pub(crate) fn run(options: &Connects) -> Result<()> {
    let asking = UdpSocket::bind(("0.0.0.0", 0))?;
    asking.connect(options.server)?;
    asking.set_read_timeout(Some(PATIENCE))?;
    let mut figures = Figures::default();
    let mut connecting: Vec<f64> = Vec::new();
    let began = Instant::now();
    for number in 0..options.count {
        let to = SocketAddr::from((ask(&asking, number)?, PORT));
        let asked = Instant::now();
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(_) => connecting.push(asked.elapsed().as_secs_f64() * 1e6),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                *figures.errors.entry("refused".to_owned()).or_default() += 1;
            }
            Err(error) => bail!("{to}: {error}"),
        }
    }
    figures.units = connecting.len() as u64;
    figures.seconds = began.elapsed().as_secs_f64();
    figures.set("rate", f64::from(options.count) / figures.seconds);
    figures.set("refused", figures.error_count() as f64);
    figures.set_quantiles(&mut connecting, "us");
    options.sheet.add(&options.name, options.round, figures)
}

fn ask(socket: &UdpSocket, number: u16) -> Result<std::net::Ipv4Addr> {
    let name = names::distant(number);
    let mut query = Message::query();
    query.metadata.id = number;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(format!("{name}."))?, RecordType::A));
    socket.send(&query.to_vec()?)?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).with_context(|| format!("no answer for {name}"))?;
    let answer = Message::from_vec(buffer.get(..length).unwrap_or_default())?;
    let code = answer.metadata.response_code;
    ensure!(answer.metadata.id == number && code == ResponseCode::NoError, "{name}: answered {code}");
    let right = names::address(&name);
    ensure!(
        answer.answers.iter().any(|record| record.data == RData::A(right.into())),
        "{name}: another address"
    );
    Ok(right)
}
