//! Results as people read them, within the columns that there are: tables, and texts that are wrapped.

use console::measure_text_width;

use super::terminal::in_one_line;

/// The last column is not made narrower.
const MIN_TEXT_COLUMNS: usize = 16;

/// Nor is any other one whose cells are cut.
const MIN_CUT_COLUMNS: usize = 12;

const GAP: &str = "  ";

/// Which side the cells of a column are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Lines of cells below titles. The last column takes what is left of a line, and is cut. Where that is too
/// little, the widest of the other columns of text are cut too, in the middle; numbers never are.
pub(crate) fn draw<const N: usize>(
    titles: [(&str, Side); N],
    rows: &[[String; N]],
    columns: usize,
) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| in_one_line(cell))).collect();
    let mut widths = titles.map(|(title, _)| width(title));
    for row in &rows {
        for (column, cell) in widths.iter_mut().zip(row) {
            *column = (*column).max(width(cell));
        }
    }
    let last = fit(&mut widths, titles.map(|(_, side)| side), columns);
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (at, ((cell, width), (_, side))) in cells.iter().zip(widths).zip(titles).enumerate() {
            if at + 1 == N {
                line.push_str(&cut(cell, last));
            } else {
                line.push_str(&padded(&cut_within(cell, width), side, width));
                line.push_str(GAP);
            }
        }
        line.trim_end().to_owned()
    };
    let titles = line(titles.map(|(title, _)| title));
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    [titles].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

/// Makes columns of text narrower, the widest first, until the last one has room; returns what that has.
fn fit<const N: usize>(widths: &mut [usize; N], sides: [Side; N], columns: usize) -> usize {
    let Some((last, before)) = widths.split_last_mut() else { return columns };
    let least = (*last).min(MIN_TEXT_COLUMNS);
    loop {
        let used: usize = before.iter().map(|width| width + GAP.len()).sum();
        let widest = before.iter_mut().zip(sides).filter(|(_, side)| *side == Side::Left);
        let widest = widest.map(|(width, _)| width).max_by_key(|width| **width);
        match widest {
            Some(width) if used + least > columns && *width > MIN_CUT_COLUMNS => *width -= 1,
            _ => return columns.saturating_sub(used).max(least),
        }
    }
}

/// The columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    measure_text_width(text)
}

/// A text with spaces to this width.
pub(crate) fn padded(text: &str, side: Side, columns: usize) -> String {
    let spaces = " ".repeat(columns.saturating_sub(width(text)));
    match side {
        Side::Left => format!("{text}{spaces}"),
        Side::Right => format!("{spaces}{text}"),
    }
}

/// A text of at most so many columns.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    beginning(text.chars(), most.saturating_sub(1)) + "…"
}

/// The same, cut in its middle: the end of a name tells it from others.
pub(crate) fn cut_within(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(1);
    let begin = beginning(text.chars(), room / 2);
    let end = beginning(text.chars().rev(), room - width(&begin));
    let end: String = end.chars().rev().collect();
    format!("{begin}…{end}")
}

/// As many letters as so many columns hold.
fn beginning(letters: impl Iterator<Item = char>, columns: usize) -> String {
    let mut taken = String::new();
    let mut used = 0;
    for letter in letters {
        used += width(letter.encode_utf8(&mut [0; 4]));
        if used > columns {
            break;
        }
        taken.push(letter);
    }
    taken
}

/// A text in lines of at most so many columns, behind an indent in each; the first line has `mark` before
/// it. A word that is longer stays whole: a path that is cut cannot be copied.
pub(crate) fn wrapped(indent: usize, mark: &str, text: &str, columns: usize) -> String {
    let further = " ".repeat(indent + width(mark));
    let mut line = " ".repeat(indent) + mark;
    let mut lines = Vec::new();
    let mut is_begun = false;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let gap = usize::from(is_begun);
        if is_begun && width(&line) + gap + width(word) > columns {
            lines.push(std::mem::replace(&mut line, further.clone()));
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        }
        line.push_str(word);
        is_begun = true;
    }
    lines.push(line);
    lines.join("\n")
}

/// A number of things.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_columns() {
        let titles = [("letters", Side::Right), ("class", Side::Left), ("reason", Side::Left)];
        let row = |count: &str, reason: &str| [count, "permanent", reason].map(str::to_owned);
        let rows =
            [row("7", "short"), row("1000000", &"long ".repeat(50)), row("1", "a\nb\u{1b}[2J")];
        let drawn = draw(titles, &rows, 40);
        assert_eq!(
            drawn,
            "letters  class      reason\n      \
                   7  permanent  short\n\
             1000000  permanent  long long long long…\n      \
                   1  permanent  a\\nb\\u{1b}[2J"
        );
        assert!(drawn.lines().all(|line| width(line) <= 40));
    }

    #[test]
    fn long_names_are_cut_in_their_middle_and_numbers_are_not() {
        let titles = [
            ("event", Side::Left),
            ("worker", Side::Left),
            ("tries", Side::Right),
            ("reason", Side::Left),
        ];
        let event = format!("{}/31#9223372036854775807", "hub".repeat(20));
        let rows = [[event, "worker".repeat(9), u64::MAX.to_string(), "why ".repeat(20)]];
        let drawn = draw(titles, &rows, 80);
        for line in drawn.lines() {
            assert!(width(line) <= 80, "{line}");
        }
        assert!(drawn.contains("…") && drawn.contains("4775807  "), "{drawn}");
        assert!(drawn.contains(&u64::MAX.to_string()), "{drawn}");
    }

    #[test]
    fn letters_of_two_columns_count_as_two() {
        assert_eq!(width("日本"), 4);
        assert_eq!((cut("日本語", 4), cut("日本語", 5)), ("日…".to_owned(), "日本…".to_owned()));
        assert_eq!(cut_within("日本語abc", 8), "日…語abc".to_owned());
        let titles = [("name", Side::Left), ("reason", Side::Left)];
        let rows = [["日本", "x"].map(str::to_owned), ["abc", "y"].map(str::to_owned)];
        assert_eq!(draw(titles, &rows, 40), "name  reason\n日本  x\nabc   y");
    }

    #[test]
    fn texts_are_wrapped_between_words() {
        let text = "the log begins at 6, and /a/path/that/is/longer/than/the/line is there";
        assert_eq!(
            wrapped(2, "! ", text, 20),
            "  ! the log begins\n    at 6, and\n    /a/path/that/is/longer/than/the/line\n    is there"
        );
        assert_eq!(wrapped(0, "", "", 20), "");
    }
}
