//! The end-to-end fields of a head, in the order in which they came.
//!
//! A list, not a hash map: a head has a dozen fields, and looking through a dozen names costs less than hashing one. How
//! many there may be is bounded where heads are read. Trailers and the admin API, which are rare, use `http`'s map.

use http::header::{HeaderName, HeaderValue};

/// See the module's documentation. A name may be given as a [`HeaderName`] or, at some cost, as text.
#[derive(Debug, Default)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    /// No fields.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The first value of this name.
    pub fn get(&self, name: impl PartialEq<HeaderName>) -> Option<&HeaderValue> {
        self.get_all(name).next()
    }

    /// All values of this name, in order.
    pub fn get_all(&self, name: impl PartialEq<HeaderName>) -> impl DoubleEndedIterator<Item = &HeaderValue> {
        self.0.iter().filter(move |(other, _)| name == *other).map(|(_, value)| value)
    }

    /// Whether there is a field of this name.
    pub fn contains(&self, name: impl PartialEq<HeaderName>) -> bool {
        self.get(name).is_some()
    }

    /// Adds a field, whether or not there is one of that name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Makes this the only field of that name.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        self.retain(|other, _| *other != name);
        self.append(name, value);
    }

    /// Keeps the fields for which `keep` says so; it may change their values.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &mut HeaderValue) -> bool) {
        self.0.retain_mut(|(name, value)| keep(name, value));
    }

    /// All fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Takes all fields out and leaves their room.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Fields that there is room for.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: T) -> Self {
        Self(Vec::from_iter(fields))
    }
}

#[cfg(test)]
impl<N: PartialEq<HeaderName>> std::ops::Index<N> for Fields {
    type Output = HeaderValue;

    fn index(&self, name: N) -> &HeaderValue {
        self.get(name).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{COOKIE, HOST, VIA};

    #[test]
    fn fields_keep_their_order_and_an_inserted_one_is_alone() {
        let value = HeaderValue::from_static;
        let mut fields = Fields::from_iter([
            (COOKIE, value("a=1")),
            (HOST, value("shop.test")),
            (COOKIE, value("b=2")),
            (HOST, value("other.test")),
        ]);
        assert_eq!(fields.get_all(COOKIE).collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert!(fields.contains("Host") && !fields.contains(VIA));
        fields.insert(HOST, value("last.test"));
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["cookie", "cookie", "host"]);
        assert_eq!(fields[HOST], "last.test");
    }
}
