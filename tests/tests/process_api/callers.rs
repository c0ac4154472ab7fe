//! Who is heard: those with the secret, who call it by its name, from where they may.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use exeat_tests::client::Client;
use exeat_tests::confined::Starter;
use exeat_tests::container::Container;
use exeat_tests::gateway;
use exeat_tests::harness::Scenario;
use exeat_tests::process_api::{ADDRESS, Api, SECRET_VARIABLE, answer, spawn};
use exeat_tests::world::World;
use serde_json::json;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios = by_each_starter![
        nothing_is_answered_without_the_secret,
        callers_inside_a_sandbox_are_refused_on_every_route,
        it_does_not_start_where_it_would_not_be_safe,
        callers_may_speak_tls,
    ];
    scenarios.push(Scenario::new("callers_on_this_host_can_be_refused_on_every_route", || {
        callers_on_this_host_can_be_refused_on_every_route(
            Starter::all().first().copied().unwrap_or(Starter::Tester),
        )
    }));
    scenarios
}

/// Every route, and what is none.
const ROUTES: [(&str, &str); 9] = [
    ("GET", "/health"),
    ("GET", "/openapi.json"),
    ("POST", "/execute"),
    ("GET", "/execute"),
    ("GET", "/runs"),
    ("GET", "/runs/run-0"),
    ("GET", "/runs/run-0/wait"),
    ("POST", "/runs/run-0/signal"),
    ("GET", "/no/such"),
];

const ORDER: &str = r#"{"command":"true"}"#;

