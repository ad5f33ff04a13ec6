//! Draws the model: a line for the node, what is wrong with it, the table, what was decided, and the keys. Colour only for
//! state.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as TableRow, Table, Wrap};

use super::super::colours::Mood;
use super::super::seen::{Decision, Node, Reload, Reloading, Upgrade, span};
use super::super::status::plain;
use super::ask::{Outlook, Question};
use super::model::{Model, Reach};
use super::rows::Row;

const KEYS: &str = "↑↓ select   d drain  u up  x down   s shift  r restore   q quit";

/// Titles of the figures' columns, with their widths and the least width of the screen that has room for them.
const FIGURES: [(&str, u16, u16); 6] = [
    ("SHARE", 6, 90),
    ("REQ/S", 7, 0),
    ("BUSY", 6, 0),
    ("P50 MS", 7, 100),
    ("P99 MS", 7, 70),
    ("SESSIONS", 9, 80),
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let area = frame.area();
    let notices = notices(model);
    let decided = decisions(model);
    let room = match area.height {
        0..12 => 0,
        12..24 => 4,
        _ => 8,
    };
    let lower = if decided.is_empty() { 0 } else { room.min(decided.len() as u16 + 1) };
    let parts = [
        Constraint::Length(1),
        Constraint::Length(notices.len() as u16),
        Constraint::Fill(1),
        Constraint::Length(lower),
        Constraint::Length(1),
    ];
    let [top, told, middle, below, keys] = Layout::vertical(parts).areas(area);
    frame.render_widget(head(model), top);
    let told_style = mood_style(Mood::Bad, model.colours);
    let told_lines: Vec<Line<'_>> = notices.into_iter().map(|text| Line::styled(text, told_style)).collect();
    frame.render_widget(Paragraph::new(told_lines), told);
    table(frame, model, middle);
    let block = Block::new().title(Line::styled("decided (UTC)", quiet()));
    frame.render_widget(Paragraph::new(decided).block(block), below);
    let last =
        if model.notice.is_empty() { KEYS.to_owned() } else { format!("{}   —   {KEYS}", model.notice) };
    frame.render_widget(Line::styled(last, quiet()), keys);
    if let Some(question) = &model.question {
        ask(frame, question, model.colours);
    }
}

/// Less than the rest, with or without colours.
fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn mood_style(mood: Mood, colours: bool) -> Style {
    let strong = if mood == Mood::Bad { Modifier::BOLD } else { Modifier::empty() };
    let style = Style::new().add_modifier(strong);
    if !colours {
        return style;
    }
    style.fg(match mood {
        Mood::Good => Color::Green,
        Mood::Out => Color::Yellow,
        Mood::Bad => Color::Red,
    })
}

fn head(model: &Model) -> Line<'static> {
    let (sign, mood, text) = match &model.reach {
        Reach::Trying => ("○", Mood::Out, "connecting".to_owned()),
        Reach::Live => ("●", Mood::Good, "live".to_owned()),
        Reach::Away(..) => ("○", Mood::Bad, "away".to_owned()),
    };
    let mut line = vec![
        Span::styled("selvedge", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw("  "),
        Span::styled(format!("{sign} {text}"), mood_style(mood, model.colours)),
        Span::raw(format!("  {}", plain(&model.endpoint))),
    ];
    if let Some(Node { zone, phase, uptime_seconds, connections_open, config, .. }) =
        model.picture.as_ref().and_then(|picture| picture.node.as_ref())
    {
        let zone = zone.as_ref().map(|zone| format!("  {}", plain(zone))).unwrap_or_default();
        let generation = config.as_ref().map(|config| format!("  configuration {}", config.generation));
        let up = span(*uptime_seconds);
        line.push(Span::raw(format!("{zone}  {}  up {up}  {connections_open} connections", plain(phase))));
        line.push(Span::raw(generation.unwrap_or_default()));
    }
    Line::from(line)
}

/// What is wrong with the node itself, a line for each.
fn notices(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    if let Reach::Away(heard, why) = &model.reach {
        let old = heard.map(|at| span(Instant::now().duration_since(at).as_secs_f64()));
        let old = old.map(|old| format!("; what is shown is {old} old")).unwrap_or_default();
        lines.push(format!("The node is away, and tried again each second{old}."));
        lines.push(plain(why));
    }
    let Some(node) = model.picture.as_ref().and_then(|picture| picture.node.as_ref()) else { return lines };
    if let Some(why) = node.not_ready.as_ref().filter(|_| node.phase == "serving") {
        lines.push(format!("Not ready: {}", plain(why)));
    }
    if let Some(problem) = node.state.as_ref().and_then(|state| state.problem.as_ref()) {
        lines.push(format!("What is changed now may be lost at a restart: {}", plain(problem)));
    }
    if let Some(config) = &node.config {
        if let Some(Reloading { since, trigger }) = &config.reloading {
            lines.push(format!("A reload is under way since {}, asked for by {trigger}", clock(since)));
        }
        if let Some(refused) = config.last_reload.as_ref().filter(|last| !last.problems.is_empty()) {
            lines.push(format!("The reload of {}", was_refused(refused)));
        }
        if !config.restart_needed.is_empty() {
            lines.push(format!("A restart is needed: {}", plain(&config.restart_needed.join("; "))));
        }
    }
    lines.extend(node.upgrade.iter().flat_map(of_upgrades));
    lines
}

