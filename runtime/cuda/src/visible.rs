//! Which card a number means. CUDA counts the cards that `CUDA_VISIBLE_DEVICES` lets it see, the driver's management library
//! counts all.

/// A card as the management library names it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "read by tests and by the feature"))]
pub(crate) enum Card {
    /// Its number among all.
    Index(u32),
    /// Its UUID, `GPU-...` or `MIG-...`, or the beginning of it.
    Uuid(String),
}

/// The card of CUDA's number `index`, given the variable; `None` where it is hidden. As CUDA does, everything behind an entry that
/// names no card is hidden.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "read by tests and by the feature"))]
pub(crate) fn card(variable: Option<&str>, index: u32) -> Option<Card> {
    let Some(list) = variable else {
        return Some(Card::Index(index));
    };
    let cards = list.split(',').map(|entry| {
        let entry = entry.trim();
        if entry.starts_with("GPU-") || entry.starts_with("MIG-") {
            return Some(Card::Uuid(entry.to_owned()));
        }
        entry.parse().ok().map(Card::Index)
    });
    cards.map_while(|card| card).nth(index as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_cards_that_are_seen() {
        assert_eq!(card(None, 2), Some(Card::Index(2)));
        assert_eq!(card(Some("3,1"), 0), Some(Card::Index(3)));
        assert_eq!(card(Some("3, 1"), 1), Some(Card::Index(1)));
        assert_eq!(card(Some("3,1"), 2), None);
        assert_eq!(card(Some("GPU-8e2c,0"), 0), Some(Card::Uuid("GPU-8e2c".into())));
    }

    #[test]
    fn what_is_hidden_is_not_found() {
        assert_eq!(card(Some(""), 0), None);
        assert_eq!(card(Some("-1"), 0), None);
        assert_eq!(
            card(Some("0,-1,1"), 1),
            None,
            "everything behind a wrong entry is hidden"
        );
    }
}
