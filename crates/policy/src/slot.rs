//! The entries of a list, packed so that a million of them stay small.

use hashbrown::HashMap;

/// The end of a chain, and "no settings".
pub(crate) const NONE: u32 = u32::MAX;

/// What an entry speaks of, in the arena form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Exact,
    Subdomains,
    AnyName,
    Network,
    AnyPublic,
}

/// One entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Slot {
    pub(crate) line: u32,
    pub(crate) column: u16,
    pub(crate) kind: Kind,
    pub(crate) suffix: bool,
    /// Into the list's settings, or [`NONE`].
    pub(crate) settings: u32,
    /// The next entry of the same name, or [`NONE`].
    pub(crate) next: u32,
    /// Names: start in the arena. Networks: index in the list's blocks.
    pub(crate) at: u32,
    /// Names: length in the arena.
    pub(crate) len: u8,
}

/// Entries in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    packed: Vec<Packed>,
    /// What of an entry does not fit into its packed form, by its number.
    more: HashMap<u32, More>,
}

/// An entry in 12 bytes: most stand at no column, or at one of the first, carry one of a few settings or none, and
/// share their name with no other.
#[derive(Clone, Copy, Debug)]
struct Packed {
    line: u32,
    at: u32,
    len: u8,
    column: u8,
    /// Into the list's settings, or [`NO_SETTINGS`], or [`IN_MORE`].
    settings: u8,
    kind: Kind,
}

/// The parts of an entry that may not fit.
#[derive(Clone, Copy, Debug)]
struct More {
    settings: u32,
    next: u32,
    column: u16,
    suffix: bool,
}

const NO_SETTINGS: u8 = u8::MAX;

/// In place of settings: they, and what else does not fit, are in [`Slots::more`].
const IN_MORE: u8 = NO_SETTINGS - 1;

impl Slots {
    /// Returns how many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.packed.len()
    }

    /// Returns the entry of this number.
    // Whoever asks looks at some of its parts only, and the others need not be unpacked then.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<Slot> {
        let packed = self.packed.get(number as usize)?;
        let settings = match packed.settings {
            NO_SETTINGS => Some(NONE),
            IN_MORE => None,
            settings => Some(settings.into()),
        };
        let more = match settings {
            Some(settings) => More { settings, next: NONE, column: packed.column.into(), suffix: false },
            None => *self.more.get(&number)?,
        };
        Some(Slot {
            line: packed.line,
            column: more.column,
            kind: packed.kind,
            suffix: more.suffix,
            settings: more.settings,
            next: more.next,
            at: packed.at,
            len: packed.len,
        })
    }

    /// Iterates over the entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> {
        (0..).map_while(|number| self.get(number))
    }

    /// Adds an entry, and returns its number.
    pub(crate) fn push(&mut self, slot: Slot) -> u32 {
        let number = u32::try_from(self.packed.len()).unwrap_or(NONE);
        let column = u8::try_from(slot.column);
        let settings = match slot.settings {
            NONE => Some(NO_SETTINGS),
            settings => u8::try_from(settings).ok().filter(|&settings| settings < IN_MORE),
        };
        let settings = settings.filter(|_| column.is_ok() && slot.next == NONE && !slot.suffix);
        self.packed.push(Packed {
            line: slot.line,
            at: slot.at,
            len: slot.len,
            column: column.unwrap_or_default(),
            settings: settings.unwrap_or(IN_MORE),
            kind: slot.kind,
        });
        if settings.is_none() {
            let Slot { settings, next, column, suffix, .. } = slot;
            self.more.insert(number, More { settings, next, column, suffix });
        }
        number
    }

    /// Says which entry of the same name comes after this one.
    pub(crate) fn set_next(&mut self, number: u32, next: u32) {
        let Some(Slot { settings, column, suffix, .. }) = self.get(number) else { return };
        if let Some(packed) = self.packed.get_mut(number as usize) {
            packed.settings = IN_MORE;
            self.more.insert(number, More { settings, next, column, suffix });
        }
    }

    /// Gives back what was reserved for entries that did not come.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.packed.shrink_to_fit();
        self.more.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Slot = Slot {
        line: 1_000_000,
        column: 0,
        kind: Kind::Exact,
        suffix: false,
        settings: NONE,
        next: NONE,
        at: 26_000_000,
        len: 253,
    };

    #[test]
    fn an_entry_comes_back_as_it_was_added() {
        let cases = [
            ("plain", PLAIN, false),
            ("every kind: subdomains", Slot { kind: Kind::Subdomains, ..PLAIN }, false),
            ("every kind: any name", Slot { kind: Kind::AnyName, ..PLAIN }, false),
            ("every kind: network", Slot { kind: Kind::Network, ..PLAIN }, false),
            ("every kind: any public", Slot { kind: Kind::AnyPublic, ..PLAIN }, false),
            ("last column that fits", Slot { column: 255, ..PLAIN }, false),
            ("first that does not", Slot { column: 256, ..PLAIN }, true),
            ("last settings that fit", Slot { settings: 253, ..PLAIN }, false),
            ("first that do not", Slot { settings: 254, ..PLAIN }, true),
            ("the last of a byte", Slot { settings: 255, ..PLAIN }, true),
            ("many settings", Slot { settings: 70_000, ..PLAIN }, true),
            ("suffix", Slot { suffix: true, kind: Kind::Subdomains, ..PLAIN }, true),
            ("next", Slot { next: 0, ..PLAIN }, true),
            ("all of it", Slot { column: 65_535, settings: 255, suffix: true, next: 7, ..PLAIN }, true),
        ];
        let mut slots = Slots::default();
        for (name, slot, has_more) in cases {
            let before = slots.more.len();
            let number = slots.push(slot);
            assert_eq!(slots.get(number), Some(slot), "{name}");
            assert_eq!(slots.more.len() > before, has_more, "{name}");
        }
        assert_eq!(slots.iter().collect::<Vec<_>>(), cases.map(|(_, slot, _)| slot));
        assert_eq!((slots.len(), slots.get(14)), (14, None));
        assert_eq!(size_of::<Packed>(), 12);
    }

    #[test]
    fn the_next_of_a_name_may_be_said_later() {
        let mut slots = Slots::default();
        let first = slots.push(PLAIN);
        let settings = Slot { settings: 3, column: 9, ..PLAIN };
        let second = slots.push(settings);
        slots.set_next(second, first);
        assert_eq!(slots.get(second), Some(Slot { next: first, ..settings }));
        assert_eq!(slots.get(first), Some(PLAIN));
        slots.set_next(9, first);
        assert_eq!(slots.len(), 2);
    }
}