fn nothing_is_answered_without_the_secret(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let flags = ["--host", "api.example.com", "--allow-origin", "https://console.example.com"];
    let mut api = Api::start(starter, world.directory(), &flags)?;
    let right = api.authorization();
    let wrong = format!("Authorization: Bearer {}x", api.secret);
    let short = format!("Authorization: Bearer {}", &api.secret[1..]);
    let basic = format!("Authorization: Basic {}", api.secret);
    for (method, path) in ROUTES {
        let body: &[&str] = if method == "POST" { &["-d", ORDER] } else { &[] };
        for (name, headers, want) in [
            ("no credentials", vec![], 401),
            ("an empty one", vec!["Authorization: Bearer "], 401),
            ("a longer one", vec![&*wrong], 401),
            ("a shorter one", vec![&*short], 401),
            ("another scheme", vec![&*basic], 401),
            ("two", vec![&*right, &*right], 401),
            ("a page of somebody", vec![&*right, "Origin: https://evil.test"], 403),
            ("a page of nobody", vec![&*right, "Origin: null"], 403),
            ("a name of somebody", vec![&*right, "Host: evil.test:18080"], 421),
            ("no host", vec![&*right, "Host:"], 400),
        ] {
            let fields: Vec<&str> = headers.iter().flat_map(|field| ["-H", field]).collect();
            let args = [&["-X", method], &fields[..], body].concat();
            let (status, answer) = api.curl(path, &args)?;
            ensure!(status == want, "{method} {path}: {name}: {status} {answer}");
        }
    }
    for (name, headers) in [
        ("the secret", vec![]),
        ("in other letters", vec![]),
        ("by a name that is known", vec!["Host: API.example.com:18080"]),
        ("by localhost", vec!["Host: localhost"]),
        ("by an address", vec!["Host: [::1]:1"]),
        ("a page that may", vec!["Origin: https://console.example.com"]),
    ] {
        let fields: Vec<&str> = headers.iter().flat_map(|field| ["-H", field]).collect();
        let right =
            if name == "in other letters" { right.replace("Bearer", "bearer") } else { right.clone() };
        let args = [&["-H", &right], &fields[..], &["-d", ORDER]].concat();
        let (status, answer) = api.curl("/execute", &args)?;
        ensure!(status == 200, "{name}: {status} {answer}");
    }
    let (status, answer) = api.ask("/no/such", &[])?;
    ensure!(
        status == 404 && answer["help"].as_str().is_some_and(|help| help.contains("POST /execute")),
        "{answer}"
    );
    let (status, answer) = api.ask("/runs", &["-X", "DELETE"])?;
    ensure!(status == 405, "{answer}");
    let (status, document) = api.ask("/openapi.json", &[])?;
    let published = fs::read_to_string(exeat_tests::source::root()?.join("docs/process-api.json"))?;
    let published: serde_json::Value = serde_json::from_str(&published)?;
    ensure!(status == 200 && document == published, "the document is another one");
    // Who asks without it is not heard any further.
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.write_all("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3).as_bytes())?;
    let mut answers = String::new();
    // What was not read is lost with a reset.
    let _ = stream.read_to_string(&mut answers);
    ensure!(answers.matches("HTTP/1.1 401 ").count() == 1, "{answers}");
    for (name, fields) in
        [("two", "Host: localhost\r\nHost: localhost\r\n"), ("no", ""), ("one", "Host: other.test\r\n")]
    {
        let mut stream = TcpStream::connect(ADDRESS)?;
        write!(stream, "GET http://localhost/health HTTP/1.1\r\n{fields}{right}\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        let want = if name == "one" { b"HTTP/1.1 200" } else { b"HTTP/1.1 400" };
        ensure!(&answer == want, "{name} Host beside an absolute target: {}", answer.escape_ascii());
    }
    // Nobody finds it in the log.
    ensure!(!api.exeat.stderr().contains(&api.secret));
    api.exeat.until_logged("a command has ended")?;
    api.exeat.stop()
}

fn callers_inside_a_sandbox_are_refused_on_every_route(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    // An address that a policy can open.
    let mut api = Api::start_at("93.184.216.80:18080", starter, home, &[])?;
    let url = |path: &str| format!("http://93.184.216.80:18080{path}");
    let field = api.authorization();
    let curl = |method: &str, path: &str| {
        let words = ["curl", "-sS", "-m", "10", "-X", method, "-H", &field, "-d", ORDER, &url(path)];
        words.map(str::to_owned).to_vec()
    };
    let refused = |api: &Api| api.exeat.stderr().matches("from inside a sandbox").count();
    for (number, (method, path)) in ROUTES.into_iter().enumerate() {
        // One of its own does not get that far: no policy opens the address.
        let words = curl(method, path);
        let bare = [&["-i".to_owned()], &words[..]].concat();
        let (status, run) = api.execute(&json!({
            "command": "env", "args": bare,
            "policy": { "allow": ["93.184.216.80:18080", "93.184.216.0/24:18080"] },
        }))?;
        let reason = &run["end"]["network"]["refused"][0]["reason"];
        ensure!(status == 200 && *reason == "address_not_allowed", "{method} {path}: {run}");
        ensure!(number > 0 || refused(&api) == 0, "{}", api.exeat.stderr());
        // One that somebody else confines, who does not know what listens there.
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = starter.run(home, &["--allow", "93.184.216.80:18080"], &words)?;
        ensure!(
            outcome.out.contains("\"connect_failed\"") && !outcome.out.contains("runs"),
            "{method} {path}: {outcome:?}"
        );
        // Of several in a second, one is logged.
        api.exeat.until("the refusal", |exeat| {
            Ok(exeat.stderr().contains("from inside a sandbox").then_some(()))
        })?;
    }
    // Who is not confined is heard.
    let (status, answer) = api.ask("/health", &[])?;
    ensure!(status == 200, "{answer}");
    api.exeat.stop()
}

fn callers_on_this_host_can_be_refused_on_every_route(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let far: Container = gateway::container(1)?;
    let mut api = Api::start_at("0.0.0.0:18080", starter, home, &["--restrict-localhost"])?;
    let field = api.authorization();
    for (method, path) in ROUTES {
        let args = ["-sS", "-m", "10", "-X", method, "-H", &field, "-d", ORDER];
        for address in ["127.0.0.1", "10.97.1.1", "93.184.216.80"] {
            let url = format!("http://{address}:18080{path}");
            let outcome = Client::new("curl", home).args(args).args([url]).run()?;
            ensure!(outcome.code != 0 && outcome.out.is_empty(), "{method} {path} by {address}: {outcome:?}");
            api.exeat.until("the refusal", |exeat| {
                Ok(exeat.stderr().contains("comes from this host").then_some(()))
            })?;
        }
    }
    let ask = |path: &str, args: &[&str]| {
        let url = format!("http://10.97.1.1:18080{path}");
        answer(far.curl(home, &[&["-w", "\n%{http_code}"], args, &[&url]].concat())?)
    };
    let (status, run) = ask("/execute", &["-H", &field, "-d", ORDER])?;
    ensure!(status == 200 && run["end"]["status"] == 0, "{run}");
    let (status, answer) = ask("/health", &[])?;
    ensure!(status == 401, "{answer}");
    api.exeat.stop()
}

fn it_does_not_start_where_it_would_not_be_safe(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let strong = "x".repeat(32);
    let file = home.join("secret");
    let write = |text: &str, mode: u32| -> Result<()> {
        fs::write(&file, text)?;
        if starter == Starter::Nobody {
            std::os::unix::fs::chown(&file, Some(65534), Some(65534))?;
        }
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(mode))?)
    };
    let path = file.to_string_lossy().into_owned();
    let by_file: &[&str] = &["--addr", ADDRESS, "--secret-file", &path];
    for (name, text, mode, flags, variables, want) in [
        ("an empty secret", "", 0o600, by_file, &[][..], "less than 22 characters"),
        ("a weak one", "password", 0o600, by_file, &[], "less than 22 characters"),
        ("one that others read", &*strong, 0o644, by_file, &[], "chmod 600"),
        ("two", &strong, 0o600, by_file, &[(SECRET_VARIABLE, &*strong)], "two secrets"),
        (
            "a weak variable",
            "",
            0o600,
            &["--addr", ADDRESS],
            &[(SECRET_VARIABLE, "password")],
            SECRET_VARIABLE,
        ),
        ("an empty variable", "", 0o600, &["--addr", ADDRESS], &[(SECRET_VARIABLE, "")], SECRET_VARIABLE),
        (
            "nobody could call it",
            &strong,
            0o600,
            &["--addr", ADDRESS, "--restrict-localhost", "--secret-file", &path],
            &[],
            "nobody could call it",
        ),
        (
            "a limit that nobody keeps",
            &strong,
            0o600,
            &["--addr", ADDRESS, "--secret-file", &path, "--limits", "rlimit", "--cpu-shares", "512"],
            &[],
            "--cpu-shares",
        ),
        (
            "a hidden file that is not there",
            &strong,
            0o600,
            &["--addr", ADDRESS, "--secret-file", &path, "--hide", "no-such-file"],
            &[],
            "no-such-file",
        ),
    ] {
        write(text, mode)?;
        let mut exeat = spawn(starter, home, flags, variables)?;
        let status = exeat.wait()?;
        ensure!(
            status.code() == Some(1) && exeat.stderr().contains(want),
            "{name}: {status}: {}",
            exeat.stderr()
        );
        ensure!(!exeat.stderr().contains("ready") && !exeat.stderr().contains(&strong), "{name}");
    }
    if starter == Starter::Root {
        // Nothing but its mode keeps it from commands then.
        let (cert, key) = (home.join("api.pem"), home.join("api.key"));
        world.authority.issue("api.example.com", &cert, &key)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
        let (cert, key) = (cert.to_string_lossy().into_owned(), key.to_string_lossy().into_owned());
        let flags = [by_file, &["--tls-cert", &cert, "--tls-key", &key]].concat();
        write(&strong, 0o600)?;
        let mut exeat = spawn(starter, home, &flags, &[])?;
        let status = exeat.wait()?;
        ensure!(status.code() == Some(1) && exeat.stderr().contains("chmod o="), "{}", exeat.stderr());
    }
    // No secret is made for a server that cannot be.
    let unmade = home.join("unmade");
    let flags = ["--addr", ADDRESS, "--secret-file", &unmade.to_string_lossy()];
    let wrong = match starter {
        Starter::Root => exeat_tests::exeat::Exeat::spawn(
            home,
            &[&["sandbox", "serve", "--user", "no-such-user"], &flags[..]].concat(),
        ),
        Starter::Nobody | Starter::Tester => {
            spawn(starter, home, &[&flags[..], &["--user", "no-such-user"]].concat(), &[])
        }
    };
    ensure!(wrong?.wait()?.code() == Some(1) && !unmade.exists());
    // A secret by the variable is one.
    let mut exeat = spawn(starter, home, &["--addr", ADDRESS], &[(SECRET_VARIABLE, &strong)])?;
    exeat.until_logged("ready")?;
    let field = format!("Authorization: Bearer {strong}");
    let url = format!("http://{ADDRESS}/execute");
    let order = r#"{"command":"env"}"#;
    let outcome = Client::new("curl", home).args(["-sS", "-H", &field, "-d", order, &url]).run()?;
    ensure!(outcome.out.contains("\"status\":0") && !outcome.out.contains(&strong), "{outcome:?}");
    exeat.stop()
}

