"""Builds what of the charts follows from the code: `python deployments/charts/build.py`.

`spike/values.schema.json` is the application file's own model, so that Helm refuses the typo that the CLI
refuses; each README.md has the table of its values.yaml. `tests/charts` says when they are not built anew.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from spike_pipelines.adapters.application_schema import Application

HERE = Path(__file__).parent
CHARTS = ("spike", "spike-platform")
_DOCUMENTED = re.compile(r"^(?P<indent> *)# -- (?P<text>.*)$")
# Kubernetes takes an empty one for another: its own audience, the release's namespace, the account "default".
NEVER_EMPTY = frozenset({"audience", "namespace", "serviceAccount", "deployServiceAccount"})
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][\w./-]*):(?P<value>.*)$")


def files() -> dict[Path, str]:
    """Every file that is built, with its text."""
    built = {HERE / "spike" / "values.schema.json": _pretty(spike_schema())}
    built[HERE / "spike-platform" / "values.schema.json"] = _pretty(platform_schema())
    return built | {HERE / chart / "README.md": readme(HERE / chart) for chart in CHARTS}


def spike_schema() -> dict[str, Any]:
    """An application file, beside what a cluster's values say for all spikes."""
    schema = _cleaned(Application.model_json_schema(by_alias=True))
    schema["properties"]["platform"] = _shape(_values(HERE / "spike")["platform"])
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | _with_globals(schema)


def platform_schema() -> dict[str, Any]:
    shape = _shape(_values(HERE / "spike-platform"))
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | _with_globals(shape)


def _with_globals(schema: dict[str, Any]) -> dict[str, Any]:
    schema["properties"]["global"] = {"type": "object"}  # Helm puts it there
    return schema


def _values(chart: Path) -> Any:
    return YAML(typ="safe").load(chart / "values.yaml")


def _shape(default: Any) -> dict[str, Any]:
    """What may stand where `default` stands: the same keys, the same kinds; an empty map or list is free."""
    if isinstance(default, dict) and default:
        inner = {key: _filled(_shape(value), key) for key, value in default.items()}
        return {"type": "object", "additionalProperties": False, "properties": inner}
    names = {dict: "object", list: "array", bool: "boolean", int: "integer", str: "string"}
    return {"type": names[type(default)]}


def _filled(shape: dict[str, Any], key: str) -> dict[str, Any]:
    return shape | {"minLength": 1} if key in NEVER_EMPTY else shape


def _cleaned(schema: Any) -> Any:
    """Without what pydantic says for its own sake."""
    if isinstance(schema, dict):
        return {
            key: {name: _cleaned(inner) for name, inner in value.items()}
            if key in ("properties", "$defs")
            else _cleaned(value)
            for key, value in schema.items()
            if key not in ("title", "description", "default")
        }
    return [_cleaned(item) for item in schema] if isinstance(schema, list) else schema


def _pretty(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    default: str
    text: str


def readme(chart: Path) -> str:
    """README.md.gotmpl of the chart, with the table of its values in place of `{{ values }}`."""
    template = (chart / "README.md.gotmpl").read_text()
    rows = "\n".join(f"| {r.key} | `{r.default}` | {r.text} |" for r in _rows(chart))
    return template.replace("{{ values }}", f"| Key | Default | Description |\n| --- | --- | --- |\n{rows}")


def _rows(chart: Path) -> Iterator[Row]:
    """One for each key of values.yaml with a `# --` comment above it."""
    lines = (chart / "values.yaml").read_text().splitlines()
    values, path, text = _values(chart), [], ""
    for line in lines:
        if documented := _DOCUMENTED.match(line):
            text = documented["text"]
        elif key := _KEY.match(line):
            path = [*path[: len(key["indent"]) // 2], key["key"]]
            if text:
                yield Row(".".join(path), json.dumps(_at(values, path)), text)
            text = ""


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def main() -> None:
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
