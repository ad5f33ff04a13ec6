//! `config/selvedge.toml` taken apart: what it says of each table and each key, in its order.
//!
//! The file is the one place where keys are explained, and so the source of the descriptions that editors show (`schema`)
//! and of the page `docs/configuration.md` (`page`). Its form: a comment belongs to the line under it, and to the lines that
//! follow without a blank line or a comment between; a key or table directly behind `#` is an example; a comment with a
//! blank line under it stands for itself. This is no reader of configurations.

const TEXT: &str = include_str!("../../config/selvedge.toml");

/// One thing that the reference says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A heading between `---`.
    Section(&'static str),
    /// Text that belongs to no line.
    Prose(Text),
    /// A table, or one of a list of tables.
    Table(Table),
    /// A key of the table before it.
    Key(Key),
}

/// The header of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// As it is written, brackets included.
    pub(super) header: &'static str,
    /// Where it is in a file, `*` standing for any name: `pool.*.health`.
    pub(super) path: String,
    pub(super) text: Text,
    /// Whether it is behind `#`.
    pub(super) example: bool,
}

/// A key with its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Path of its table, as in [`Table`]; empty for the top of the file.
    pub(super) table: String,
    /// In TOML.
    pub(super) value: &'static str,
    pub(super) text: Text,
    /// Whether it is behind `#`.
    pub(super) example: bool,
}

/// The lines of a comment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Text(Vec<&'static str>);

/// A piece of a comment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    Paragraph(String),
    /// Words, and what each of them means.
    List(Vec<(String, String)>),
}

impl Text {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Paragraphs and lists, without the line breaks of the comment. A line that is indented begins an item of a list, one that
    /// is indented further goes on with it.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for line in &self.0 {
            let text = line.trim();
            let indent = line.len() - line.trim_start().len();
            match (blocks.last_mut(), indent) {
                _ if text.is_empty() => {}
                (Some(Block::Paragraph(paragraph)), ..=1) if open => join(paragraph, text),
                (_, ..=1) => blocks.push(Block::Paragraph(text.to_owned())),
                (Some(Block::List(items)), 5..) => {
                    if let Some((_, meaning)) = items.last_mut() {
                        join(meaning, text);
                    }
                }
                (last, _) => {
                    let (word, meaning) = text.split_once("  ").unwrap_or((text, ""));
                    let item = (word.to_owned(), meaning.trim().to_owned());
                    match last {
                        Some(Block::List(items)) if open => items.push(item),
                        _ => blocks.push(Block::List(vec![item])),
                    }
                }
            }
            open = !text.is_empty();
        }
        blocks
    }

    /// All of it in one line.
    pub(super) fn line(&self) -> String {
        let words = self.0.iter().flat_map(|line| line.split_whitespace());
        words.collect::<Vec<_>>().join(" ")
    }
}

fn join(to: &mut String, text: &str) {
    to.push(' ');
    to.push_str(text);
}

impl Key {
    /// Whether a file must have it, wherever its table is.
    pub(super) fn is_required(&self) -> bool {
        self.text.0.first().is_some_and(|line| {
            let text = line.trim_start();
            text.starts_with("Required.") || text.starts_with("Required:")
        })
    }

    /// Whether a file without it means the same: then this is its default.
    pub(super) fn has_default(&self) -> bool {
        !self.example && !self.is_required()
    }
}

/// All that the reference says, each table and key once: the first time.
pub(super) fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut table = String::new();
    let (mut text, mut is_new) = (Text::default(), true);
    for line in TEXT.lines() {
        if let Some(title) = line.strip_prefix("# ---") {
            parts.push(Part::Section(title.trim_matches(['-', ' '])));
            continue;
        }
        let (bare, example) = line.strip_prefix('#').map_or((line, false), |rest| (rest, true));
        if let Some((path, header)) = header(bare) {
            table = path;
            let said = parts.iter().any(|part| matches!(part, Part::Table(other) if other.path == table));
            if !said {
                parts.push(Part::Table(Table { header, path: table.clone(), text: text.clone(), example }));
            }
        } else if let Some((name, value)) = key(bare) {
            let said = parts
                .iter()
                .any(|part| matches!(part, Part::Key(other) if other.table == table && other.name == name));
            if !said {
                let (table, text) = (table.clone(), text.clone());
                parts.push(Part::Key(Key { name, table, value, text, example }));
            }
            is_new = true;
            continue;
        } else if line.is_empty() {
            if !is_new && !text.is_empty() {
                parts.push(Part::Prose(std::mem::take(&mut text)));
            }
        } else {
            if is_new {
                text = Text::default();
            }
            is_new = false;
            text.0.push(bare);
            continue;
        }
        (text, is_new) = (Text::default(), true);
    }
    parts
}

/// Path and header of `[…]` or `[[…]]`.
fn header(line: &'static str) -> Option<(String, &'static str)> {
    let inner = line.strip_prefix('[')?.strip_suffix(']')?;
    let inner = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(inner);
    let mut steps: Vec<_> = inner.split('.').collect();
    if let ["pool", name, ..] = steps.as_mut_slice() {
        *name = "*";
    }
    Some((steps.join("."), line))
}

fn key(line: &'static str) -> Option<(&'static str, &'static str)> {
    let (name, value) = line.split_once(" = ")?;
    let is_name =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    is_name.then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(table: &str, name: &str) -> Key {
        let found = parts().into_iter().find_map(|part| match part {
            Part::Key(key) if key.table == table && key.name == name => Some(key),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("[{table}] {name} is found"))
    }

    #[test]
    fn a_key_has_the_comment_above_it_and_its_value() {
        let interval = key_of("pool.*.health", "interval");
        assert!(interval.text.line().starts_with("Between two checks"), "{interval:?}");
        assert_eq!((interval.value, interval.example, interval.has_default()), ("\"5s\"", false, true));
        let zone = key_of("", "zone");
        assert!(zone.example && !zone.has_default() && !zone.is_required(), "{zone:?}");
        let address = key_of("listener", "address");
        assert!(address.is_required() && !address.has_default(), "{address:?}");
        // Two keys under one comment.
        assert_eq!(key_of("pool.*.zones.gray", "expiry").text, key_of("pool.*.zones.gray", "trickle").text);
        let said =
            parts().iter().filter(|part| matches!(part, Part::Key(key) if key.text.is_empty())).count();
        assert!(said < 10, "{said} keys have no comment");
    }

    #[test]
    fn a_list_in_a_comment_has_one_item_for_each_word() {
        let blocks = key_of("pool.*", "balance").text.blocks();
        let [Block::Paragraph(_), Block::List(items)] = &blocks[..] else { panic!("{blocks:?}") };
        let words: Vec<_> = items.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, ["\"least_outstanding\"", "\"round_robin\"", "\"peak_ewma\"", "\"hash\""]);
        assert!(items[0].1.ends_with("before any check notices."), "{items:?}");
    }
}
