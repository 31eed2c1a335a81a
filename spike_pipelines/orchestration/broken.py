"""Application files that describe no spike, where a person looks: an asset each, with a failing check."""

from collections.abc import Iterator, Mapping

import dagster as dg

from spike_pipelines.orchestration.assets import broken_key

CHECK = "application_file"


def broken_specs(broken: Mapping[str, str]) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            broken_key(name),
            group_name="spikes",
            kinds={"yaml"},
            description=f"The application file of {name} is broken: nobody supervises it.\n\n{problem}",
        )
        for name, problem in sorted(broken.items())
    ]


def broken_checks(broken: Mapping[str, str]) -> list[dg.AssetChecksDefinition]:
    """The check fails with the file's problems; once they are mended, reloading the code removes it."""
    if not broken:
        return []
    by_key = {broken_key(name): problem for name, problem in broken.items()}
    specs = [dg.AssetCheckSpec(CHECK, asset=key, description="The file describes a spike") for key in by_key]

    @dg.multi_asset_check(name="application_file_checks", specs=specs, can_subset=True)
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        for selected in sorted(context.selected_asset_check_keys):
            yield dg.AssetCheckResult(
                passed=False,
                asset_key=selected.asset_key,
                check_name=CHECK,
                description=by_key[selected.asset_key],
            )

    return [check]
