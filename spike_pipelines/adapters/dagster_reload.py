"""Have Dagster load a code location again: its assets follow the application files from then on."""

from urllib.parse import urlsplit

import requests

LOCATION = "spike-pipelines"  # as dagster-values.yaml calls it
SECONDS = 60


def reload_location(url: str | None, location: str = LOCATION) -> str | None:
    """Why it was not reloaded; None if it was, or there is no Dagster that anybody named. A deployment does
    not fail for it: the next one, or a person, reloads as well."""
    if url is None:
        return None
    # Brings all of Dagster along, which no other command of the shell needs: a second for each of them.
    from dagster_graphql import (  # noqa: PLC0415
        DagsterGraphQLClient,
        DagsterGraphQLClientError,
        ReloadRepositoryLocationStatus,
    )

    parts = urlsplit(url)
    if parts.hostname is None:
        return f"{url} is no address: write it as in http://dagster-webserver.dagster.svc"
    try:
        client = DagsterGraphQLClient(
            parts.hostname,
            parts.port,
            use_https=parts.scheme == "https",
            timeout=SECONDS,
            path_prefix=parts.path.strip("/"),
        )
        done = client.reload_repository_location(location)
    except (DagsterGraphQLClientError, requests.RequestException, OSError) as error:
        return f"{url} did not reload {location}: {error}"
    if done.status is ReloadRepositoryLocationStatus.SUCCESS:
        return None
    return f"{url} did not reload {location}: {done.message or done.failure_type}"
