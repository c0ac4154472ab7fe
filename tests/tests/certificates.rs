//! Clients that prove who they are by a certificate: what in it tells who, and when it stops to.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value gives null for what is not there")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::Exeat;
use exeat_tests::fixture::{PASSWORD, password_entry, request_with};
use exeat_tests::origin::PATIENCE;
use exeat_tests::raw::Raw;
use exeat_tests::world::{GREETING, World};
use exeat_tests::{harness, scenarios};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

fn main() -> ExitCode {
    harness::main(scenarios![
        every_combination_with_a_certificate_is_as_the_table_says,
        a_handshake_takes_only_certificates_that_are_good,
        an_app_instance_is_known_by_its_labels,
        a_revoked_certificate_ends_what_is_open_and_nothing_else,
        a_list_that_cannot_be_used_changes_nothing_and_says_so,
    ])
}

/// Where each of the listeners is: they demand nothing, a password, a certificate, both; the last one takes nobody without.
const HOST: &str = "10.99.0.1";
const FIRST_PORT: usize = 3128;
const DEMANDS: [&[&str]; 4] = [&[], &["password"], &["certificate"], &["certificate", "password"]];
const STRICT_PORT: usize = 3132;

fn at(port: usize) -> String {
    format!("{HOST}:{port}")
}

/// An authority for clients.
struct Clients {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Clients {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Writes `NAME.pem` and `NAME.key`: a certificate with this number, subject and names, which ends with this year.
    fn issue(
        &self,
        folder: &Path,
        name: &str,
        serial: u64,
        subject: &[(DnType, &str)],
        names: Vec<SanType>,
        last_year: i32,
    ) -> Result<()> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = names;
        params.not_after = date_time_ymd(last_year, 12, 31);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate()?;
        fs::write(folder.join(format!("{name}.pem")), params.signed_by(&pair, &self.issuer)?.pem())?;
        let key = folder.join(format!("{name}.key"));
        fs::write(&key, pair.serialize_pem())?;
        Ok(fs::set_permissions(key, fs::Permissions::from_mode(0o600))?)
    }

    /// Writes the list of those that are revoked, which ends with this year.
    fn revoke(&self, path: &Path, serials: &[u64], last_year: i32) -> Result<()> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(last_year, 12, 31),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(fs::write(path, list.signed_by(&self.issuer)?.pem()?)?)
    }
}

fn spiffe(id: &str) -> Result<SanType> {
    Ok(SanType::URI(id.try_into()?))
}

struct Stage {
    world: World,
    clients: Clients,
    exeat: Exeat,
}

const HOLDERS: &str = "[certificate.job]\nspiffe = \"spiffe://example.org/jobs/*\"\npolicies = [\"web\"]\n\
[certificate.named]\ncn = \"build-1\"\npolicies = [\"web\"]\n\
[certificate.tied]\ndns = \"tied.example.org\"\nsame_address = true\npolicies = [\"web\"]\n\
[certificate.apps]\ncloud_foundry = true\nsame_address = true\n\
[policy.prod]\nbind = { space = \"s-prod\" }\nallow = [\"example.com\"]\n";

impl Stage {
    fn start() -> Result<Self> {
        let world = World::new()?;
        let folder = world.directory().to_owned();
        world.authority.issue(HOST, &folder.join("proxy.pem"), &folder.join("proxy.key"))?;
        let clients = Clients::new("Clients")?;
        fs::write(folder.join("clients.pem"), clients.issuer.pem())?;
        clients.revoke(&folder.join("crl.pem"), &[99], 2999)?;
        for (name, serial, subject, names) in [
            ("holder", 1, vec![], vec![spiffe("spiffe://example.org/jobs/1")?]),
            ("other", 2, vec![], vec![spiffe("spiffe://example.org/jobs/2")?]),
            ("unknown", 3, vec![(DnType::CommonName, "nobody")], vec![]),
            (
                "elsewhere",
                4,
                vec![],
                vec![
                    SanType::DnsName("tied.example.org".try_into()?),
                    SanType::IpAddress([93, 184, 216, 7].into()),
                ],
            ),
            ("named", 5, vec![(DnType::CommonName, "build-1")], vec![]),
            ("revoked", 99, vec![], vec![spiffe("spiffe://example.org/jobs/99")?]),
        ] {
            clients.issue(&folder, name, serial, &subject, names, 2999)?;
        }
        let exeat = Exeat::serve(&folder, &config(), &at(FIRST_PORT))?;
        Ok(Self { world, clients, exeat })
    }

