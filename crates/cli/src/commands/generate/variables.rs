//! The variables by which programs find a proxy.

use exeat_store::Surroundings;

/// What goes round the proxy: nothing but the workload itself.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// Programs differ in which of these they read, and curl reads only the lower case one for `http://`.
const NAMES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The variable with `NAME:PASSWORD`, which stands in place of a secret in all that is generated.
pub(super) const CREDENTIALS: &str = "EXEAT_CREDENTIALS";

/// Returns the variables and their values. `credentials` is how the platform writes what is in [`CREDENTIALS`].
pub(super) fn variables(needs: &Surroundings, host: &str, credentials: &str) -> Vec<(&'static str, String)> {
    let scheme = if needs.tls { "https" } else { "http" };
    let credentials = if needs.needs_credentials { format!("{credentials}@") } else { String::new() };
    let url = format!("{scheme}://{credentials}{host}:{}", needs.port);
    let mut variables: Vec<_> = NAMES.iter().map(|name| (*name, url.clone())).collect();
    variables.extend(["NO_PROXY", "no_proxy"].map(|name| (name, NO_PROXY.to_owned())));
    variables
}
