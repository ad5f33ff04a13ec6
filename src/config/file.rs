//! `FileConfig`: the TOML, table by table, without behaviour.
