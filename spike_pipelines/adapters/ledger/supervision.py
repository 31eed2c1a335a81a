"""What the supervisor of a fleet on Kubernetes keeps (see `ports.SupervisionLedger`)."""

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from spike_pipelines.adapters.ledger import rows
from spike_pipelines.adapters.ledger import schema as s
from spike_pipelines.adapters.ledger.engine import translated
from spike_pipelines.domain.causes import Trouble
from spike_pipelines.domain.fleet import FLEET
from spike_pipelines.domain.observed import NOT_DONE, Recovery
from spike_pipelines.domain.overlays import Overlay
from spike_pipelines.domain.sightings import Life, Sighting
from spike_pipelines.ports import Manifest, Specs

_AS = "."  # in `specs.hash`: the spec's name as it is deployed, and the digest of what it was when first seen


class SupervisionQueries(ABC):
    """The part of `SqlLedger` that the supervisor on Kubernetes uses."""

    _engine: sa.Engine

    @abstractmethod
    def _read(self) -> AbstractContextManager[sa.Connection]: ...

    def mark_not_done(self, recovery: Recovery) -> None:
        r = s.recoveries
        same = (r.c.spike == recovery.spike, r.c.at == recovery.at, r.c.action == recovery.action)
        with translated(), self._engine.begin() as db:
            db.execute(sa.update(r).where(*same).values(action=f"{recovery.action}{NOT_DONE}"))

    def sightings(self) -> Mapping[str, Sighting]:
        with self._read() as db:
            return _sightings(db)

    def note_sightings(self, sightings: Iterable[Sighting]) -> None:
        with translated(), self._engine.begin() as db:
            _write(db, sightings)

    def last_look(self) -> str | None:
        query = sa.select(s.sightings.c.uid).where(s.sightings.c.spike == FLEET)
        with self._read() as db:
            return db.execute(query).scalar_one_or_none() or None

    def note_look(self, as_of: str, at: datetime, sightings: Iterable[Sighting]) -> None:
        t = s.sightings
        new = insert(t).values(spike=FLEET, uid=as_of, state="looked", since=at, spec_since=at, lives=[])
        newest = new.on_conflict_do_update(
            index_elements=["spike"],
            set_={"uid": new.excluded.uid, "since": new.excluded.since},
            where=t.c.since <= at,
        )
        with translated(), self._engine.begin() as db:
            if db.execute(newest.returning(t.c.spike)).first() is None:
                return
            before = _sightings(db)  # nobody else notes a look until this is done
            _write(db, (seen for seen in sightings if _is_news(seen, before.get(seen.spike), at)))

    def open_overlays(self) -> Mapping[str, tuple[Overlay, ...]]:
        o = s.overlays
        found: dict[str, tuple[Overlay, ...]] = defaultdict(tuple)
        with self._read() as db:
            for row in db.execute(sa.select(o).where(o.c.ended_at.is_(None)).order_by(o.c.id)).mappings():
                found[row["spike"]] += (rows.overlay(row),)
        return dict(found)

    def end_overlays(self, ids: Iterable[int]) -> None:
        o, ended = s.overlays, list(ids)
        if not ended:
            return
        query = sa.update(o).where(o.c.id.in_(ended), o.c.ended_at.is_(None))
        with translated(), self._engine.begin() as db:
            db.execute(query.values(ended_at=sa.func.clock_timestamp()))

    def specs(self) -> Mapping[str, Specs]:
        t = s.specs
        known: dict[str, dict[str, str]] = defaultdict(dict)
        stable: dict[str, str] = {}
        query = sa.select(t.c.spike, t.c.hash, t.c.stable_at)
        with self._read() as db:
            for row in db.execute(query.order_by(t.c.stable_at.nulls_first())):
                spec, _, live = row.hash.partition(_AS)
                known[row.spike][spec] = live
                if row.stable_at is not None:
                    stable[row.spike] = spec
        return {spike: Specs(specs, stable.get(spike)) for spike, specs in known.items()}

    def note_spec(self, spike: str, spec: str, live: str, manifest: Manifest) -> None:
        t = s.specs
        new = insert(t).values(spike=spike, hash=f"{spec}{_AS}{live}", manifest=json.loads(manifest))
        with translated(), self._engine.begin() as db:
            there = db.execute(sa.select(t.c.hash).where(t.c.spike == spike, _is(spec))).first()
            if there is None:
                db.execute(new.on_conflict_do_nothing())

    def mark_stable(self, spike: str, spec: str) -> None:
        t = s.specs
        query = sa.update(t).where(t.c.spike == spike, _is(spec))
        with translated(), self._engine.begin() as db:
            db.execute(query.values(stable_at=sa.func.clock_timestamp()))

    def manifest(self, spike: str, spec: str | None = None) -> Manifest | None:
        t = s.specs
        query = sa.select(t.c.manifest).where(t.c.spike == spike).order_by(t.c.seen_at.desc()).limit(1)
        if spec is not None:
            query = query.where(_is(spec))
        with self._read() as db:
            found = db.execute(query).scalar_one_or_none()
        return None if found is None else Manifest(json.dumps(found))


def _is(spec: str) -> sa.ColumnElement[bool]:
    return s.specs.c.hash.startswith(f"{spec}{_AS}", autoescape=True)


def _sightings(db: sa.Connection) -> Mapping[str, Sighting]:
    query = sa.select(s.sightings).where(s.sightings.c.spike != FLEET)
    return {row.spike: _sighting(row) for row in db.execute(query)}


def _is_news(seen: Sighting, before: Sighting | None, at: datetime) -> bool:
    """Not what somebody has noted otherwise since the look began, as one who ended the spike."""
    return before is None or (before != seen and before.since <= at)


def _write(db: sa.Connection, sightings: Iterable[Sighting]) -> None:
    values = [_values(sighting) for sighting in sightings]
    if not values:
        return
    new = insert(s.sightings)
    changed = {c.name: new.excluded[c.name] for c in s.sightings.c if c.name != "spike"}
    db.execute(new.on_conflict_do_update(index_elements=["spike"], set_=changed), values)


def _values(sighting: Sighting) -> dict[str, object]:
    return {
        "spike": sighting.spike,
        "uid": sighting.uid,
        "state": sighting.state_text,
        "since": sighting.since,
        "spec_hash": sighting.spec_hash,
        "spec_since": sighting.spec_since,
        "lives": [[li.submission, li.seen_at.isoformat(), li.ending, li.uid] for li in sighting.lives],
    }


def _sighting(row: sa.Row[tuple[object, ...]]) -> Sighting:
    lives = tuple(_life(*life) for life in row.lives)
    return Sighting(row.spike, row.uid, row.state, row.since, row.spec_hash, row.spec_since, lives)


def _life(submission: str, seen_at: str, ending: str | None = None, uid: str | None = None) -> Life:
    return Life(submission, datetime.fromisoformat(seen_at), Trouble(ending) if ending else None, uid)
