"""The appender API, version 1: thin routes over `services.register`."""

import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Response, Security
from fastapi.security import HTTPBearer

from spike_pipelines import __version__, wire
from spike_pipelines.adapters.kafka import KafkaBroker
from spike_pipelines.adapters.ledger import SqlLedger, Tokens
from spike_pipelines.adapters.token_review import ApiServer, ServiceAccounts
from spike_pipelines.appender import errors, metrics
from spike_pipelines.appender.application_folder import ApplicationFolder
from spike_pipelines.appender.body_limit import BodyLimit
from spike_pipelines.appender.gate import NAME, by_form, gated
from spike_pipelines.domain.batch import LIVE_LANE
from spike_pipelines.domain.errors import Held, SpikeError
from spike_pipelines.domain.service_accounts import Trusted
from spike_pipelines.domain.spike import Spike
from spike_pipelines.services.register import EpochToken, Registrar, staging_prefix
from spike_pipelines.settings import Settings

BODY_SECONDS = 15.0
HEARTBEAT_SECONDS = 3.0
IDLE_SECONDS = 20.0
# To wait for who connects, to connect, to ask: the driver, who waits `client.TIMEOUT` in all, is to hear that
# Kafka is silent, and not to think that the appender is.
KAFKA_SECONDS = 4.0
NOTE_SECONDS = 10.0  # between two notes of refused tokens of one spike

_bearer = HTTPBearer(auto_error=False)
log = logging.getLogger(__name__)


