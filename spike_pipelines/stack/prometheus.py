"""The configuration of a Prometheus that watches a running stack: the appender, every driver, the alerts."""

import io
from pathlib import Path
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from spike_pipelines.driver.metrics import targets_file

RULES = Path(__file__).resolve().parents[2] / "deployments" / "prometheus" / "spike.rules.yaml"
EVERY = "5s"


def configuration(state_dir: Path, appender_url: str, rules: Path = RULES) -> str:
    """As YAML. Drivers are found by their files: one that is started later is scraped without a reload."""
    drivers = str(targets_file(state_dir, "*"))
    config = {
        "global": {"scrape_interval": EVERY, "evaluation_interval": EVERY},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": "spike-appender",
                "static_configs": [{"targets": [urlsplit(appender_url).netloc]}],
            },
            {
                "job_name": "spike-driver",
                "file_sd_configs": [{"files": [drivers], "refresh_interval": EVERY}],
            },
        ],
    }
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(config, text)
    return text.getvalue()
