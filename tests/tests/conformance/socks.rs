//! SOCKS5 on the port of the HTTP proxy.

use anyhow::{Context, Result, ensure};
use exeat_tests::fixture::{CLIENT, PASSWORD};
use exeat_tests::hello::Hello;
use exeat_tests::raw::Raw;
use exeat_tests::socks::{ask, log_in, reply, to_address, to_name};

use crate::stage::{Case, Stage, case};

pub(crate) const CASES: &[Case] = &[
    // The twin of every refusal below: the same messages with an allowed name.
    case("SOCKS-01-twin", |s| s.socks_carries(&to_name(b"EXAMPLE.com", 443), "example.com")),
    case("SOCKS-01", |s| {
        for address in ["10.0.0.1:443", "93.184.216.34:443", "[::1]:443", "[2606:2800:220:1::34]:443"] {
            s.refuses_socks(&to_address(address.parse()?), 2, "ip_literal_not_allowed")?;
            let name = address.rsplit_once(':').context("a port")?.0;
            s.refuses_socks(&to_name(name.as_bytes(), 443), 2, "ip_literal_not_allowed")?;
        }
        Ok(())
    }),
    case("SOCKS-01-listed", |s| {
        let hello = Hello::to("example.com").record();
        let mut tunnel = s.opens_socks(&to_address("93.184.216.34:443".parse()?))?;
        tunnel.send(&hello)?;
        s.world.https.wait("the opening", |seen| seen.iter().any(|seen| seen.received == hello))?;
        s.refuses_socks(&to_address("93.184.216.35:443".parse()?), 2, "ip_literal_not_allowed")
    })
    .policy("allow = [{ network = \"93.184.216.34\", expect = \"any\" }]"),
    case("SOCKS-03", |s| {
        for name in [&b"evil.test\0.example.org"[..], b"example.com\0", b"\0", &[b'a'; 255], b""] {
            s.refuses_socks(&to_name(name, 443), 2, "host_invalid")?;
        }
        Ok(())
    }),
    case("SOCKS-04", |s| {
        for command in [2, 3] {
            let mut asked = to_name(b"example.com", 443);
            *asked.get_mut(1).context("the command")? = command;
            s.refuses_socks(&asked, 7, "method_not_allowed")?;
        }
        Ok(())
    }),
    case("SOCKS-06", |s| {
        let to_4 = |address: [u8; 4], name: &[u8]| [&[4, 1, 1, 0xbb][..], &address, b"app\0", name].concat();
        for asked in [to_4([93, 184, 216, 34], b""), to_4([0, 0, 0, 1], b"example.com\0")] {
            let mut client = Raw::proxy()?;
            client.send(&asked)?;
            ensure!(client.rest()? == [0, 0x5b, 0, 0, 0, 0, 0, 0]);
            let record = s.record("the refusal", |r| r["method"] == "SOCKS4")?;
            ensure!(record["verdict"] == "deny" && record["reason"] == "request_malformed", "{record}");
        }
        ensure!(s.world.accepts() == 0 && s.world.dns.queries().is_empty());
        Ok(())
    }),
    case("HOST-14-socks", |s| {
        for name in [&b"example.com\r\nX: y"[..], b"example.com\n", b"\r\nexample.com"] {
            s.refuses_socks(&to_name(name, 443), 2, "host_invalid")?;
        }
        Ok(())
    }),
];

impl Stage {
    /// A logged-in client opens a tunnel, and the record says so.
    fn opens_socks(&mut self, asked: &[u8]) -> Result<Raw> {
        let (client, reply) = ask(CLIENT, PASSWORD, asked)?;
        ensure!(reply == 0, "reply {reply:#x}");
        let record = self.record("the decision", |r| r["event"] == "decision")?;
        ensure!(record["verdict"] == "allow" && record["method"] == "SOCKS5", "record {record}");
        ensure!(record["principal"]["name"] == CLIENT && record["status"].is_null(), "record {record}");
        Ok(client)
    }

    /// A tunnel opens, and a hello for `name` arrives unchanged.
    fn socks_carries(&mut self, asked: &[u8], name: &str) -> Result<()> {
        let hello = Hello::to(name).record();
        let mut tunnel = self.opens_socks(asked)?;
        tunnel.send(&hello)?;
        self.world.https.wait("the opening", |seen| seen.iter().any(|seen| seen.received == hello))?;
        Ok(())
    }

    /// A logged-in client is refused with `want`: nothing is reached or looked up, the connection closes, the record says why.
    fn refuses_socks(&mut self, asked: &[u8], want: u8, reason: &str) -> Result<()> {
        let (accepts, queries) = (self.world.accepts(), self.world.dns.queries().len());
        let mut client = log_in(CLIENT, PASSWORD)?;
        client.send(asked)?;
        let got = reply(&mut client)?;
        ensure!(got == want, "{asked:?}: want reply {want}, got {got}");
        client.closed()?;
        let record = self.record("the refusal", |r| r["reason"] == reason)?;
        ensure!(record["verdict"] == "deny" && record["method"] == "SOCKS5", "record {record}");
        ensure!(self.world.accepts() == accepts, "{asked:?} reached {:?}", self.world.reached());
        ensure!(self.world.dns.queries().len() == queries, "{asked:?} asked {:?}", self.world.dns.queries());
        Ok(())
    }
}
