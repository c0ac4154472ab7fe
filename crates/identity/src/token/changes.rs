//! What is different about an issuer from one configuration to the next.

use super::issuers::IssuerSpec;

impl IssuerSpec {
    /// Returns what is different about it than about `old`, each by its key in the configuration. Of `jwks` that is for
    /// [`Self::keys_since`] to say.
    #[must_use]
    pub fn changed_since(&self, old: &Self) -> Vec<&'static str> {
        let changed = [
            ("issuer", self.issuer != old.issuer),
            ("audience", self.audience != old.audience),
            ("ceiling", self.ceiling != old.ceiling),
            ("policies", self.policies != old.policies),
            ("max_lifetime", self.lifetime.longest != old.lifetime.longest),
            ("leeway", self.lifetime.leeway != old.lifetime.leeway),
            ("user_prefix", self.user_prefix != old.user_prefix),
            ("password_prefix", self.password_prefix != old.password_prefix),
            ("enforce_container_binding", self.enforce_container_binding != old.enforce_container_binding),
            ("signing_key", self.signs_with() != old.signs_with()),
        ];
        changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(what, _)| what).collect()
    }

    /// Returns the keys that came since `old`, `+` and their names, and those that went, with `-`. Whatever a key is called,
    /// it is the same key.
    #[must_use]
    pub fn keys_since(&self, old: &Self) -> Vec<String> {
        let (is, was) = (self.keys.load(), old.keys.load());
        let told = |sign: char, kid: Option<&str>| format!("{sign}key {}", kid.unwrap_or("(without a name)"));
        let came = is.missing_in(&was).map(|kid| told('+', kid));
        let went = was.missing_in(&is).map(|kid| told('-', kid));
        came.chain(went).collect()
    }

    fn signs_with(&self) -> Option<&[u8; 32]> {
        self.signing.as_ref().map(|key| key.thumbprint())
    }
}
