"""Holds the manifests that are given against the schemas of Kubernetes, strictly, and writes each as a line of JSON."""

import json
import sys

import kubernetes_validate
import yaml

for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as text:
        for resource in yaml.safe_load_all(text):
            kubernetes_validate.validate(resource, "1.37", strict=True)
            print(json.dumps(resource))
