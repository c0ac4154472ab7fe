//! What the kernel has counted of packets, as its messages tell.

use netlink_packet_core::NlasIterator;

use crate::wire::FAMILY_BYTES;

/// Attributes on the way to a counter: `NFTA_SET_ELEM_LIST_ELEMENTS`, `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_EXPR` and
/// `NFTA_EXPR_DATA` for an element, `NFTA_OBJ_NAME` and `NFTA_OBJ_DATA` for a counter with a name.
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const EXPRESSION: u16 = 7;
const DATA: u16 = 2;
const OBJECT_NAME: u16 = 2;
const OBJECT_DATA: u16 = 4;
/// `NFTA_COUNTER_BYTES` and `NFTA_COUNTER_PACKETS`.
const BYTES: u16 = 1;
const PACKETS: u16 = 2;
/// A rule looks an element up and then renews it; the kernel counts the packet both times.
const COUNTED: u64 = 2;

/// Packets and their bytes, with the headers of IP, that clients have sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What was counted of the element that an answer of the kernel is about; `None` if nothing is.
pub(crate) fn of_element(payload: &[u8]) -> Option<Count> {
    let attributes = payload.get(FAMILY_BYTES..)?;
    let path = [ELEMENTS, ELEMENT, EXPRESSION, DATA];
    let data = path.iter().try_fold(attributes.to_vec(), |attributes, kind| inner(&attributes, *kind))?;
    let Count { packets, bytes } = counter(&data)?;
    Some(Count { packets: packets / COUNTED, bytes: bytes / COUNTED })
}

/// The name of the counter that an answer of the kernel is about, and what it has counted.
pub(crate) fn of_object(payload: &[u8]) -> Option<(String, Count)> {
    let attributes = payload.get(FAMILY_BYTES..)?;
    let name = inner(attributes, OBJECT_NAME)?;
    let name = String::from_utf8(name.into_iter().take_while(|byte| *byte != 0).collect()).ok()?;
    Some((name, counter(&inner(attributes, OBJECT_DATA)?)?))
}

fn counter(data: &[u8]) -> Option<Count> {
    let number = |kind| Some(u64::from_be_bytes(*inner(data, kind)?.first_chunk()?));
    Some(Count { packets: number(PACKETS)?, bytes: number(BYTES)? })
}

/// The value of the first attribute of a kind.
fn inner(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut found = NlasIterator::new(attributes).map_while(Result::ok);
    found.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute (`struct nlattr`), padded.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn counted(packets: u64, bytes: u64) -> Vec<u8> {
        [attribute(1, &bytes.to_be_bytes()), attribute(2, &packets.to_be_bytes())].concat()
    }

    #[test]
    fn counters_are_read_and_nothing_else_is_taken_for_one() {
        const NESTED: u16 = 1 << 15;
        let expression = [attribute(1, b"counter\0"), attribute(NESTED | 2, &counted(14, 1400))].concat();
        let element = [attribute(NESTED | 1, &[0; 8]), attribute(NESTED | 7, &expression)].concat();
        let elements = |element: &[u8]| {
            let listed = attribute(NESTED | 3, &attribute(NESTED | 1, element));
            [&[1, 0, 0, 0][..], &attribute(1, b"exeat\0"), &attribute(2, b"names4\0"), &listed].concat()
        };
        let whole = elements(&element);
        assert_eq!(of_element(&whole), Some(Count { packets: 7, bytes: 700 }));
        assert_eq!(of_element(&elements(&attribute(NESTED | 1, &[0; 8]))), None, "without a counter");
        for length in 0..whole.len() {
            assert_eq!(of_element(whole.get(..length).unwrap()), None, "cut off at {length}");
        }
        let data = attribute(NESTED | 4, &counted(3, 180));
        let object =
            [&[1, 0, 0, 0][..], &attribute(1, b"exeat\0"), &attribute(2, b"refused\0"), &data].concat();
        assert_eq!(of_object(&object), Some(("refused".to_owned(), Count { packets: 3, bytes: 180 })));
        assert_eq!(of_object(&[]), None);
    }
}
