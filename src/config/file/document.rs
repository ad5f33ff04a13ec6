//! TOML with places: every value knows its line and its key, and a wrong value does not stop the reading.
//!
//! serde would end at the first value of a wrong type. Here each key is read on its own: a wrong one is noted and
//! becomes [`Field::Wrong`], so that later checks neither use it nor call it missing. What the values mean is not
//! known here.

use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use crate::config::Problem;

/// Where something stands.
#[derive(Debug, Clone, Default)]
pub(in crate::config) struct Place {
    /// Line in the file, from 1; 0 when nothing is written there.
    pub(in crate::config) line: usize,
    /// Key path: `pool.shop.health.interval`, `route[0].path` (elements of a list count from 0).
    pub(in crate::config) key: String,
}

impl Place {
    /// The place of `key` in the table that stands here.
    pub(in crate::config) fn key(&self, key: &str) -> Self {
        let plain =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let key = if plain { key.to_owned() } else { format!("{key:?}") };
        let path = if self.key.is_empty() { key } else { format!("{}.{key}", self.key) };
        Self { line: self.line, key: path }
    }

    fn element(&self, index: usize) -> Self {
        Self { line: self.line, key: format!("{}[{index}]", self.key) }
    }

    fn at_line(self, line: usize) -> Self {
        Self { line, ..self }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(in crate::config) struct At<T> {
    pub(in crate::config) value: T,
    pub(in crate::config) place: Place,
}

/// What the file says for one key.
#[derive(Debug, Default)]
pub(in crate::config) enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something of a wrong form, already noted.
    Wrong,
    /// This.
    Given(At<T>),
}

impl<T> Field<T> {
    pub(in crate::config) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The value with its place; `None` when absent or wrong.
    pub(in crate::config) fn given(self) -> Option<At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// Like [`Field::given`], to look without taking.
    pub(in crate::config) fn peek(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// The value alone, or `default`.
    pub(in crate::config) fn or(self, default: T) -> T {
        self.given().map_or(default, |at| at.value)
    }
}

impl<T: Default> Field<T> {
    /// The value alone; for an absent or wrong table the empty one.
    pub(in crate::config) fn or_default(self) -> T {
        self.or(T::default())
    }
}

/// What is wrong with a value, and what to write.
pub(in crate::config) struct Wrong {
    pub(in crate::config) what: String,
    pub(in crate::config) hint: String,
}

impl Wrong {
    pub(in crate::config) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(in crate::config) struct Problems(Vec<Problem>);

impl Problems {
    pub(in crate::config) fn add(&mut self, place: &Place, what: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Problem {
            line: (place.line > 0).then_some(place.line),
            key: place.key.clone(),
            what: what.into(),
            hint: hint.into(),
        });
    }

    /// Whether something below this table is wrong.
    pub(in crate::config) fn concern(&self, table: &Place) -> bool {
        let below = |problem: &Problem| {
            problem.key.strip_prefix(&table.key).is_some_and(|rest| rest.starts_with('.'))
        };
        self.0.iter().any(below)
    }

    pub(in crate::config) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the file; what stands nowhere comes last.
    pub(in crate::config) fn into_sorted(mut self) -> Vec<Problem> {
        self.0.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        self.0
    }
}

/// Turns offsets into lines and collects problems while a document is read.
pub(super) struct Reader {
    /// Offset of the first byte of each line.
    line_starts: Vec<usize>,
    problems: Problems,
}

/// Something that can be read from a TOML value.
pub(super) trait FromToml: Sized {
    /// `None` when the value has a wrong form, which has been noted then.
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self>;

    /// The same form as JSON Schema. It may allow more than `read` takes, never less.
    fn schema() -> Value;
}

/// Reads `text` as a `T`, with everything that is wrong. A syntax error comes alone.
pub(super) fn read<T: FromToml + Default>(text: &str) -> Result<(T, Problems), Problem> {
    let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut reader = Reader { line_starts, problems: Problems::default() };
    let document = DeTable::parse(text).map_err(|error| Problem {
        line: error.span().map(|span| reader.line(span.start)),
        key: String::new(),
        what: format!("not valid TOML: {}", error.message().replace('\n', " ")),
        hint: "correct the syntax; everything else is checked after that".to_owned(),
    })?;
    let file = T::read(DeValue::Table(document.into_inner()), &Place::default(), &mut reader);
    Ok((file.unwrap_or_default(), reader.problems))
}

impl Reader {
    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Notes that the value at `place` is wrong.
    pub(super) fn wrong<T>(&mut self, place: &Place, wrong: Wrong) -> Option<T> {
        self.problems.add(place, wrong.what, wrong.hint);
        None
    }