    /// curl through a listener, with the certificate of this name.
    fn curl(&self, port: usize, certificate: Option<&str>, args: &[&str]) -> Result<Outcome> {
        let (proxy, ca) = (format!("https://{}", at(port)), self.world.ca_file());
        let mut all = vec!["-sS", "--proxy-cacert", &ca, "-x", &proxy];
        let (cert, key);
        if let Some(name) = certificate {
            (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
            all.extend(["--proxy-cert", &cert, "--proxy-key", &key]);
        }
        Client::new("curl", self.world.directory()).args(all.iter().chain(args)).run()
    }

    /// The status and the reason of a GET by curl.
    fn get(&self, port: usize, certificate: Option<&str>, args: &[&str]) -> Result<String> {
        let fixed = ["-o", "/dev/null", "-D", "-", "http://example.com/"];
        let done = self.curl(port, certificate, &[args, &fixed].concat())?;
        ensure!(done.code == 0, "{done:?}");
        let status = done.out.split_whitespace().nth(1).unwrap_or_default();
        let field = done.out.lines().find_map(|line| line.strip_prefix("x-deny-reason: "));
        Ok(field.map_or(status.to_owned(), |reason| format!("{status} {}", reason.trim())))
    }

    /// An open tunnel, from this address, to a server that has spoken first.
    fn tunnel(&self, certificate: &str, source: &str) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let folder = self.world.directory();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.world.ca_file())?)?;
        let chain = vec![CertificateDer::from_pem_file(folder.join(format!("{certificate}.pem")))?];
        let key = PrivateKeyDer::from_pem_file(folder.join(format!("{certificate}.key")))?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let name = ServerName::try_from(HOST)?.to_owned();
        let address: SocketAddr = at(FIRST_PORT).parse()?;
        let socket = Raw::from(source.parse()?, address)?.writer()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket);
        stream.write_all(request_with("CONNECT www.example.org:25", "").as_bytes())?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        ensure!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        let mut greeting = vec![0; GREETING.len()];
        stream.read_exact(&mut greeting)?;
        Ok(stream)
    }
}

fn config() -> String {
    let listener = |port: usize, demand: &[&str], client: &str| {
        format!(
            "{{ address = \"{}\", demand = {demand:?}, tls = {{ cert = \"proxy.pem\", key = \"proxy.key\", \
             client_ca = \"clients.pem\", crl = [\"crl.pem\"], client = \"{client}\" }} }}",
            at(port)
        )
    };
    let mut listeners: Vec<String> = DEMANDS
        .iter()
        .enumerate()
        .map(|(number, demand)| listener(FIRST_PORT + number, demand, "optional"))
        .collect();
    listeners.push(listener(STRICT_PORT, &[], "required"));
    let password = password_entry(PASSWORD);
    format!(
        "[proxy]\nlisten = [{}]\n[audit]\nfile = \"AUDIT\"\n[policy.web]\nallow = [\"example.com\", \"*.example.org:25\"]\n\
         [client.app]\npasswords = [\"{password}\"]\npolicies = [\"web\"]\n{HOLDERS}",
        listeners.join(", ")
    )
}

/// The rows of the second table of the documentation.
fn table() -> Result<Vec<Vec<String>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity.md");
    let text = fs::read_to_string(path)?;
    let table = text.lines().skip_while(|line| !line.starts_with("| certificate ")).skip(2);
    let rows = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    let rows: Vec<_> = rows.collect();
    ensure!(!rows.is_empty() && rows.iter().all(|row| row.len() == 5), "the table has five columns");
    Ok(rows)
}

