//! `[api]`: where operators see and steer the proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::listeners::address_help;
use crate::load::read_text;
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::Fields;
use crate::settings::ApiSettings;
use crate::syntax;

/// What the help shows as an example: beside the proxy's own port, where exporters are expected.
const LISTEN_EXAMPLE: &str = "127.0.0.1:9128";

/// Longest path of a unix socket, in bytes: `sun_path` less its final NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Reads `[api]`. A relative socket is relative to the configuration file.
pub(crate) fn read(fields: &Fields<'_, '_>, base_dir: &Path, notes: &mut Notes) -> ApiSettings {
    ApiSettings { listen: read_listen(fields, notes), socket: read_socket(fields, base_dir, notes) }
}

fn read_listen(fields: &Fields<'_, '_>, notes: &mut Notes) -> Option<SocketAddr> {
    let text = fields.string("listen", notes)?;
    let finding = match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().to_canonical().is_loopback() => return Some(address),
        Ok(address) => {
            let message = format!("`{}` is not a loopback address", address.ip());
            let help = format!(
                "write listen = \"{LISTEN_EXAMPLE}\"; health and metrics are not protected, so they are not put on a network"
            );
            Finding::error(Code::InvalidValue, message).help(help)
        }
        Err(_) => {
            let message = format!("`{}` is not an address and a port", shown(text));
            let help = match text.parse::<std::net::IpAddr>() {
                Ok(address) => format!("add the port: \"{}\"", SocketAddr::new(address, 9128)),
                Err(_) if text.starts_with("localhost:") || text.parse::<u16>().is_ok() => address_help(text),
                Err(_) => format!("write listen = \"{LISTEN_EXAMPLE}\""),
            };
            Finding::error(Code::InvalidValue, message).help(help)
        }
    };
    notes.push(fields.get("listen").map_or(fields.span(), toml::Spanned::span), finding);
    None
}

/// Reads the path of a unix socket.
pub(crate) fn read_socket(fields: &Fields<'_, '_>, base_dir: &Path, notes: &mut Notes) -> Option<PathBuf> {
    let text = fields.string("socket", notes)?;
    let path = base_dir.join(text);
    let length = path.as_os_str().len();
    let finding = if text.is_empty() {
        Finding::error(Code::InvalidValue, "`socket` is empty").help("write socket = \"exeat.sock\"")
    } else if length > SOCKET_PATH_BYTES_MAX {
        let message = format!("the path of the socket has {length} bytes");
        let help =
            format!("a unix socket's path has at most {SOCKET_PATH_BYTES_MAX}: \"/run/exeat/exeat.sock\"");
        Finding::error(Code::TooLarge, message).help(help)
    } else {
        return Some(path);
    };
    notes.push(fields.get("socket").map_or(fields.span(), toml::Spanned::span), finding);
    None
}

/// Returns the socket that a configuration file names, whatever else in the file is wrong: whoever has just broken it
/// still wants to reach the proxy that runs.
#[must_use]
pub fn api_socket(path: &Path) -> Option<PathBuf> {
    let (text, _) = read_text(path).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut right = String::new();
    let parsed = syntax::parse(text, &mut right);
    let socket = parsed.table.get_ref().get("api")?.get_ref().get("socket")?.get_ref().as_str()?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    Some(base_dir.join(socket)).filter(|_| !socket.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, load_text};
    use exeat_policy::Revision;

    fn load(text: &str) -> Result<ApiSettings, String> {
        let options = Options::new(Revision(1));
        let loaded = load_text("t.toml", text, Path::new("/etc/exeat"), &options);
        loaded.map(|loaded| loaded.settings.api).map_err(|report| {
            let problem =
                report.problems().first().map(|p| (p.message().to_owned(), p.help().map(str::to_owned)));
            problem
                .map(|(message, help)| format!("{message} | {}", help.unwrap_or_default()))
                .unwrap_or_default()
        })
    }

    #[test]
    fn nothing_is_opened_unless_told() {
        assert_eq!(load(""), Ok(ApiSettings::default()));
    }

    #[test]
    fn only_loopback_and_only_sockets_that_can_be() {
        let listen = |text: &str| ApiSettings { listen: text.parse().ok(), socket: None };
        let socket = |text: &str| ApiSettings { listen: None, socket: Some(text.into()) };
        let example = "write listen = \"127.0.0.1:9128\"";
        let cases = [
            ("listen = \"127.0.0.1:9128\"", Ok(listen("127.0.0.1:9128"))),
            ("listen = \"[::1]:0\"", Ok(listen("[::1]:0"))),
            ("listen = \"[::ffff:127.0.0.1]:9128\"", Ok(listen("[::ffff:127.0.0.1]:9128"))),
            ("listen = \"0.0.0.0:9128\"", Err(format!("`0.0.0.0` is not a loopback address | {example}; health and metrics are not protected, so they are not put on a network"))),
            ("listen = \"192.0.2.1:9128\"", Err(format!("`192.0.2.1` is not a loopback address | {example}; health and metrics are not protected, so they are not put on a network"))),
            ("listen = \"127.0.0.1\"", Err("`127.0.0.1` is not an address and a port | add the port: \"127.0.0.1:9128\"".to_owned())),
            ("listen = \"localhost:9128\"", Err("`localhost:9128` is not an address and a port | write \"127.0.0.1:9128\" or \"[::1]:9128\"".to_owned())),
            ("listen = \"here\"", Err(format!("`here` is not an address and a port | {example}"))),
            ("socket = \"exeat.sock\"", Ok(socket("/etc/exeat/exeat.sock"))),
            ("socket = \"/run/exeat.sock\"", Ok(socket("/run/exeat.sock"))),
            ("socket = \"\"", Err("`socket` is empty | write socket = \"exeat.sock\"".to_owned())),
        ];
        for (text, want) in cases {
            assert_eq!(load(&format!("[api]\n{text}\n")), want, "{text}");
        }
        let long = format!("[api]\nsocket = \"/{}\"\n", "a".repeat(SOCKET_PATH_BYTES_MAX));
        assert!(load(&long).is_err_and(|error| error.contains("108 bytes")));
    }

    #[test]
    fn the_socket_is_found_in_a_broken_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exeat.toml");
        std::fs::write(&path, "[api]\nsocket = \"s\"\n[policy.a]\nallow = [\n[nonsense\n").unwrap();
        assert_eq!(api_socket(&path), Some(directory.path().join("s")));
        std::fs::write(&path, "[proxy]\n").unwrap();
        assert_eq!(api_socket(&path), None);
        assert_eq!(api_socket(&directory.path().join("missing.toml")), None);
    }
}
