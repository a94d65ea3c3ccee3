#!/usr/bin/env python3
"""Checks an operator API against the OpenAPI document that it serves.

    contract.py URL

Every example must fit its schema, every reference must lead somewhere, and what each GET answers must fit too;
parameters that are required are taken from what lists answered. Only the standard library is used.
"""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}


class Contract:
    def __init__(self, document):
        self.document, self.faults = document, []

    def resolve(self, node):
        while "$ref" in node:
            found = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node

    def check(self, value, schema, where):
        schema = self.resolve(schema)
        if "oneOf" in schema:
            fitting = [one for one in schema["oneOf"] if not Contract(self.document).faults_of(value, one)]
            if len(fitting) != 1:
                concrete = schema["oneOf"][0] if value is not None else {"type": "null"}
                self.check(value, concrete, where)
            return
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else types
        boolean = isinstance(value, bool) and "boolean" not in types
        if types and (boolean or not any(isinstance(value, TYPES[name]) for name in types)):
            self.faults.append(f"{where}: {value!r} is no {' or '.join(types)}")
            return
        rules = [
            ("enum" not in schema or value in schema["enum"], "is not one of the values"),
            ("const" not in schema or value == schema["const"], "is not the one value"),
            (not isinstance(value, str) or re.search(schema.get("pattern", ""), value), "does not fit the pattern"),
            (not isinstance(value, str) or schema.get("format") != "date-time" or is_time(value), "is no RFC 3339 time"),
            (isinstance(value, bool) or not isinstance(value, (int, float)) or schema.get("minimum", value) <= value <= schema.get("maximum", value), "is out of range"),
            (not isinstance(value, list) or len(value) <= schema.get("maxItems", len(value)), "is too long"),
        ]
        self.faults += [f"{where}: {value!r} {fault}" for good, fault in rules if not good]
        if isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                self.check(item, schema["items"], f"{where}[{index}]")
        if isinstance(value, dict):
            known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
            self.faults += [f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value]
            for name, item in value.items():
                if name in known:
                    self.check(item, known[name], f"{where}.{name}")
                elif isinstance(others, dict):
                    self.check(item, others, f"{where}.{name}")
                elif known:
                    self.faults.append(f"{where}: {name} is not in the contract")

    def faults_of(self, value, schema):
        self.check(value, schema, "")
        return self.faults

    def examples(self):
        """Checks every example and every reference; says how many examples there were."""
        seen = 0

        def walk(node, where):
            nonlocal seen
            if isinstance(node, list):
                for index, item in enumerate(node):
                    walk(item, f"{where}[{index}]")
            elif isinstance(node, dict):
                if isinstance(node.get("$ref"), str):
                    self.resolve(node)
                if "schema" in node and "example" in node:
                    seen += 1
                    self.check(node["example"], node["schema"], where)
                for key, item in node.items():
                    if key != "example":
                        walk(item, f"{where}/{key}")

        walk(self.document, "#")
        return seen


def is_time(text):
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).tzinfo is not None
    except ValueError:
        return False


def explanation(contract, base):
    """Checks the answer to a question that is asked by POST."""
    headers = {"Content-Type": "application/json", "X-Roadstead-Request": "1"}
    schema = contract.document["paths"]["/api/v1/explain"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    for image in "docker.io/library/alpine:3.20", "quay.io/banned/tool:1", "quay.io/team/moving:latest":
        request = urllib.request.Request(f"{base}/api/v1/explain", json.dumps({"image": image}).encode(), headers, method="POST")
        contract.check(get(request), schema, f"explain {image}")


def get(url):
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def answers(contract, base):
    """Checks what GETs answer; says how many there were."""
    first = get(f"{base}/api/v1/repositories?limit=1")["items"][0]
    given = {"registry": first["registry"], "repository": first["repository"]}
    given["reference"] = get(f"{base}/api/v1/tags?limit=1&" + urllib.parse.urlencode(given))["items"][0]["tag"]
    checked = 0
    for path, methods in contract.document["paths"].items():
        content = methods.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        parameters = [contract.resolve(parameter) for parameter in methods["get"].get("parameters", [])]
        query = {one["name"]: given[one["name"]] for one in parameters if one.get("required")}
        query |= {"limit": 100} if any(one["name"] == "limit" for one in parameters) else {}
        contract.check(get(f"{base}{path}?" + urllib.parse.urlencode(query)), content["schema"], path)
        checked += 1
    return checked


def refusals(contract, base):
    """Whatever changes something is refused without the header, with a problem."""
    schema = contract.document["components"]["schemas"]["Problem"]
    for path, methods in contract.document["paths"].items():
        for method in {"post", "delete", "put", "patch"} & methods.keys():
            request = urllib.request.Request(base + path, b"{}", {"Content-Type": "application/json"}, method=method.upper())
            try:
                urllib.request.urlopen(request, timeout=30)
                contract.faults.append(f"{method} {path} is allowed to other sites")
            except urllib.error.HTTPError as error:
                problem = json.load(error)
                contract.check(problem, schema, f"{method} {path}")
                if (error.code, problem["code"], error.headers["Content-Type"]) != (403, "cross-site-request", "application/problem+json"):
                    contract.faults.append(f"{method} {path}: {error.code} {problem['code']}")


def main(base):
    contract = Contract(get(f"{base}/api/v1/openapi.json"))
    examples, checked = contract.examples(), answers(contract, base)
    explanation(contract, base)
    refusals(contract, base)
    for fault in contract.faults[:50]:
        print(fault)
    print(f"{examples} examples and {checked} answers checked, {len(contract.faults)} faults")
    return bool(contract.faults) or checked == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].rstrip("/")))