fn callers_may_speak_tls(starter: Starter) -> Result<()> {
    let world = World::new()?;
    let home = world.directory();
    let (cert, key) = (home.join("api.pem"), home.join("api.key"));
    world.authority.issue("api.example.com", &cert, &key)?;
    if starter == Starter::Nobody {
        std::os::unix::fs::chown(&key, Some(65534), Some(65534))?;
    }
    let (cert, key) = (cert.to_string_lossy().into_owned(), key.to_string_lossy().into_owned());
    let flags = ["--tls-cert", &cert, "--tls-key", &key, "--host", "api.example.com"];
    let api = Api::start(starter, home, &flags)?;
    let field = api.authorization();
    let curl = |args: &[&str]| {
        let own = [
            "-sS",
            "-H",
            &field,
            "--cacert",
            &world.ca_file(),
            "--resolve",
            "api.example.com:18080:127.0.0.1",
        ]
        .map(str::to_owned);
        Client::new("curl", home).args(own).args(args).run()
    };
    let order = json!({ "command": "cat", "args": [key] }).to_string();
    let outcome = curl(&["-d", &order, "https://api.example.com:18080/execute"])?;
    ensure!(outcome.code == 0 && outcome.out.contains("\"state\":\"ended\""), "{outcome:?}");
    ensure!(!outcome.out.contains("PRIVATE KEY"), "{outcome:?}");
    let plain = curl(&["http://api.example.com:18080/health"])?;
    ensure!(plain.code != 0 && !plain.out.contains("running"), "{plain:?}");
    api.exeat.stop()
}
