//! What the screen shows and what keys do to it. Pure: news, keys and the time go in, wishes come out.

use std::time::Instant;

use bytes::Bytes;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

use super::super::seen::Picture;
use super::ask::{Question, Subject, Verb};
use super::node::Asked;
use super::rates::Rates;
use super::rows::{self, About, Row};

/// Rows that Page Up and Page Down pass over.
const PAGE: usize = 10;

/// Longest time that can be typed.
const LASTS_MAX: usize = 12;

/// Something of the node.
pub(super) enum Said {
    /// All of it.
    Picture(Box<Picture>),
    /// It cannot be reached, for this reason.
    Away(String),
    /// To a request.
    Answer { number: u64, dry: bool, answer: Result<Bytes, String> },
}

/// What is to be done after a key.
#[derive(Debug, PartialEq)]
pub(super) enum Wish {
    Nothing,
    Leave,
    Ask(Asked),
}

/// How the node is reached.
#[derive(Debug, PartialEq)]
pub(super) enum Reach {
    /// Nothing was heard yet.
    Trying,
    Live,
    /// It was heard last then, and is away for this reason.
    Away(Option<Instant>, String),
}

/// See the module's documentation.
pub(super) struct Model {
    /// Where the node is.
    pub(super) endpoint: String,
    /// Whether colours are wanted.
    pub(super) colours: bool,
    pub(super) reach: Reach,
    pub(super) picture: Option<Box<Picture>>,
    pub(super) rates: Rates,
    pub(super) rows: Vec<Row>,
    /// Where the table stands; follows `selected`.
    pub(super) table: TableState,
    selected: Option<About>,
    pub(super) question: Option<Question>,
    /// What came of the last key.
    pub(super) notice: String,
    questions: u64,
    heard: Option<Instant>,
}

impl Model {
    /// Before anything is known.
    pub(super) fn new(endpoint: String, colours: bool) -> Self {
        Self {
            endpoint,
            colours,
            reach: Reach::Trying,
            picture: None,
            rates: Rates::default(),
            rows: Vec::new(),
            table: TableState::default(),
            selected: None,
            question: None,
            notice: String::new(),
            questions: 0,
            heard: None,
        }
    }

    /// Takes news.
    pub(super) fn hear(&mut self, said: Said, now: Instant) {
        match said {
            Said::Picture(picture) => {
                self.rates.at(picture.node.as_ref().map_or(0.0, |node| node.uptime_seconds));
                rows::note(&picture, &mut self.rates);
                self.rows = rows::of(&picture, &self.rates);
                (self.reach, self.heard) = (Reach::Live, Some(now));
                self.picture = Some(picture);
                self.find_selected();
            }
            Said::Away(why) => self.reach = Reach::Away(self.heard, why),
            Said::Answer { number, dry, answer } => {
                let Some(question) = self.question.as_mut().filter(|asked| asked.number == number) else {
                    return;
                };
                match (dry, answer) {
                    (true, answer) => question.hear(answer),
                    (false, Ok(_)) => {
                        self.notice = question.done();
                        self.question = None;
                    }
                    (false, Err(why)) => {
                        question.is_sent = false;
                        question.hear(Err(why));
                    }
                }
            }
        }
    }

    /// The same thing stays selected wherever it stands now; when it is gone, its place does.
    fn find_selected(&mut self) {
        let at =
            self.selected.as_ref().and_then(|about| self.rows.iter().position(|row| row.about == *about));
        self.select(at.or(self.table.selected()).unwrap_or(0));
    }

    fn select(&mut self, at: usize) {
        let at = at.min(self.rows.len().saturating_sub(1));
        self.selected = self.rows.get(at).map(|row| row.about.clone());
        self.table.select(self.selected.is_some().then_some(at));
    }

    /// Does what a key says.
    pub(super) fn on_key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Wish::Leave } else { Wish::Nothing };
        }
        if self.question.is_some() {
            return self.on_key_of_question(key.code);
        }
        let at = self.table.selected().unwrap_or(0);
        match key.code {
            KeyCode::Char('q') => return Wish::Leave,
            KeyCode::Up | KeyCode::Char('k') => self.select(at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(at + 1),
            KeyCode::PageUp => self.select(at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.select(at + PAGE),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('d') => return self.ask(Verb::Drain),
            KeyCode::Char('u') => return self.ask(Verb::Up),
            KeyCode::Char('x') => return self.ask(Verb::Down),
            KeyCode::Char('s') => return self.ask(Verb::Shift),
            KeyCode::Char('r') => return self.ask(Verb::Restore),
            _ => {}
        }
        Wish::Nothing
    }

    /// Begins a question about what is selected; the zone of a target is its own.
    fn ask(&mut self, verb: Verb) -> Wish {
        let of_zone = matches!(verb, Verb::Shift | Verb::Restore);
        let subject = match &self.selected {
            Some(About::Target { pool, target }) if !of_zone => {
                Subject::Target { pool: pool.clone(), target: target.clone() }
            }
            Some(About::Target { target, .. }) => {
                Subject::Zone(target.split_once('/').map_or("-", |(zone, _)| zone).to_owned())
            }
            Some(About::Zone { zone, .. }) if of_zone => Subject::Zone(zone.clone()),
            _ => {
                self.notice =
                    if of_zone { "select a zone for that" } else { "select a target for that" }.to_owned();
                return Wish::Nothing;
            }
        };
        self.notice.clear();
        self.questions += 1;
        let question = Question::new(verb, subject, self.questions);
        let request = question.request(true);
        self.question = Some(question);
        Wish::Ask(request)
    }

    fn on_key_of_question(&mut self, key: KeyCode) -> Wish {
        let Some(question) = self.question.as_mut() else { return Wish::Nothing };
        match key {
            KeyCode::Esc | KeyCode::Char('q') => {
                self.question = None;
                Wish::Nothing
            }
            KeyCode::Enter if question.may() => {
                question.is_sent = true;
                Wish::Ask(question.request(false))
            }
            KeyCode::Char('f') if question.is_short() => {
                question.force = !question.force;
                Wish::Nothing
            }
            KeyCode::Char(typed) if question.asks_for().is_some() => {
                if !(typed.is_ascii_digit() || "smhd".contains(typed)) || question.lasts.len() >= LASTS_MAX {
                    return Wish::Nothing;
                }
                question.lasts.push(typed);
                self.plan_again()
            }
            KeyCode::Backspace if question.asks_for().is_some() => {
                question.lasts.pop();
                self.plan_again()
            }
            _ => Wish::Nothing,
        }
    }

    fn plan_again(&mut self) -> Wish {
        let Some(question) = self.question.as_mut() else { return Wish::Nothing };
        self.questions += 1;
        (question.number, question.outlook, question.force) =
            (self.questions, super::ask::Outlook::Awaited, false);
        Wish::Ask(question.request(true))
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
