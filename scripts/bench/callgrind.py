"""Instructions by crate, from callgrind's dumps."""

import collections
import re

# {label: what a symbol begins with, or contains}, in the order of the table
GROUPS = {
    "our own crates": r"^<*(&?mut )?roadstead(_\w+)?\b",
    "the h2 crate": r"\bh2::",
    "httparse": r"\bhttparse::",
    "http, bytes, hashbrown": r"\b(http|bytes|hashbrown|indexmap|http_body)::",
    "tokio": r"\b(tokio|tokio_rustls|mio|futures_util|futures_core)::",
    "rustls": r"\brustls",
    "AES-GCM": r"aes|gcm|gmult|ghash|aead|EVP_|CRYPTO_",
    "memcpy, memcmp": r"mem(cpy|move|set|cmp)|bcmp",
    "malloc": r"malloc|free$|^_?int_free|realloc|calloc|unlink_chunk|__rust_(de)?alloc|alloc_perturb",
    "pingora": r"\bpingora",
    "caches (moka)": r"\bmoka\b|\bcrossbeam",
    "std, core": r"\b(core|alloc|std)::",
}
REST = "rest"


def functions(path):
    """{function: instructions that it took itself} of one dump."""
    names, costs = {}, collections.Counter()
    function, skip = None, False
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("fn="):
            number, _, name = line[3:].partition(" ")
            names.setdefault(number, name)
            function = names[number]
        elif line.startswith("cfn="):
            number, _, name = line[4:].partition(" ")
            names.setdefault(number, name)
        elif line.startswith("calls="):
            # The next line is what the call took.
            skip = True
        elif re.match(r"[\d+*-]", line):
            if not skip and function is not None:
                costs[function] += int(line.split()[1])
            skip = False
    return costs


def by_group(costs):
    """{label: instructions}"""
    found = collections.Counter()
    for function, cost in costs.items():
        label = next((label for label, pattern in GROUPS.items() if re.search(pattern, function)), REST)
        found[label] += cost
    return found
