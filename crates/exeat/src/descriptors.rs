//! File descriptors: every connection takes some, and the usual limit on them is for programs that have few.

use exeat_proxy::{Limits, PIPE_DESCRIPTORS_MAX};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for all that is not a connection: listeners, logs, the runtime, a configuration that is being read, and
/// name servers being asked; and the pipes of the relay.
const RESERVED: usize = 64 + PIPE_DESCRIPTORS_MAX;
/// Descriptors of a client's connection: its own, and the one to its upstream.
const PER_CONNECTION: usize = 2;

/// Raises the soft limit on descriptors to the hard one: it is low for the sake of programs that call `select`. Returns
/// how many there may be, as far as the system says so.
pub(crate) fn raise_limit() -> Option<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let now = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    Some(usize::try_from(now).unwrap_or(usize::MAX))
}

/// Returns `limits` with no more connections than `descriptors` suffice for: whoever comes then is told so, instead of
/// waiting for a descriptor, and those who are served keep theirs for their upstreams.
pub(crate) fn fit(limits: Limits, descriptors: usize) -> Limits {
    let most = (descriptors.saturating_sub(RESERVED) / PER_CONNECTION).max(1);
    Limits { connections: limits.connections.min(most), ..limits }
}

/// Returns `limits` as far as the system has room for them, and says so if it has not.
pub(crate) fn fitting(limits: Limits) -> Limits {
    let fitting = raise_limit().map_or(limits, |most| fit(limits, most));
    tell(limits, fitting);
    fitting
}

/// Tells the operator of connections that [`fit`] has left out. One command that is confined does not miss them.
fn tell(configured: Limits, fitting: Limits) {
    let (configured, connections) = (configured.connections, fitting.connections);
    let what = "too few file descriptors for limits.connections, which is lowered; raise the limit (LimitNOFILE=, ulimit -n)";
    match is_worth_a_warning(configured, connections) {
        true => tracing::warn!(connections, configured, "{what}"),
        false if connections < configured => tracing::info!(connections, configured, "{what}"),
        false => {}
    }
}

/// Whether more than a tenth of the connections is lost: a few less of many thousand are nobody's worry.
const fn is_worth_a_warning(configured: usize, most: usize) -> bool {
    most < configured - configured / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_less_are_no_warning() {
        for (configured, most, want) in [
            (10_000, 9_870, false),
            (10_000, 9_000, false),
            (10_000, 8_999, true),
            (10_000, 448, true),
            (100, 448, false),
            (1, 1, false),
        ] {
            assert_eq!(is_worth_a_warning(configured, most), want, "{configured} {most}");
        }
    }

    #[test]
    fn connections_fit_into_the_descriptors() {
        for (descriptors, configured, want) in
            [(1024, 10_000, 448), (65_536, 10_000, 10_000), (1024, 100, 100), (20, 10_000, 1)]
        {
            let limits = Limits { connections: configured, ..Limits::default() };
            assert_eq!(fit(limits, descriptors).connections, want, "{configured} with {descriptors}");
        }
    }
}
