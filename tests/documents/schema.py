"""Holds TOML files against a JSON Schema: prints, for each file, the places that it complains of."""

import json
import sys
import tomllib

from jsonschema import Draft7Validator

with open(sys.argv[1]) as file:
    schema = json.load(file)
Draft7Validator.check_schema(schema)
validator = Draft7Validator(schema)
found = []
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        document = tomllib.load(file)
    places = {".".join(map(str, error.absolute_path)) for error in validator.iter_errors(document)}
    found.append(sorted(places))
print(json.dumps(found))
