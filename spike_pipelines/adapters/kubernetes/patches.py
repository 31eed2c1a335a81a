"""Overlays as parts of a spec, and merge patches (RFC 7386) that lay them and take them off. Pure.

An overlay is a fragment of the spec; `before` is the same fragment with what the spec has there without any
overlay (null: nothing), so that they may end in any order.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.overlays import NewOverlay, Overlay, OverlayKind

Json = dict[str, Any]
_EMPTY: tuple[Any, ...] = (None, {}, [])
RESUBMITTED_CONF = "spark.spike.resubmitted"
BATCHES_CONF = "spark.kubernetes.driverEnv.SPIKE_MAX_OFFSETS_PER_TRIGGER"


def fragment(kind: OverlayKind, value: str, spec: Json, stable: Json | None) -> Json:
    """What the overlay makes of the spec. Raises `InvalidSpec` where it cannot."""
    if kind is OverlayKind.STABLE_SPEC:
        if stable is None:
            raise InvalidSpec(f"the spec {value} is not known any more: there is nothing to go back to")
        return difference(without(spec, "suspend"), without(stable, "suspend"))
    label, _, wanted = value.partition("=")
    fragments: dict[OverlayKind, Json] = {
        OverlayKind.MEMORY: {"driver": {"memory": value}},
        OverlayKind.SMALLER_BATCHES: {"sparkConf": {BATCHES_CONF: value}},
        OverlayKind.ON_DEMAND: {"driver": _placed(spec, {label: wanted})},
        OverlayKind.QUARANTINE: {"suspend": True},
    }
    return fragments[kind]


def _placed(spec: Json, nodes: Json) -> Json:
    """Where pods are made from a template, as the chart's are, the operator's webhook leaves them alone,
    `driver.nodeSelector` too; and an affinity that asks for other nodes would let them stand nowhere."""
    if not _dict(spec.get("driver")).get("template"):
        return {"nodeSelector": nodes}
    return {"template": {"spec": {"nodeSelector": nodes, "affinity": {"nodeAffinity": None}}}}


def present(spec: Json, shape: Json) -> Json:
    """What the spec has in the places of the fragment; null where it has nothing."""
    return {
        key: present(_dict(spec.get(key)), part) if isinstance(part, dict) and part else spec.get(key)
        for key, part in shape.items()
    }


def laid(spec: Json, overlays: Iterable[Overlay], stable: Json | None) -> Json:
    """The fragments of all of them: a spec that is gone back to first, and over it what was added since."""
    result: Json = {}
    for overlay in sorted(overlays, key=lambda o: o.kind is not OverlayKind.STABLE_SPEC):
        part = fragment(overlay.kind, overlay.value, merged(spec, result), stable)
        result = merged(result, part, keep_nulls=True)
    return result


def taken_off(spec: Json, overlays: Sequence[Overlay], stable: Json | None) -> Json:
    """Gives back what each replaced, the newest first, wherever its own value still stands."""
    result: Json = {}
    for overlay in sorted(overlays, key=lambda o: o.id, reverse=True):
        before, left = json.loads(overlay.before) if overlay.before else {}, merged(spec, result)
        if overlay.kind is OverlayKind.STABLE_SPEC:
            laid_down = present(stable or {}, before)
        else:
            laid_down = fragment(overlay.kind, overlay.value, left, stable)
        result = merged(result, _restored(left, laid_down, before), keep_nulls=True)
    return result


def replaced(spec: Json, overlay: NewOverlay, carried: Sequence[Overlay], stable: Json | None) -> Json:
    """What the overlay will replace of the spec as it is without those that it carries."""
    bare = merged(spec, taken_off(spec, carried, stable))
    return present(bare, fragment(overlay.kind, overlay.value, bare, stable))


def _restored(spec: Json, laid_down: Json, before: Json) -> Json:
    result: Json = {}
    for key, value in laid_down.items():
        if isinstance(value, dict) and value and isinstance(spec.get(key), dict):
            if part := _restored(spec[key], value, _dict(before.get(key))):
                result[key] = part
        elif spec.get(key) == value:
            result[key] = before.get(key)
    return result


def difference(old: Json, new: Json) -> Json:
    """The merge patch that makes `new` of `old`."""
    patch: Json = {key: None for key in old if key not in new}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            if part := difference(old[key], value):
                patch[key] = part
        elif key not in old or old[key] != value:
            patch[key] = value
    return patch


def merged(target: Json, patch: Json, *, keep_nulls: bool = False) -> Json:
    """The target with the patch applied; with `keep_nulls` two patches as one."""
    result = dict(target)
    for key, value in patch.items():
        if isinstance(value, dict):
            result[key] = merged(_dict(result.get(key)), value, keep_nulls=keep_nulls)
        elif value is None and not keep_nulls:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def digest(spec: Json) -> str:
    """Of what the spec says. What restarts it says nothing, nor does an empty map, such as an overlay leaves
    behind where there was none."""
    conf = _dict(spec.get("sparkConf"))
    said = {**spec, "suspend": None, "sparkConf": without(conf, RESUBMITTED_CONF)}
    return hashlib.sha256(orjson.dumps(_full(said), option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def _full(value: Any) -> Any:
    """Without what is empty."""
    if isinstance(value, dict):
        return {key: full for key, part in value.items() if (full := _full(part)) not in _EMPTY}
    return [_full(part) for part in value] if isinstance(value, list) else value


def without(spec: Json, *keys: str) -> Json:
    return {key: value for key, value in spec.items() if key not in keys}


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
