//! The table of disasters as a chart: a column for each step of the architecture, a line for each disaster. Pure.
//!
//! Colours follow the reader's light or dark, and say nothing that the words do not.

use super::disaster::Disaster;
use super::table::{Cell, Damage, Row};

/// Of a box, in the chart's own unit; there are so many across that the chart can be read where a README shows it.
const WIDTH: usize = 172;
const HEIGHT: usize = 80;
/// For the names of the disasters, and of the steps.
const LEFT: usize = 150;
const TOP: usize = 52;
/// Between two boxes.
const GAP: usize = 4;
/// Between two lines of words.
const LINE: usize = 16;

const STYLE: &str = "\
    :root { --page: #ffffff; --ink: #1b1f27; --none: #d5ebd9; --failed: #fbeec2; --lost: #f6cfcb; --unknown: #eceef1 }
    @media (prefers-color-scheme: dark) { :root { --page: #101317; --ink: #e7eaef; --none: #17402a; --failed: #4d4013; --lost: #5a221e; --unknown: #20252c } }
    text { fill: var(--ink) } .name { font-weight: bold } .page { fill: var(--page) }
    .none { fill: var(--none) } .failed { fill: var(--failed) } .lost { fill: var(--lost) } .unknown { fill: var(--unknown) }
";

/// All rows of the table.
pub(super) fn svg(rows: &[Row]) -> String {
    let width = LEFT + WIDTH * rows.len() + GAP;
    let height = TOP + HEIGHT * Disaster::ALL.len() + GAP;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"t d\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n  \
         <title id=\"t\">What disasters cost in each step of the architecture</title>\n  \
         <desc id=\"d\">A column for each step, a line for each disaster: failed requests, longest outage, lost carts, lost and \
         doubled orders. The same figures are in disasters.md.</desc>\n  <style>\n{STYLE}  </style>\n  \
         <rect class=\"page\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n"
    );
    for (line, disaster) in Disaster::ALL.iter().enumerate() {
        text += &words("name", 10, TOP + HEIGHT * line + 18, &halves(disaster.title(), ' '));
    }
    for (column, Row { step, cells, .. }) in rows.iter().enumerate() {
        let x = LEFT + WIDTH * column;
        text += &words("name", x + 8, 20, &halves(step.title(), ','));
        for (line, cell) in cells.iter().enumerate() {
            let y = TOP + HEIGHT * line;
            text += &format!(
                "  <rect class=\"cell {}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"4\"/>\n",
                colour(cell),
                WIDTH - GAP,
                HEIGHT - GAP
            );
            text += &words("", x + 8, y + 18, &lines(cell));
        }
    }
    text + "</svg>\n"
}

fn words(class: &str, x: usize, y: usize, lines: &[String]) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let line = |(place, words): (usize, &String)| {
        format!("  <text{class} x=\"{x}\" y=\"{}\">{words}</text>\n", y + LINE * place)
    };
    lines.iter().enumerate().map(line).collect()
}

fn colour(cell: &Cell) -> &'static str {
    match cell.damage() {
        Damage::None => "none",
        Damage::Failed => "failed",
        Damage::Lost => "lost",
        Damage::Unknown => "unknown",
    }
}

fn lines(cell: &Cell) -> Vec<String> {
    if let Some(why) = &cell.missing {
        return vec![format!("n/a: {why}")];
    }
    let given_up = if cell.given_up > 0 { format!(", {} given up", cell.given_up) } else { String::new() };
    vec![
        format!("{} failed, {} GET", cell.failed(), cell.failed_gets),
        format!("longest {:.1} s", cell.longest_ms as f64 / 1000.0),
        format!("carts lost {} of {}{given_up}", cell.lost_carts, cell.carts),
        format!("orders lost {}, doubled {}", cell.lost_orders, cell.doubled_orders),
    ]
}

/// A title on two lines, parted where `by` is first, if it is long.
fn halves(title: &str, by: char) -> Vec<String> {
    match title.split_once(by) {
        Some((first, rest)) if title.len() > 18 => {
            let comma = if by == ',' { "," } else { "" };
            vec![format!("{first}{comma}"), rest.trim().to_owned()]
        }
        _ => vec![title.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_title_has_two_lines() {
        assert_eq!(halves("carts in memory, no stickiness", ','), ["carts in memory,", "no stickiness"]);
        assert_eq!(halves("PostgreSQL primary killed", ' '), ["PostgreSQL", "primary killed"]);
        assert_eq!(halves("node killed", ' '), ["node killed"]);
    }
}
