//! `diff`: what two configurations allow differently, client by client.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use exeat_api::differences;
use exeat_policy::{Reason, Revision};
use exeat_store::{Loaded, Options, Report};
use serde_json::Value;

use crate::args::{DiffArgs, DiffFormat};
use crate::control::printable;
use crate::output::{Exit, print_report, to_stderr, to_stdout};

/// Compares two configuration files.
pub(crate) fn run(args: &DiffArgs) -> anyhow::Result<Exit> {
    let progress = Progress::begin();
    let (old, new) = (load(&args.old), load(&args.new));
    let differences = match (&old, &new) {
        (Ok(old), Ok(new)) => Some(between(old, new)?),
        (Err(_), _) | (_, Err(_)) => None,
    };
    drop(progress);
    let Some(differences) = differences else {
        [old, new].iter().filter_map(|loaded| loaded.as_ref().err()).for_each(print_report);
        return Ok(Exit::Config);
    };
    match args.format {
        DiffFormat::Text => to_stdout(text(&differences))?,
        DiffFormat::Json => to_stdout(json_lines(&differences))?,
    }
    Ok(if differences.is_empty() { Exit::Success } else { Exit::Different })
}

/// How long nothing is said about waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells somebody at a terminal that there is work, once it has taken [`PATIENCE`] and until this is dropped. Lists of a million
/// names take a while.
struct Progress {
    end: Option<Sender<()>>,
    teller: Option<JoinHandle<()>>,
}

impl Progress {
    fn begin() -> Self {
        if !io::stderr().is_terminal() {
            return Self { end: None, teller: None };
        }
        let (end, ended) = mpsc::channel();
        let teller = thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                to_stderr("comparing…");
                // Nothing is ever sent: it ends with the sender.
                let _ended = ended.recv();
                to_stderr("\r\x1b[K");
            }
        });
        Self { end: Some(end), teller: Some(teller) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        // It has only written a line: there is nothing to be told of how it ended.
        let _ = self.teller.take().map(JoinHandle::join);
    }
}

/// Reads one configuration. Warnings are `check`'s matter.
fn load(path: &Path) -> Result<Loaded, Report> {
    exeat_store::load(path, &Options::new(Revision(1)))
}

/// What they allow differently, each as the admin API would tell it.
fn between(old: &Loaded, new: &Loaded) -> serde_json::Result<Vec<Value>> {
    differences(old.into(), new.into()).iter().map(serde_json::to_value).collect()
}

/// Where the column of places begins at most; longer lines push it out.
const WIDTH_MAX: usize = 60;

