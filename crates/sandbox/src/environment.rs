//! The variables that tell programs of the proxy. They are comfort: what does not heed them is redirected.

use std::ffi::OsString;

use crate::launch::ALLOCATOR;
use crate::network::PROXY;

/// What no program should ask a proxy for: it is inside.
const NOT_BY_PROXY: &str = "localhost,127.0.0.1,::1";

/// The variables of the command that differ from our own.
/// It is given `variables` of its own, too.
pub(crate) fn of_command(own: &[(OsString, OsString)]) -> Vec<(OsString, Option<OsString>)> {
    let given = |name: &str| own.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    let mut variables = for_proxy(|name| given(name).or_else(|| std::env::var_os(name))?.into_string().ok());
    // What the stage and init are told is not for the command.
    variables.push((ALLOCATOR.0.into(), given(ALLOCATOR.0).or_else(|| std::env::var_os(ALLOCATOR.0))));
    variables
}

fn for_proxy(ours: impl Fn(&str) -> Option<String>) -> Vec<(OsString, Option<OsString>)> {
    let proxy = format!("http://{PROXY}");
    let mut variables: Vec<(String, String)> = Vec::new();
    // curl reads `http_proxy` in lower case alone, others in upper case alone.
    for name in ["http_proxy", "https_proxy", "all_proxy", "npm_config_proxy", "npm_config_https_proxy"] {
        variables.push((name.to_owned(), proxy.clone()));
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        variables.push((name.to_owned(), proxy.clone()));
    }
    for name in ["no_proxy", "NO_PROXY", "npm_config_noproxy"] {
        variables.push((name.to_owned(), NOT_BY_PROXY.to_owned()));
    }
    // Node 24 and later heeds the variables above if it is told to.
    variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    let (ip, port) = (PROXY.ip(), PROXY.port());
    let java = format!(
        "-Dhttp.proxyHost={ip} -Dhttp.proxyPort={port} -Dhttps.proxyHost={ip} -Dhttps.proxyPort={port} \
         -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
    );
    let before = ours("JAVA_TOOL_OPTIONS").map(|before| before + " ").unwrap_or_default();
    variables.push(("JAVA_TOOL_OPTIONS".to_owned(), before + &java));
    // A proxy in the user's own settings would count for more than the variables.
    let settings: usize = ours("GIT_CONFIG_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
    variables.push(("GIT_CONFIG_COUNT".to_owned(), (settings + 1).to_string()));
    variables.push((format!("GIT_CONFIG_KEY_{settings}"), "http.proxy".to_owned()));
    variables.push((format!("GIT_CONFIG_VALUE_{settings}"), proxy));
    variables.into_iter().map(|(name, value)| (name.into(), Some(value.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_already_is_added_to() {
        let ours = |name: &str| match name {
            "JAVA_TOOL_OPTIONS" => Some("-Xmx1g".to_owned()),
            "GIT_CONFIG_COUNT" => Some("2".to_owned()),
            _ => None,
        };
        let variables = for_proxy(ours);
        let value = |name: &str| {
            let found = variables.iter().find(|(own, _)| own == name).and_then(|(_, value)| value.clone());
            found.unwrap_or_default().into_string().unwrap()
        };
        assert!(value("JAVA_TOOL_OPTIONS").starts_with("-Xmx1g -Dhttp.proxyHost=127.0.0.1 "));
        assert_eq!(value("GIT_CONFIG_COUNT"), "3");
        assert_eq!(value("GIT_CONFIG_KEY_2"), "http.proxy");
        assert_eq!(value("https_proxy"), "http://127.0.0.1:3128");
    }
}
