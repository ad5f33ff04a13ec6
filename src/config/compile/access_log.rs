//! `[access_log]`.

use super::super::file::{self, At, Field, OrOff};
use super::super::units::Size;
use super::super::{AccessField, AccessFormat, AccessLog, AccessOutput};
use super::Compiler;

impl Compiler<'_> {
    pub(super) fn access_log(&mut self, file: Field<file::AccessLog>) -> Option<AccessLog> {
        let At { value: file, place } = file.given()?;
        let format = file.format.or(AccessFormat::Json);
        let output = match file.output.given() {
            None => AccessOutput::Stdout,
            Some(At { value, .. }) if value == "stdout" => AccessOutput::Stdout,
            Some(At { value, place }) => {
                let path = self.path(&value);
                if path.file_name().is_none() || value.ends_with('/') {
                    let hint =
                        "write \"stdout\", or the path of a file such as \"/var/log/selvedge/access.log\"";
                    self.problems.add(&place, "is not the path of a file", hint);
                }
                AccessOutput::File(path)
            }
        };
        let fields = match format {
            AccessFormat::Json => {
                self.unique(file.fields.peek().iter().flat_map(|at| &at.value), "write each field once");
                let hint = "list what a line has, or leave the key out for everything";
                self.filled(file.fields, AccessField::ALL.to_vec(), hint)
            }
            AccessFormat::Combined => {
                if !file.fields.is_absent() {
                    let what = "has no meaning with format = \"combined\"";
                    let hint = "leave it out, or write format = \"json\"";
                    self.problems.add(&place.key("fields"), what, hint);
                }
                AccessField::COMBINED.to_vec()
            }
        };
        let max_size = match file.max_size.given() {
            None => Some(Size(100 << 20)),
            Some(At { value: OrOff::Off, .. }) => None,
            Some(At { value: OrOff::On(value), place }) => {
                let field = Field::Given(At { value, place });
                Some(self.within(field, Size(100 << 20), Size(64 << 10)..=Size(1 << 40)))
            }
        };
        Some(AccessLog {
            output,
            format,
            fields,
            max_size: max_size.map(|size| size.0),
            keep: self.within(file.keep, 5, 0..=1000) as u32,
            buffer: self.within(file.buffer, Size(1 << 20), Size(128 << 10)..=Size(256 << 20)).0 as usize,
        })
    }
}