/// Groups of lines, one group a client or a setting, with places in a column of their own.
pub(crate) fn text(differences: &[Value]) -> String {
    let mut text = String::new();
    for of_client in differences.chunk_by(|one, next| title(one) == title(next)) {
        if !text.is_empty() {
            text.push('\n');
        }
        let lines: Vec<(String, String)> = of_client.iter().filter_map(line).collect();
        let client = of_client.first().map(title).unwrap_or_default();
        let _infallible = writeln!(text, "{client}{}", of_client.first().map_or("", remark));
        let width = lines.iter().map(|(what, _)| what.len().min(WIDTH_MAX)).max().unwrap_or_default();
        for (what, place) in lines {
            let line = format!("  {what:<width$}  {place}");
            let _infallible = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// Whose it is.
fn title(difference: &Value) -> String {
    let of = if difference.get("setting").is_some() { "setting" } else { "client" };
    get(difference, of)
}

/// What to say of a client that is on one side only.
fn remark(first: &Value) -> &'static str {
    match first.get("change").and_then(Value::as_str) {
        Some("client_added") => "  (only in the new configuration)",
        Some("client_removed") => "  (only in the old configuration)",
        Some(_) | None => "",
    }
}

/// What changed, and the rules that say so, if any do. `None` for a client that came or went.
fn line(change: &Value) -> Option<(String, String)> {
    let sign = match change.get("change")?.as_str()? {
        "gained" => '+',
        "lost" => '-',
        "changed" => return Some((format!("~ {}", get(change, "what")), String::new())),
        _ => return None,
    };
    let (hosts, ports, what) = (get(change, "hosts"), get(change, "ports"), get(change, "what"));
    // Of most there is nothing to say: a proxy relays TCP.
    let transport = match get(change, "transport").as_str() {
        transport @ ("udp" | "any") => format!("/{transport}"),
        _ => String::new(),
    };
    let line = format!("{sign} {hosts}:{ports}{transport} {what}");
    let allowed_by = get(change.get("allowed_by")?, "place");
    // Another way out is two lines, each with its place.
    let leaves = change.get("reason").and_then(Value::as_str) == Some(Reason::PolicyChanged.token());
    let refused_by = change.get("refused_by").filter(|rule| rule.is_object() && !leaves);
    let refused_by = refused_by.map(|rule| (get(rule, "text"), get(rule, "place")));
    let place = match refused_by.filter(|(_, place)| *place != allowed_by) {
        // Any of the allowed names would do, so the deny is what matters.
        Some((_, place)) if hosts == "allowed names" => place,
        Some((text, place)) => format!("{allowed_by}  ({}: {text} at {place})", get(change, "reason")),
        None => allowed_by,
    };
    Some((line.trim_end().to_owned(), place))
}

fn get(value: &Value, key: &str) -> String {
    value.get(key).filter(|value| !value.is_null()).map(printable).unwrap_or_default()
}

/// One object a line.
fn json_lines(differences: &[Value]) -> String {
    differences.iter().map(|object| format!("{object}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(file: &str, text: &str) -> Loaded {
        exeat_store::load_text(file, text, Path::new(""), &Options::new(Revision(1))).unwrap()
    }

    fn between((old_file, old): (&str, &str), (new_file, new): (&str, &str)) -> Vec<Value> {
        super::between(&loaded(old_file, old), &loaded(new_file, new)).unwrap()
    }

    const OLD: &str = r#"
[proxy]
anonymous = "base"

[policy.base]
allow = ["example.com", "*.example.org"]

[policy.work]
allow = ["git.example.com:22"]

[client.gone]
policies = ["work"]
passwords = []

[client.same]
policies = ["work"]
passwords = []
"#;

    const NEW: &str = r#"
[proxy]
anonymous = "base"

[policy.base]
allow = ["example.com:443", "*.example.org"]
deny = ["bad.example.org"]

[policy.work]
allow = ["git.example.com:22"]

[client.here]
policies = ["base"]
passwords = []

[client.same]
policies = ["work"]
passwords = []
"#;

    #[test]
    fn text_names_clients_changes_and_places() {
        let got = text(&between(("old.toml", OLD), ("new.toml", NEW)));
        let want = "\
(without credentials)
  - example.com:80          old.toml:6:10  (port_not_allowed: example.com:443 at new.toml:6:10)
  - bad.example.org:80,443  old.toml:6:25  (host_denied: bad.example.org at new.toml:7:9)

gone  (only in the old configuration)
  - git.example.com:22  old.toml:9:10

here  (only in the new configuration)
  + example.com:443       new.toml:6:10
  + *.example.org:80,443  new.toml:6:29
";
        assert_eq!(got, want);
    }

    #[test]
    fn another_next_hop_is_two_lines() {
        let by = |url: &str| {
            format!(
                "{OLD}[policy.out]\nallow = [\"a.example.com\"]\nnext_hop = \"corp\"\n[client.out]\npolicies = [\"out\"]\npasswords = []\n[next_hop.corp]\nurl = \"{url}\"\n"
            )
        };
        let (old, new) = (by("http://192.0.2.1:3128"), by("http://192.0.2.2:3128"));
        let want = "\
out
  + a.example.com:80,443 through corp at 192.0.2.2:3128  new.toml:19:10
  - a.example.com:80,443 through corp at 192.0.2.1:3128  old.toml:19:10
";
        assert_eq!(text(&between(("old.toml", &old), ("new.toml", &new))), want);
    }

    #[test]
    fn proxy_headers_and_credentials_are_told_and_no_secret_is() {
        let side = |from: &str, entry: &str, password: &str, more: &str| {
            OLD.replace("[proxy]", &format!("[proxy]\nproxy_protocol_from = [{from}]")).replace(
                "\"git.example.com:22\"",
                &format!("{{ host = \"git.example.com\", ports = [22]{entry} }}"),
            ) + &format!(
                "[policy.out]\nallow = [\"a.example.com\"]\nnext_hop = \"corp\"\n[client.out]\npolicies = [\"out\"]\npasswords = []\n[next_hop.corp]\nurl = \"http://exeat:{password}@192.0.2.1:3128\"\n{more}"
            )
        };
        let old = side("\"192.0.2.8/32\"", "", "first-secret", "");
        let new = side(
            "\"192.0.2.9/32\"",
            ", proxy_protocol = \"v2\"",
            "other-secret",
            "proxy_protocol = \"v2\"\n",
        );
        let told = between(("old.toml", &old), ("new.toml", &new));
        let want = "\
gone
  + git.example.com:22 with a PROXY header (v2)  new.toml:10:10
  - git.example.com:22 without a PROXY header    old.toml:10:10

same
  + git.example.com:22 with a PROXY header (v2)  new.toml:10:10
  - git.example.com:22 without a PROXY header    old.toml:10:10

next_hop.corp
  ~ credentials
  ~ proxy_protocol

proxy.proxy_protocol_from
  ~ +192.0.2.9
  ~ -192.0.2.8
";
        assert_eq!(text(&told), want);
        assert!(!json_lines(&told).contains("secret"));
        assert!(between(("old.toml", &old), ("new.toml", &old)).is_empty());
    }

    /// The keys of RFC 7517, appendix A.1, and RFC 8037, appendix A.
    const EC: &str = r#"{ kty = "EC", kid = "k1", crv = "P-256", x = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", y = "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" }"#;
    const OKP: &str =
        r#"{ kty = "OKP", kid = "k2", crv = "Ed25519", x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }"#;

    /// A configuration with an issuer. Its ceiling allows `allow`.
    fn with_issuer(keys: &str, allow: &str, team: &str, lines: &str) -> String {
        format!(
            "{OLD}[policy.sandboxes]\nallow = [{allow}]\n[policy.team]\nallow = [{team}]\n[issuer.sandboxes]\nissuer = \"i\"\n\
             jwks = {{ keys = [{keys}] }}\nceiling = \"sandboxes\"\npolicies = [\"team\"]\n{lines}"
        )
    }

    #[test]
    fn what_is_new_for_tokens_is_told_by_issuer() {
        let old = with_issuer(
            EC,
            "\"a.example.com\", \"b.example.com\"",
            "\"*.example.com\"",
            "audience = \"a\"\n",
        );
        let new = with_issuer(
            OKP,
            "\"a.example.com\", \"c.example.com\"",
            "\"a.example.com\"",
            "audience = \"b\"\nmax_lifetime = \"1h\"\nenforce_container_binding = true\n",
        );
        let want = "\
issuer.sandboxes
  ~ audience
  ~ max_lifetime
  ~ enforce_container_binding
  ~ +key k2
  ~ -key k1

(tokens of sandboxes)
  + c.example.com:80,443  new.toml:19:27
  - b.example.com:80,443  old.toml:19:27

(policies for tokens of sandboxes)
  - *.example.com:80,443  old.toml:21:10
";
        assert_eq!(text(&between(("old.toml", &old), ("new.toml", &new))), want);
        let none = text(&between(("old.toml", OLD), ("new.toml", &new)));
        assert!(
            none.starts_with("(tokens of sandboxes)  (only in the new configuration)\n  + a.example.com"),
            "{none}"
        );
        let renamed = old.replace("\"k1\"", "\"k9\"");
        assert!(between(("old.toml", &old), ("new.toml", &renamed)).is_empty(), "the same key");
        let fetched = old.replace(&format!("keys = [{EC}]"), "url = \"https://192.0.2.1/jwks\", ca = \"CA\"");
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(["ca.example.com".to_owned()]).unwrap();
        std::fs::write(&ca, made.cert.pem()).unwrap();
        let fetched = fetched.replace("\"CA\"", &format!("{:?}", ca.to_string_lossy()));
        let elsewhere = fetched.replace("192.0.2.1", "192.0.2.2");
        for (name, new, want) in
            [("fetched", &fetched, "issuer.sandboxes\n  ~ jwks\n"), ("the same", &old, "")]
        {
            assert_eq!(text(&between(("old.toml", &old), ("new.toml", new))), want, "{name}");
        }
        assert!(between(("old.toml", &fetched), ("new.toml", &fetched)).is_empty());
        let moved = text(&between(("old.toml", &fetched), ("new.toml", &elsewhere)));
        assert_eq!(moved, "issuer.sandboxes\n  ~ jwks\n");
    }

    #[test]
    fn a_configuration_is_the_same_as_itself() {
        for text in [OLD, NEW] {
            assert!(between(("a.toml", text), ("b.toml", text)).is_empty());
        }
    }

    #[test]
    fn json_carries_the_witness() {
        let got = json_lines(&between(("old.toml", OLD), ("new.toml", NEW)));
        let objects: Vec<Value> = got.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 7);
        let denied = objects.iter().find(|o| o["reason"] == "host_denied").unwrap();
        assert_eq!(denied["change"], "lost");
        assert_eq!(denied["witness"]["target"], "bad.example.org:443");
        assert_eq!(denied["refused_by"]["place"], "new.toml:7:9");
        assert!(objects.iter().any(|o| o["client"] == "gone" && o["change"] == "client_removed"));
    }
}
