//! `selvedge top`: a node live in the whole terminal, and its targets and zones in the operator's hands.
//!
//! ```text
//! node     a thread that follows the stream of events and asks for changes
//! model    what is known, what is selected, what is asked: pure
//! rows     a picture as rows; rates: counts that become rates
//! ask      the question before a change, with the figures of its dry run
//! screen   draws the model
//! ```
//!
//! Not obvious: the terminal is put back as it was at every end: by `q`, by a signal, by a failure, and by a panic (the
//! hook of `ratatui::try_init`).

mod ask;
mod model;
mod node;
mod rates;
mod rows;
mod screen;

use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::{execute, terminal};

use super::admin_client::AdminArguments;
use super::{Failure, colours};
use model::{Model, Wish};
use node::{News, Node};

/// Longest wait for a key before news is looked for.
const TURN: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    admin: AdminArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() || is_dumb {
        let message = "top needs a terminal that it can draw on; selvedge status prints the same once";
        return Err(Failure::Other(message.to_owned()));
    }
    let client = arguments.admin.client()?;
    let model = Model::new(client.endpoint().to_string(), colours::wanted());
    let (node, news) = node::start(client).map_err(|error| cannot("start", &error))?;
    let mut terminal = ratatui::try_init().map_err(|error| cannot("use this terminal", &error))?;
    let ended = attend(&mut terminal, model, &node, &news);
    ratatui::restore();
    ended
}

fn cannot(what: &str, error: &std::io::Error) -> Failure {
    Failure::Other(format!("cannot {what}: {error}"))
}

/// Draws, and does what keys and news say, until the end is wanted.
fn attend(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    node: &Node,
    news: &Receiver<News>,
) -> Result<(), Failure> {
    loop {
        let drawn = terminal.draw(|frame| screen::draw(frame, &mut model));
        drawn.map_err(|error| cannot("draw", &error))?;
        let seen = event::poll(TURN).and_then(|is_there| is_there.then(event::read).transpose());
        let wish = match seen.map_err(|error| cannot("read keys", &error))? {
            Some(Event::Key(key)) if key.kind != KeyEventKind::Release => model.on_key(key),
            _ => Wish::Nothing,
        };
        match wish {
            Wish::Leave => return Ok(()),
            Wish::Ask(asked) => node.ask(asked),
            Wish::Nothing => {}
        }
        loop {
            match news.try_recv() {
                Ok(News::Leave) => return Ok(()),
                Ok(News::Back) => come_back(terminal).map_err(|error| cannot("use this terminal", &error))?,
                Ok(News::Of(said)) => model.hear(said, Instant::now()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    let message = "what follows the node has died; this is a defect, please report it";
                    return Err(Failure::Other(message.to_owned()));
                }
            }
        }
    }
}

/// After a stop, whoever had the terminal meanwhile has left it in some state.
fn come_back(terminal: &mut DefaultTerminal) -> std::io::Result<()> {
    terminal::enable_raw_mode()?;
    execute!(std::io::stdout(), terminal::EnterAlternateScreen)?;
    terminal.clear()
}
