"""Reads a scrape as Prometheus' own client library does, and prints the families it finds."""

import json
import math
import sys

from prometheus_client.parser import text_string_to_metric_families

with open(sys.argv[1]) as file:
    text = file.read()
families = []
for family in text_string_to_metric_families(text):
    assert family.documentation, f"{family.name} has no help"
    assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is {family.type}"
    seen = set()
    for sample in family.samples:
        series = (sample.name, tuple(sorted(sample.labels.items())))
        assert series not in seen, f"{series} is there twice"
        seen.add(series)
        assert not math.isnan(sample.value), f"{series} is no number"
        assert family.type == "gauge" or sample.value >= 0, f"{series} is {sample.value}"
    if family.type == "histogram":
        buckets = {}
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "le"}
            key = tuple(sorted(labels.items()))
            if sample.name.endswith("_bucket"):
                buckets.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
            if sample.name.endswith("_count"):
                counts = [count for _, count in buckets[key]]
                bounds = [bound for bound, _ in buckets[key]]
                assert counts == sorted(counts) and bounds == sorted(bounds), f"{family.name} {key}"
                assert bounds[-1] == math.inf and counts[-1] == sample.value, f"{family.name} {key}"
    samples = [{"name": s.name, "labels": s.labels, "value": s.value} for s in family.samples]
    families.append({"name": family.name, "type": family.type, "help": family.documentation, "samples": samples})
print(json.dumps(families))