    /// Notes that the value at `place` has not the form of a `kind`.
    pub(super) fn mismatch<T>(
        &mut self,
        place: &Place,
        value: &DeValue<'_>,
        kind: &str,
        hint: &str,
    ) -> Option<T> {
        self.wrong(place, Wrong::new(format!("{} is not {kind}", shown(value)), hint))
    }
}

/// A value as it may be repeated in an error message.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Text from the file in quotes, shortened so that a message stays one line.
pub(in crate::config) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The keys of a table that are not read yet.
pub(super) struct Entries<'a> {
    rest: Vec<(Place, String, DeValue<'a>)>,
}

impl<'a> Entries<'a> {
    pub(super) fn of(value: DeValue<'a>, place: &Place, reader: &mut Reader) -> Option<Self> {
        let DeValue::Table(table) = value else {
            return reader.mismatch(
                place,
                &value,
                "a table",
                &format!("write its keys below [{}]", place.key),
            );
        };
        let rest = table.into_iter().map(|(key, value)| {
            let line = reader.line(key.span().start);
            let key = key.into_inner().into_owned();
            (place.key(&key).at_line(line), key, value.into_inner())
        });
        let mut rest: Vec<_> = rest.collect();
        rest.sort_by_key(|(place, ..)| place.line);
        Some(Self { rest })
    }

    /// Reads the value of `key`, if it is there.
    pub(super) fn take<T: FromToml>(&mut self, key: &str, reader: &mut Reader) -> Field<T> {
        let Some(index) = self.rest.iter().position(|(_, name, _)| name == key) else {
            return Field::Absent;
        };
        let (place, _, value) = self.rest.remove(index);
        match T::read(value, &place, reader) {
            Some(value) => Field::Given(At { value, place }),
            None => Field::Wrong,
        }
    }

    /// Notes every key that nobody has read. `known` are the keys that somebody could have meant; `later` are those
    /// of the contract that this version does not have.
    pub(super) fn refuse_rest(self, known: &[&str], later: &[&str], reader: &mut Reader) {
        for (place, key, _) in self.rest {
            let (what, hint) = match nearest(&key, known) {
                _ if later.contains(&key.as_str()) => {
                    ("is not supported by this version", "remove it".to_owned())
                }
                Some(near) => ("there is no such key", format!("did you mean {near:?}?")),
                None => {
                    ("there is no such key", format!("remove it; the keys here are {}", known.join(", ")))
                }
            };
            reader.problems.add(&place, what, hint);
        }
    }
}

/// JSON Schema of a table that has these keys and no others.
pub(super) fn schema_of_table(keys: &[(&str, Value)]) -> Value {
    let properties: serde_json::Map<String, Value> =
        keys.iter().map(|(key, schema)| ((*key).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// The one of `known` that `word` most probably is a slip for.
pub(in crate::config) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let likeness = |near: &str| strsim::normalized_damerau_levenshtein(&word.to_lowercase(), near);
    let best = known.iter().map(|near| (likeness(near), *near)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness >= 0.6).map(|(_, near)| near)
}

impl<T: FromToml> FromToml for Vec<At<T>> {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        let DeValue::Array(list) = value else {
            let hint = match value {
                DeValue::Table(_) => format!("write it as [[{}]]", place.key),
                _ => "write it in brackets: [ … ]".to_owned(),
            };
            return reader.mismatch(place, &value, "a list", &hint);
        };
        let count = list.len();
        let elements = list.into_iter().zip(0..).filter_map(|(element, index)| {
            let place = place.element(index).at_line(reader.line(element.span().start));
            T::read(element.into_inner(), &place, reader).map(|value| At { value, place })
        });
        let read: Self = elements.collect();
        // Not a shorter list: `allow` without its wrong element would shut out somebody who may come in.
        (read.len() == count).then_some(read)
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

/// Tables with free names, such as `[pool.NAME]`, in the order of the file.
pub(in crate::config) struct Named<T>(pub(in crate::config) Vec<(String, Place, Option<T>)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: FromToml> FromToml for Named<T> {
    fn read(value: DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
        let entries = Entries::of(value, place, reader)?;
        let read = |(place, name, value): (Place, String, DeValue<'_>)| {
            let table = T::read(value, &place, reader);
            (name, place, table)
        };
        Some(Self(entries.rest.into_iter().map(read).collect()))
    }

    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }
}
