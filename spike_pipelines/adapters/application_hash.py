"""The version of an application file: what it says, not how it is written.

Comments, order of keys, quotes and line breaks leave it as it is, so that mending a comment restarts
nothing. The chart computes the same (`spike.version` in its `_helpers.tpl`) from the values Helm has
read, and puts it on the SparkApplication: file, resource and running driver are compared by this one word.
"""

import hashlib
import json
from typing import Any

LENGTH = 12


def version(root: Any) -> str:
    """The beginning of the SHA-256 of the values as JSON: keys in order, no white space.

    `root` holds dict, list, str, int, float, bool and None, as `yaml_document` reads them.
    """
    return hashlib.sha256(canonical(root).encode()).hexdigest()[:LENGTH]


def canonical(root: Any) -> str:
    """As Go's encoder writes it, which is what Helm has; text other than ASCII stays."""
    text = json.dumps(_plain(root), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
