"""The examples of the state machine, shared out to processes: each has a core, and examples of its own."""

import gc
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from model_machine import Protocol

SHARDS = 2  # always as many, so that the examples are always the same


@dataclass(frozen=True, slots=True)
class Attack:
    """`examples` in all, of `steps` rules each; `repeatable` ones are the same in every run."""

    examples: int
    steps: int = 20
    repeatable: bool = True


def run(attack: Attack) -> list[str]:
    """What was found, as text for a person; nothing if all holds."""
    with ProcessPoolExecutor(SHARDS, mp_context=get_context("spawn")) as pool:
        found = pool.map(_shard, [attack] * SHARDS, range(SHARDS))
        return [report for report in found if report]


def _shard(attack: Attack, number: int) -> str | None:
    gc.freeze()  # what is imported by now lives on, and examples leave little behind
    gc.set_threshold(100_000)
    machine = type("Protocol", (Protocol,), {})
    try:
        run_state_machine_as_test(
            seed(number)(machine) if attack.repeatable else machine, settings=_settings(attack)
        )
    except BaseException as error:  # noqa: BLE001 - a violation, or several of them: the parent fails
        return "".join(traceback.format_exception(error))
    return None


def _settings(attack: Attack) -> settings:
    return settings(
        max_examples=attack.examples // SHARDS,
        stateful_step_count=attack.steps,
        derandomize=attack.repeatable,
        deadline=None,
        print_blob=True,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
        ],
    )
