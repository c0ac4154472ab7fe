//! Capabilities: kept by the stage for its work and init's, given up for good before the command.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, configure_capability_in_ambient_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
};

/// Capabilities that a kernel may come to know of: the sets have this many bits.
const COUNT: u32 = 64;

/// What init and `nft` need: without these in the ambient set, a user who is not root has none after `exec`.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT);

/// Keeps the capabilities that are needed over `exec`.
pub(crate) fn keep_over_exec() -> io::Result<()> {
    let sets = capabilities(None)?;
    if !sets.permitted.contains(NEEDED) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "there are no capabilities in them"));
    }
    set_capabilities(None, CapabilitySets { inheritable: NEEDED, ..sets })?;
    each(NEEDED).try_for_each(|capability| configure_capability_in_ambient_set(capability, true))?;
    Ok(())
}

/// Gives up all capabilities but those that are needed, as `exec` would.
pub(crate) fn keep_needed() -> io::Result<()> {
    let sets = CapabilitySets { effective: NEEDED, permitted: NEEDED, inheritable: NEEDED };
    Ok(set_capabilities(None, sets)?)
}

/// Gives up every capability in every set, for this process and all that come of it, and every way to get one by `exec`.
///
/// # Errors
/// If that cannot be done, or turns out not to have been done.
pub(crate) fn give_up() -> io::Result<()> {
    for capability in each(CapabilitySet::all()) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // The kernel knows of no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let mut bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    bits |= CapabilitiesSecureBits::NO_SETUID_FIXUP | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED;
    bits |= CapabilitiesSecureBits::KEEP_CAPS_LOCKED;
    bits |=
        CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits)?;
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    verify()
}

fn verify() -> io::Result<()> {
    let sets = capabilities(None)?;
    let has_none = (sets.effective | sets.permitted | sets.inheritable).is_empty();
    let can_get_none = each(CapabilitySet::all())
        .map_while(|capability| capability_is_in_bounding_set(capability).ok())
        .all(|is_in| !is_in);
    if has_none && can_get_none && no_new_privs()? {
        return Ok(());
    }
    Err(io::Error::other("some are left"))
}

/// The capabilities of a set, one by one.
fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..COUNT).map(|bit| CapabilitySet::from_bits_retain(1 << bit)).filter(move |one| set.contains(*one))
}