class RefusedTokens:
    """Drivers whose token was refused, for people to see: of spikes that there are, each seldom, so that a
    stranger who keeps asking costs next to nothing."""

    def __init__(self, registrar: Registrar, find_spike: Callable[[str], Spike]) -> None:
        self._registrar = registrar
        self._find_spike = find_spike
        self._noted: dict[str, float] = {}  # spike → when, by the monotonic clock

    def note(self, name: str, driver: str) -> None:
        now = time.monotonic()
        if now - self._noted.get(name, -math.inf) < NOTE_SECONDS:
            return
        try:
            spike = self._find_spike(name)
            self._noted[name] = now
            self._registrar.note_refused_token(spike, driver)
        except SpikeError as error:  # the answer is 401, whatever could not be written down
            log.warning(
                "driver %s of %s, whose token is refused, could not be noted: %s", driver, name, error
            )


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application over the real parts that the environment names."""
    settings = settings or Settings.from_env()
    url = settings.require("ledger_url")
    ledger = SqlLedger(url)
    registrar = Registrar(
        ledger=ledger,
        broker=KafkaBroker(settings.require("kafka_bootstrap"), timeout_seconds=KAFKA_SECONDS),
        idle_limit=timedelta(seconds=IDLE_SECONDS),
    )
    find_spike = ApplicationFolder(settings.applications_dir).get
    own = Tokens(url).allows
    if settings.token_audience is None:
        return build(registrar, ledger, find_spike, own)
    trusted = Trusted(settings.namespace, settings.token_audience)
    accounts = ServiceAccounts(ApiServer.of_this_pod(), trusted, not_heard(ledger))
    return build(registrar, ledger, find_spike, by_form(own, accounts.allows))


def not_heard(ledger: SqlLedger) -> Callable[[str], None]:
    """Write down that a driver of this spike could not be let in: that it is not heard is no silence
    of its own. In the ledger, since another replica may be asked."""

    def note(spike: str) -> None:
        try:
            ledger.note_unjudged(spike, "the API server does not say whose token its driver shows")
        except SpikeError as error:  # the driver is told 503 all the same
            log.warning("%s: not noted that its driver could not be let in: %s", spike, error)

    return note


def build(
    registrar: Registrar,
    ledger: SqlLedger,
    find_spike: Callable[[str], Spike],
    allows: Callable[[str, str], bool],
) -> FastAPI:
    """The routes over given parts. `allows(spike, token)` answers whether a bearer token may speak."""
    app = FastAPI(title="Spike appender", version=__version__)
    app.add_middleware(BodyLimit, limit=wire.MAX_BODY_BYTES, seconds=BODY_SECONDS)
    errors.install(app)
    spikes = APIRouter(
        prefix="/v1/spikes/{name}",
        route_class=gated(allows, RefusedTokens(registrar, find_spike).note),
        dependencies=[Security(_bearer)],
        responses=_answers(401, 404, 422, 503),
    )

    def authorised(name: Annotated[str, Path(pattern=f"^{NAME.pattern}$")]) -> Spike:
        """The gate has let the token's bearer in."""
        return find_spike(name)

    _driver_routes(spikes, registrar, authorised)
    _reading_routes(spikes, ledger, authorised)
    app.include_router(spikes)
    _probes(app, ledger)
    return app


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same body for every answer that is not a success."""
    return {status: {"model": wire.ErrorBody} for status in statuses}


_POSTED = _answers(400, 408, 409, 413, 415)  # of any body


def _driver_routes(app: APIRouter, registrar: Registrar, authorised: Callable[..., Spike]) -> None:
    """What drivers call. They retry lost replies, so each call answers a repeat like the first (I7)."""
    Authorised = Annotated[Spike, Depends(authorised)]  # noqa: N806 - it is a type

    @app.post("/epochs", status_code=201, responses=_POSTED)
    def open_epoch(spike: Authorised, body: wire.OpenEpoch) -> wire.EpochGrant:
        try:
            opened = registrar.open_epoch(spike, body.driver, body.after, body.application_version)
        except Held:
            raise  # waiting for another driver is no trouble to write down
        except SpikeError as error:
            registrar.note_refusal(spike, getattr(error, "code", "unavailable"), str(error), body.driver)
            raise
        return wire.EpochGrant(
            epoch=opened.epoch.number,
            nonce=opened.epoch.nonce,
            staging_prefix=staging_prefix(spike, opened.epoch.number),
            offsets=[wire.PartitionOffset.of(p, offset) for p, offset in sorted(opened.offsets.items())],
            heartbeat_seconds=HEARTBEAT_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )

    repeated: dict[int | str, dict[str, Any]] = {
        200: {"model": wire.BatchAccepted, "description": "Registered before"}
    }

    @app.post("/batches", status_code=201, responses=_POSTED | _answers(429) | repeated)
    def register(spike: Authorised, body: wire.PostBatch, response: Response) -> wire.BatchAccepted:
        done = registrar.register(spike, EpochToken(body.epoch, body.nonce), body.as_batch())
        response.status_code = 201 if done.new else 200
        return wire.BatchAccepted(number=done.batch.number, state=done.batch.state)

    @app.post("/heartbeat", responses=_POSTED)
    def heartbeat(spike: Authorised, body: wire.Heartbeat) -> wire.Ok:
        registrar.heartbeat(
            spike,
            EpochToken(body.epoch, body.nonce),
            phase=body.phase,
            problem=body.problem,
            batch_started_at=body.batch_started_at,
            progress_at=body.progress_at,
            read={o.as_partition(): o.offset for o in body.read_offsets},
        )
        return wire.Ok()


def _reading_routes(app: APIRouter, ledger: SqlLedger, authorised: Callable[..., Spike]) -> None:
    Authorised = Annotated[Spike, Depends(authorised)]  # noqa: N806 - it is a type

    @app.get("")
    def status(spike: Authorised) -> wire.SpikeStatus:
        with ledger.begin() as tx:
            epoch = tx.latest_epoch(spike.name)
            positions = tx.positions(spike.name, LIVE_LANE)
            unfinished = tx.unfinished(spike.name, LIVE_LANE)
        return wire.SpikeStatus.of(spike.name, epoch, positions.values(), unfinished)

    @app.get("/batches")
    def batches(
        spike: Authorised, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[wire.BatchStatus]:
        return [wire.BatchStatus.of(b) for b in ledger.last_batches(spike.name, limit)]


def _probes(app: FastAPI, ledger: SqlLedger) -> None:
    started = time.monotonic()

    @app.get("/healthz")
    def healthz() -> wire.Health:
        return wire.Health(up_seconds=time.monotonic() - started)

    @app.get("/readyz", responses=_answers(503))
    def readyz() -> wire.Ok:
        with ledger.begin() as tx:
            tx.now()
        return wire.Ok()

    page = metrics.Page(ledger)

    @app.get("/metrics", include_in_schema=False)
    def prometheus() -> Response:
        return page.response()