/// An upgrade under way, what it leaves, and why there was none.
fn of_upgrades(upgrade: &Upgrade) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(under_way) = &upgrade.under_way {
        let (since, trigger) = (clock(&under_way.since), &under_way.trigger);
        let stage = plain(under_way.says());
        lines.push(format!("An upgrade is under way since {since}, asked for by {trigger}: {stage}"));
    }
    lines.extend(upgrade.leftovers().map(|text| plain(&text).replacen('p', "P", 1)));
    if let Some(refused) = &upgrade.last_refused {
        lines.push(format!("The upgrade of {}", was_refused(refused)));
    }
    lines
}

/// When and why, in a line.
fn was_refused(Reload { at, problems }: &Reload) -> String {
    let first = problems.first().map(|problem| plain(problem)).unwrap_or_default();
    let more = match problems.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more: see selvedge status)", n - 1),
    };
    format!("{} was refused: {first}{more}", clock(at))
}

fn table(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    if model.rows.is_empty() {
        let text = if model.picture.is_some() { "No pool is configured." } else { "Nothing is known yet." };
        frame.render_widget(Line::styled(text, quiet()), area);
        return;
    }
    let figures: Vec<usize> = (0..FIGURES.len()).filter(|column| FIGURES[*column].2 <= area.width).collect();
    let longest =
        |of: fn(&Row) -> &str| model.rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let name = longest(|row| &row.name).clamp(12, usize::from(area.width / 3).max(12)) as u16;
    let state = longest(|row| &row.state).clamp(8, 11) as u16;
    let mut widths = vec![Constraint::Length(name + 1), Constraint::Length(state)];
    widths.extend(figures.iter().map(|column| Constraint::Length(FIGURES[*column].1)));
    widths.push(Constraint::Fill(1));
    let right = |text: &str| Cell::from(Text::from(text.to_owned()).right_aligned());
    let mut titles = vec![Cell::from("NAME"), Cell::from("STATE")];
    titles.extend(figures.iter().map(|column| right(FIGURES[*column].0)));
    titles.push(Cell::from("WHY"));
    let colours = model.colours;
    let rows = model.rows.iter().map(|row| {
        let state = row.mood.map(|mood| mood_style(mood, colours)).unwrap_or_default();
        let is_head = !row.name.starts_with(' ');
        let strong = if is_head { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        let mut cells =
            vec![Cell::from(row.name.clone()), Cell::from(Span::styled(row.state.clone(), state))];
        cells.extend(figures.iter().map(|column| right(&row.figures[*column])));
        cells.push(Cell::from(row.why.clone()));
        TableRow::new(cells).style(strong)
    });
    let table = Table::new(rows, widths).header(TableRow::new(titles).style(quiet())).column_spacing(1);
    let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut model.table);
}

/// What was decided lately, of all pools, the newest first.
fn decisions(model: &Model) -> Vec<Line<'static>> {
    let pools = model.picture.iter().flat_map(|picture| &picture.pools);
    let mut all: Vec<&Decision> = pools.flat_map(|pool| &pool.decisions).collect();
    all.sort_by(|a, b| b.at.cmp(&a.at));
    let line = |decision: &&Decision| {
        let Decision { at, subject, what, reason } = decision;
        Line::from(vec![
            Span::styled(format!("{}  ", clock(at)), quiet()),
            Span::raw(format!("{} {}: {}", plain(subject), plain(what), plain(reason))),
        ])
    };
    all.iter().take(20).map(line).collect()
}

/// The time of day of a time stamp.
fn clock(at: &str) -> String {
    plain(at.get(11..19).unwrap_or(at))
}

fn ask(frame: &mut Frame<'_>, question: &Question, colours: bool) {
    let mut lines = vec![Line::from(question.meaning()), Line::default()];
    if let Some(what) = question.asks_for() {
        lines.push(Line::from(vec![
            Span::raw(format!("{what}: ")),
            Span::styled(format!("{}▏", question.lasts), Style::new().add_modifier(Modifier::BOLD)),
        ]));
        lines.push(Line::default());
    }
    match &question.outlook {
        Outlook::Awaited => lines.push(Line::styled("asking what it would do …", quiet())),
        Outlook::Refused(why) => lines.push(Line::styled(plain(why), mood_style(Mood::Bad, colours))),
        Outlook::Known { words, .. } => lines.extend(words.lines().map(|line| Line::from(plain(line)))),
    }
    lines.push(Line::default());
    let keys = match (question.is_sent, question.is_short(), question.force, question.may()) {
        (true, ..) => "it is being done …",
        (_, true, false, _) => "too little is left: f to do it all the same   Esc leave it",
        (_, true, true, _) => "Enter do it all the same   f not so   Esc leave it",
        (.., true) => "Enter do it   Esc leave it",
        _ => "Esc leave it",
    };
    let style = if question.is_short() { mood_style(Mood::Bad, colours) } else { Style::new() };
    lines.push(Line::styled(keys, style.add_modifier(Modifier::BOLD)));
    let area = frame.area();
    let width = area.width.saturating_sub(4).min(76);
    let inner = usize::from(width.saturating_sub(4).max(1));
    let height: usize = lines.iter().map(|line| line.width().div_ceil(inner).max(1)).sum();
    let [column] = Layout::horizontal([Constraint::Length(width)]).flex(Flex::Center).areas(area);
    let [place] = Layout::vertical([Constraint::Length(height as u16 + 2)]).flex(Flex::Center).areas(column);
    let title =
        Line::styled(format!(" {} ", plain(&question.title())), Style::new().add_modifier(Modifier::BOLD));
    let block = Block::bordered().title(title).padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), place);
}
