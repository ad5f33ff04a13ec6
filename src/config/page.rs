//! The reference as a page: `docs/configuration.md`.
//!
//! A pure function of `config/selvedge.toml`. A test compares its result with the page that is there.

use std::fmt::Write as _;

use super::reference::{self, Block, Part, Table, Text};

/// What the page begins with.
const HEAD: &str = "# Configuration

<!-- Made of config/selvedge.toml: do not edit. `selvedge schema --markdown > docs/configuration.md` makes it again. -->

Every key there is, in the order of [`config/selvedge.toml`](../config/selvedge.toml), of which this page is made. Of a key with a *default*, a
file without it means the same. A key with an *example* is absent unless you write it. What is *required* must be written.

`selvedge check --config FILE` reports everything that is wrong with a file, all at once; unknown keys are errors. Editors that
know JSON Schema complete and explain the keys: write `selvedge schema > selvedge.schema.json`, and as the first line of the file
`#:schema ./selvedge.schema.json` (Taplo, Even Better TOML, Tombi).

";

/// The page, in Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut parts = reference::parts().into_iter().peekable();
    // What it says of itself; the page has its own words for the beginning, and takes the forms of values.
    while let Some(Part::Prose(text)) = parts.next_if(|part| matches!(part, Part::Prose(_))) {
        let lists = text.blocks().into_iter().filter(|block| matches!(block, Block::List(_)));
        lists.for_each(|list| write_block(&mut page, &list, ""));
    }
    line(&mut page, "## At the top of the file\n");
    let mut in_example = false;
    for part in parts {
        match part {
            Part::Section(title) => line(&mut page, &format!("## {title}\n")),
            Part::Prose(text) => write_text(&mut page, &text, ""),
            Part::Table(table) => {
                in_example = table.example;
                write_table(&mut page, &table);
            }
            Part::Key(key) => {
                let label = match (key.is_required(), key.has_default()) {
                    (true, _) => "required; example",
                    (_, true) => "default",
                    // Whether it is one is said by the text of the table.
                    _ if in_example => "written",
                    _ => "example",
                };
                line(&mut page, &format!("- **`{}`** ({label} `{}`)", key.name, key.value));
                line(&mut page, "");
                write_text(&mut page, &key.text, "  ");
            }
        }
    }
    page
}

fn write_table(page: &mut String, table: &Table) {
    line(page, &format!("### `{}`\n", table.header));
    write_text(page, &table.text, "");
}

fn write_text(page: &mut String, text: &Text, indent: &str) {
    text.blocks().iter().for_each(|block| write_block(page, block, indent));
}

fn write_block(page: &mut String, block: &Block, indent: &str) {
    match block {
        Block::Paragraph(text) => line(page, &format!("{indent}{}", escaped(text))),
        Block::List(items) => {
            for (word, meaning) in items {
                let colon = if meaning.is_empty() { "" } else { ": " };
                line(page, &format!("{indent}- `{word}`{colon}{}", escaped(meaning)));
            }
        }
    }
    line(page, "");
}

fn line(page: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{text}");
}

/// Text that Markdown shows as it is: what stands in quotes or backticks as code, the rest without meaning.
fn escaped(text: &str) -> String {
    let mut result = String::new();
    // Every second piece stands in backticks.
    for (index, piece) in text.split('`').enumerate() {
        if index % 2 == 1 {
            let _ = write!(result, "`{piece}`");
            continue;
        }
        for (index, piece) in piece.split('"').enumerate() {
            if index % 2 == 1 {
                let _ = write!(result, "`\"{piece}\"`");
                continue;
            }
            for char in piece.chars() {
                if "*_<\\".contains(char) {
                    result.push('\\');
                }
                result.push(char);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_quotes_is_code_and_the_rest_is_plain() {
        assert_eq!(
            escaped("X-Forwarded-* of \"*.a_b\" and `c_d`"),
            "X-Forwarded-\\* of `\"*.a_b\"` and `c_d`"
        );
    }
}
