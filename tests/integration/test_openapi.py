"""The API keeps its own OpenAPI document, whatever is sent: schemathesis makes the requests from it."""

import pytest
import schemathesis
from builders import World, empty
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from spike_pipelines.adapters.ledger import Tokens, register_token
from spike_pipelines.appender.app import build

pytestmark = pytest.mark.real
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
TOKEN = "token-of-payouts"


@pytest.fixture(scope="module")
def openapi(session_ledger, ledger_url):
    empty(session_ledger)
    world = World(session_ledger)
    spike = world.spike()
    world.driver(spike).stage()
    register_token(ledger_url, spike.name, TOKEN)
    tokens = Tokens(ledger_url)
    app = build(world.registrar, session_ledger, world.spikes.__getitem__, tokens.allows)
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    tokens.close()


schema = schemathesis.pytest.from_fixture("openapi")


@schema.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented_and_none_is_a_servers_error(case):
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "payouts"  # another one is answered 401 before anything else happens
    case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS)
