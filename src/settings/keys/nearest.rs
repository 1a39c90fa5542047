//! The key that somebody who mistyped one probably meant.

/// The known name that `name` was probably meant to be.
pub(in crate::settings) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    let names = super::ALL.iter().flat_map(|key| key.aliases.iter().copied().chain([key.name]));
    nearest_of(&name, names.filter(|known| !known.contains('.')))
}

/// The name of these that `name` was probably meant to be.
pub(in crate::settings) fn nearest_of<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let near = known.map(|known| (distance(name, known), known));
    let near = near.filter(|(distance, _)| *distance <= name.len() / 3);
    // The end of a name is forgotten more often than others are mistyped.
    let nearest = near.min_by_key(|(distance, known)| (!known.starts_with(name), *distance));
    nearest.map(|(_, known)| known)
}

/// How many letters to put in, take out or change (Levenshtein).
pub(in crate::settings) fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (taken, letter) in left.bytes().enumerate() {
        let mut diagonal = taken;
        if let Some(first) = row.first_mut() {
            *first = taken + 1;
        }
        for (at, other) in right.bytes().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