fn every_combination_with_a_certificate_is_as_the_table_says() -> Result<()> {
    let mut stage = Stage::start()?;
    let rows = table()?;
    let mut used = vec![0; rows.len()];
    let mut asked = 0;
    for (holds, certificate) in [
        ("none", None),
        ("of job", Some("holder")),
        ("of nobody", Some("unknown")),
        ("for elsewhere", Some("elsewhere")),
    ] {
        for (number, demanded) in DEMANDS.iter().enumerate() {
            for (presents, credentials) in [
                ("nothing", None),
                ("a wrong password", Some("app:wrong".to_owned())),
                ("the password of app", Some(format!("app:{PASSWORD}"))),
            ] {
                let fits = |row: &Vec<String>| {
                    let is = |cell: &str, word: &str| cell == "any" || cell == word;
                    let is_demanded = row[1] == "any" || demanded.contains(&&*row[1]);
                    is(&row[0], holds) && is_demanded && is(&row[2], presents)
                };
                let row = rows.iter().position(fits);
                let row = row.with_context(|| format!("no row for {holds} {demanded:?} {presents}"))?;
                used[row] += 1;
                let login =
                    credentials.as_deref().map(|login| vec!["--proxy-user", login]).unwrap_or_default();
                let answer = stage.get(FIRST_PORT + number, certificate, &login)?;
                ensure!(answer == rows[row][3], "{holds} {demanded:?} {presents}: {answer}");
                asked += 1;
                let records =
                    stage.exeat.audit_until("a record for each", |records| records.len() >= asked)?;
                let record = records.last().context("a record")?;
                let who = record["principal"]["name"].as_str().unwrap_or("nobody");
                ensure!(who == rows[row][4], "{holds} {demanded:?} {presents}: {record}");
                let is_certificate = record["principal"]["proof"] == "certificate";
                ensure!(is_certificate == (who == "job"), "{record}");
            }
        }
    }
    ensure!(used.iter().all(|count| *count > 0), "rows that nothing fits: {used:?}");
    stage.exeat.stop()
}

fn a_handshake_takes_only_certificates_that_are_good() -> Result<()> {
    let stage = Stage::start()?;
    let folder = stage.world.directory().to_owned();
    let jobs = || -> Result<Vec<SanType>> { Ok(vec![spiffe("spiffe://example.org/jobs/9")?]) };
    stage.clients.issue(&folder, "over", 8, &[], jobs()?, 2020)?;
    Clients::new("Strangers")?.issue(&folder, "strange", 1, &[], jobs()?, 2999)?;
    for (name, certificate) in [
        ("without one", None),
        ("revoked", Some("revoked")),
        ("over", Some("over")),
        ("of another authority", Some("strange")),
    ] {
        let done = stage.curl(STRICT_PORT, certificate, &["http://example.com/"])?;
        ensure!(done.code != 0 && done.out.is_empty(), "{name}: {done:?}");
    }
    ensure!(stage.world.accepts() == 0, "{:?}", stage.world.reached());
    for certificate in ["holder", "named"] {
        ensure!(stage.get(STRICT_PORT, Some(certificate), &[])? == "200", "{certificate}");
    }
    ensure!(stage.get(STRICT_PORT, Some("unknown"), &[])? == "407 auth_required", "it is nobody's");
    stage.exeat.stop()
}

fn an_app_instance_is_known_by_its_labels() -> Result<()> {
    let mut stage = Stage::start()?;
    let folder = stage.world.directory().to_owned();
    let issue = |name: &str, serial, space: &str, address: [u8; 4]| {
        let subject = [(DnType::CommonName, "i-1"), (DnType::CustomDnType(vec![2, 5, 4, 11]), space)];
        // All of the units are of one kind, of which rcgen keeps the last: they are one attribute after the other.
        let names = vec![SanType::IpAddress(address.into()), SanType::DnsName("i-1".try_into()?)];
        stage.clients.issue(&folder, name, serial, &subject, names, 2999)
    };
    issue("partial", 20, "app:a-1", [93, 184, 216, 101])?;
    ensure!(
        stage.get(FIRST_PORT, Some("partial"), &[])? == "407 auth_required",
        "an app without a space and an organization is nobody"
    );
    for (name, space, address, want) in [
        ("instance", "s-prod", "93.184.216.101", "200"),
        ("of another space", "s-test", "93.184.216.101", "403 host_not_allowed"),
        ("from another address", "s-prod", "93.184.216.102", "403 container_mismatch"),
    ] {
        let file = name.replace(' ', "-");
        instance_certificate(&stage, &file, space)?;
        let args = ["--interface", address];
        let answer = stage.get(FIRST_PORT, Some(&file), &args)?;
        ensure!(answer == want, "{name}: {answer}");
    }
    let records = stage.exeat.audit_until("records", |records| records.len() >= 4)?;
    let allowed = records.iter().find(|record| record["status"] == 200).context("an allow")?;
    ensure!(allowed["principal"]["name"] == "apps:a-1", "{allowed}");
    let labels = &allowed["principal"]["labels"];
    ensure!(labels["space"] == "s-prod" && labels["organization"] == "o-1", "{allowed}");
    ensure!(labels["app"] == "a-1" && labels["instance"] == "i-1", "{allowed}");
    stage.exeat.stop()
}

