"""The API keeps its own OpenAPI document, whatever is sent: schemathesis makes the requests from it."""

import pytest
import schemathesis
from builders import World, empty
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
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


OPERATIONS = [
    "POST /v1/spikes/{name}/epochs",
    "POST /v1/spikes/{name}/batches",
    "POST /v1/spikes/{name}/heartbeat",
    "GET /v1/spikes/{name}",
    "GET /v1/spikes/{name}/batches",
    "GET /healthz",
    "GET /readyz",
]


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_documented_and_none_is_a_servers_error(openapi, label, mode):
    """`mode` is whether the requests are what the document asks for."""
    method, path = label.split()
    operation = openapi[path][method]
    if mode is GenerationMode.NEGATIVE and not operation.body and not operation.query:
        pytest.skip("nothing can be wrong with it")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case):
        if "name" in case.path_parameters:
            case.path_parameters["name"] = "payouts"  # any other is answered 401 before anything happens
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS)

    holds()


def test_no_operation_is_left_out(openapi):
    found = {result.ok().label for result in openapi.get_all_operations()}
    assert found == set(OPERATIONS)
