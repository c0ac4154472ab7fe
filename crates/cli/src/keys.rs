//! Keys that a configuration has fetched, for commands that ask it about a token without a running proxy.

use exeat_dns::Resolver;
use exeat_store::Loaded;

use crate::output::to_stderr;

/// Fetches the keys of the issuers with a `url`, as the proxy would. Of one whose keys cannot be had no token is accepted;
/// standard error says why.
///
/// # Errors
/// If names cannot be resolved at all.
pub(crate) fn fetch(loaded: &Loaded) -> anyhow::Result<()> {
    if loaded.key_sources.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let resolver = Resolver::new(loaded.settings.resolver.clone())?;
        for source in &loaded.key_sources {
            if let Err(error) = source.fetch(&resolver, &loaded.policy).await {
                let error = anyhow::Error::new(error);
                to_stderr(&format!(
                    "the keys of issuer `{}` cannot be fetched: {error:#}\n",
                    source.issuer()
                ));
            }
        }
        Ok(())
    })
}