/// Writes a certificate as Cloud Foundry's, made by openssl: it has three organizational units, which rcgen cannot.
fn instance_certificate(stage: &Stage, name: &str, space: &str) -> Result<()> {
    let folder = stage.world.directory();
    fs::write(folder.join("ca.key"), stage.clients.issuer.key().serialize_pem())?;
    fs::write(
        folder.join("san.cnf"),
        "subjectAltName=DNS:i-1,IP:93.184.216.101\nextendedKeyUsage=clientAuth\nauthorityKeyIdentifier=keyid\n",
    )?;
    let subject = format!("/OU=organization:o-1/OU=space:{space}/OU=app:a-1/CN=i-1");
    let (key, csr, cert) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    let openssl = |args: &[&str]| -> Result<()> {
        let done = Client::new("openssl", folder).args(args).run()?;
        ensure!(done.code == 0, "{done:?}");
        Ok(())
    };
    openssl(&[
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &csr, "-subj", &subject,
    ])?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-CA",
        "clients.pem",
        "-CAkey",
        "ca.key",
        "-set_serial",
        "77",
        "-days",
        "30",
        "-extfile",
        "san.cnf",
        "-out",
        &cert,
    ])
}

fn echoes(tunnel: &mut impl ReadWrite) -> Result<()> {
    tunnel.write_all(b"are you there")?;
    let mut bytes = [0; 13];
    tunnel.read_exact(&mut bytes)?;
    ensure!(&bytes == b"are you there");
    Ok(())
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn a_revoked_certificate_ends_what_is_open_and_nothing_else() -> Result<()> {
    let mut stage = Stage::start()?;
    let mut revoked = stage.tunnel("holder", "93.184.216.101:0")?;
    let mut stays = stage.tunnel("other", "93.184.216.101:0")?;
    echoes(&mut revoked)?;
    stage.clients.revoke(&stage.world.directory().join("crl.pem"), &[99, 1], 2999)?;
    let mut byte = [0];
    let ended = revoked.read(&mut byte);
    ensure!(!matches!(ended, Ok(1..)), "the tunnel is still there: {ended:?}");
    if let Err(error) = &ended {
        ensure!(error.kind() != std::io::ErrorKind::WouldBlock, "the tunnel stayed open");
    }
    echoes(&mut stays)?;
    let done = stage.curl(FIRST_PORT, Some("holder"), &["http://example.com/"])?;
    ensure!(done.code != 0 && done.out.is_empty(), "a new handshake: {done:?}");
    ensure!(stage.get(FIRST_PORT, Some("other"), &[])? == "200");
    let ends = stage.exeat.audit_until("the end", |records| records.iter().any(|r| r["event"] == "end"))?;
    let end = ends.iter().find(|record| record["event"] == "end").context("the end")?;
    ensure!(end["end"] == "policy_changed" && end["principal"]["name"] == "job", "{end}");
    drop(stays);
    stage.exeat.stop()
}

fn a_list_that_cannot_be_used_changes_nothing_and_says_so() -> Result<()> {
    let mut stage = Stage::start()?;
    // It listens before it has read its files.
    ensure!(stage.get(FIRST_PORT, Some("holder"), &[])? == "200");
    let crl = stage.world.directory().join("crl.pem");
    fs::write(&crl, "nothing of use\n")?;
    stage
        .exeat
        .wait_for_output("what client certificates are checked against cannot be used; the old stays")?;
    ensure!(stage.get(FIRST_PORT, Some("holder"), &[])? == "200");
    let done = stage.curl(FIRST_PORT, Some("revoked"), &["http://example.com/"])?;
    ensure!(done.code != 0, "still revoked: {done:?}");
    // A list that is over, and one of somebody else, say nothing of anybody: nobody is let in.
    for (name, authority, last_year) in
        [("over", None, 2021), ("of another authority", Some(Clients::new("Strangers")?), 2999)]
    {
        authority.as_ref().unwrap_or(&stage.clients).revoke(&crl, &[], last_year)?;
        stage.exeat.wait_for_output("client authorities and revocation lists read again")?;
        let mut is_refused = false;
        for _ in 0..200 {
            let done = stage.curl(FIRST_PORT, Some("holder"), &["http://example.com/"])?;
            if done.code != 0 {
                is_refused = true;
                break;
            }
        }
        ensure!(is_refused, "a list that is {name}");
    }
    stage.exeat.stop()
}
