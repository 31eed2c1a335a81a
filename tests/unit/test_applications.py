"""Application files: what they give, and how each mistake is told."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spike_pipelines.adapters.application_copy import copy_application
from spike_pipelines.adapters.applications import load_application, load_applications, read_applications
from spike_pipelines.cli.main import app
from spike_pipelines.domain.errors import InvalidSpec
from spike_pipelines.domain.spike import Location, Resources, Start

SHIPPED = Path(__file__).parents[2] / "deployments" / "applications"
PAYOUT = "crt-payout-v1-1.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(SHIPPED, tmp_path / "applications")


@pytest.fixture
def edit(folder: Path):
    """Replace text in the payout file; gives its path and the lines it now has."""

    def change(*pairs: tuple[str, str]) -> Path:
        path = folder / f"{PAYOUT}.yaml"
        text = path.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)
        return path

    return change


def problems(path: Path) -> list[str]:
    with pytest.raises(InvalidSpec) as caught:
        load_application(path)
    return str(caught.value).splitlines()


def line_of(path: Path, text: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_the_four_shipped_applications_load_in_order_of_name():
    assert [spike.name for spike in load_applications(SHIPPED)] == [
        "cct-adtracking-failure-v1-1.1",
        "cct-adtracking-success-v1-1.0",
        "crt-payout-v1-1.0",
        "crt-session-v1-1.0",
    ]


def test_every_key_reaches_the_spike():
    spike = load_application(SHIPPED / f"{PAYOUT}.yaml")
    assert spike.topic == "crt.payout"
    assert spike.start is Start.EARLIEST
    assert spike.schema.startswith("payout_id STRING NOT NULL,")
    assert spike.transform == "spike_pipelines.transforms.payout:normalise"
    assert spike.filter is None
    assert spike.trigger == timedelta(seconds=10)
    assert (spike.max_offsets_per_trigger, spike.max_staged_batches) == (100_000, 4)
    assert spike.driver == Resources(1, "512m")
    assert spike.executor == Resources(1, "1g", instances=1)
    assert spike.staging == Location("spike-lake", "staging")
    assert spike.final == Location("spike-lake", "final")
    assert (spike.dataset.name, spike.dataset.start) == ("payout", datetime(2026, 1, 1, tzinfo=UTC))
    assert spike.dataset.lateness == timedelta(minutes=10)
    assert spike.objectives.lag == timedelta(seconds=30)
    assert spike.topic_has_gaps is False


def test_the_lateness_is_an_hour_where_nothing_is_said(edit):
    path = edit(("  lateness: 10m", "  # lateness"))
    assert load_application(path).dataset.lateness == timedelta(hours=1)


def test_version_changes_with_whatever_the_file_says(edit):
    before = load_application(SHIPPED / f"{PAYOUT}.yaml").version
    after = load_application(edit(("trigger: 10s", "trigger: 11s"))).version
    assert before != after
    assert len(after) == 12


def test_version_stays_when_the_file_says_the_same_in_other_words(edit):
    """A mended comment is no reason to restart a driver."""
    before = load_application(SHIPPED / f"{PAYOUT}.yaml").version
    path = edit(("# What publishers", "# WHAT publishers"), ("trigger: 10s", "trigger: '10s' # often"))
    assert load_application(path).version == before


def test_start_may_be_a_time(edit):
    path = edit(("start: earliest", "start: 2026-03-01T12:00:00+01:00"))
    assert load_application(path).start == datetime(2026, 3, 1, 11, tzinfo=UTC)


def test_misspelt_key_is_refused_with_its_line_the_likely_one_and_all_allowed(edit):
    path = edit(("schema: |", "shcema: |"))
    told = problems(path)
    line = line_of(path, "shcema")
    assert any(
        p.startswith(
            f"{path}:{line}: unknown key 'shcema' in the application; did you mean 'schema'? allowed: name,"
        )
        for p in told
    )
    assert not any("is missing" in p for p in told)


def test_misspelt_nested_key_names_the_keys_of_its_own_part(edit):
    path = edit(("  maxStagedBatches", "  maxStaged"))
    assert (
        f"{path}:{line_of(path, 'maxStaged')}: unknown key 'maxStaged' in limits; did you mean "
        "'maxStagedBatches'? allowed: maxOffsetsPerTrigger, maxStagedBatches"
    ) in problems(path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("trigger: 10s", "trigger: 10", "trigger: '10' is not a duration"),
        ("trigger: 10s", "trigger: 0s", "trigger: '0s' is not a duration"),
        ("trigger: 10s", "trigger: availableNow", "trigger: 'availableNow' is not a duration"),
        ("lag: 30s", "lag: 30 seconds", "objectives.lag: '30 seconds' is not a duration"),
        ("memory: 512m", "memory: 512MB", "driver.memory: '512MB' is not an amount of memory"),
        ("memory: 512m", "memory: 300m", "too little for a Spark driver"),
        ("cores: 1", 'cores: "1"', "driver.cores: input should be a valid integer"),
        ("cores: 1", "cores: 0", "driver.cores: input should be greater than or equal to 1"),
        ("s3://spike-lake/final", "s3a://spike-lake/final", "the scheme is s3://, not s3a://"),
        (
            "s3://spike-lake/final",
            "s3://spike-lake/../x",
            "final: 's3://spike-lake/../x' is not a place in S3",
        ),
        ("s3://spike-lake/final", "s3://other/final", "staging and final are in two buckets"),
        ("s3://spike-lake/final", "s3://spike-lake/staging/final", "lie within one another"),
        ("topic: crt.payout", "topic: crt payout", "topic: 'crt payout' is not a Kafka topic"),
        ("topic: crt.payout", "topic: 7", "topic: input should be a valid string"),
        ("start: earliest", "start: yesterday", "or earliest, or latest"),
        ("start: 2026-01-01T00:00:00Z", "start: 2026-01-01", "has no time zone"),
        ("name: payout", "name: Pay-out", "dataset.name: 'Pay-out' is not a table name"),
        ("lateness: 10m", "lateness: 10", "dataset.lateness: '10' is not a duration"),
        ("lateness: 10m", "latenes: 10m", "unknown key 'latenes' in dataset; did you mean 'lateness'?"),
        ("warn: 20s", "warn: 40s", "warn is longer than lag"),
        ("hang: 60s", "hang: 10s", "objectives.hang must be longer than trigger"),
        ("payout:normalise", "payout.normalise", "is not a function"),
        ("method STRING", "method STIRNG", "column 'method': type STIRNG is not supported"),
        ("method STRING", "kafka_offset BIGINT", "the platform adds itself"),
        (f"name: {PAYOUT}", "name: crt-payout-v9-1.0", f"but the file is {PAYOUT}.yaml"),
        ("limits:\n", "limits: 3\nx:\n", "limits: must be a mapping with the keys maxOffsetsPerTrigger"),
    ],
)
def test_wrong_value_is_refused_with_what_would_be_right(edit, old, new, told):
    assert told in "\n".join(problems(edit((old, new))))


def test_error_in_the_schema_has_the_line_and_column_of_the_file(edit):
    path = edit(("  method STRING", "  method STIRNG"))
    line = line_of(path, "STIRNG")
    column = path.read_text().splitlines()[line - 1].index("STIRNG") + 1
    assert problems(path)[0].startswith(f"{path}:{line}: schema, column {column}: column 'method'")


def test_all_problems_of_a_file_are_told_at_once(edit):
    path = edit(
        ("trigger: 10s", "trigger: soon"), ("topic: crt.payout", "topic: '?'"), ("warn: 20s", "warm: 20s")
    )
    assert len(problems(path)) == 3


def test_key_that_is_there_twice_names_both_lines(edit):
    path = edit(("trigger: 10s", "trigger: 10s\ntopic: other"))
    first, second = line_of(path, "topic: crt.payout"), line_of(path, "topic: other")
    assert problems(path) == [f"{path}:{second}: key 'topic' is there twice: keep this or line {first}"]


def test_anchors_are_refused(edit):
    path = edit(("staging: s3:", "staging: &s s3:"), ("final: s3://spike-lake/final", "final: *s"))
    assert "anchors and aliases are not read" in problems(path)[0]


@pytest.mark.parametrize("text", ["a: [1", "\tx: 1", "", "- a", "a: b: c"])
def test_what_is_no_mapping_is_refused_with_a_line(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert all(p.startswith(f"{path}:") for p in problems(path))


def test_problems_of_all_files_are_told_at_once(folder):
    for path in folder.glob("crt-*.yaml"):
        path.write_text(path.read_text().replace("lag:", "leg:"))
    (folder / "extra.yml").write_text("")
    with pytest.raises(InvalidSpec) as caught:
        load_applications(folder)
    assert all(name in str(caught.value) for name in ("crt-payout", "crt-session", "extra.yml"))


def test_two_files_with_one_table_are_refused(folder, edit):
    path = edit(("  name: payout", "  name: session_dead_letters"))
    with pytest.raises(InvalidSpec, match="writes table session_dead_letters, and so does crt-"):
        load_applications(folder)
    assert load_application(path)


def test_two_names_that_are_one_in_kubernetes_are_refused(folder):
    text = (folder / f"{PAYOUT}.yaml").read_text().replace("name: payout", "name: payout2")
    (folder / "crt-payout-v1-1-0.yaml").write_text(text.replace(PAYOUT, "crt-payout-v1-1-0"))
    with pytest.raises(InvalidSpec, match="becomes crt-payout-v1-1-0, and so does"):
        load_applications(folder)


def test_one_files_mistake_hides_no_other_spike(folder):
    (folder / f"{PAYOUT}.yaml").write_text("name: [")
    found = read_applications(folder)
    assert len(found.spikes) == 3
    assert list(found.broken) == [PAYOUT]


def test_missing_folder_says_which_setting_names_it(tmp_path):
    with pytest.raises(InvalidSpec, match="SPIKE_APPLICATIONS_DIR"):
        load_applications(tmp_path / "none")


def test_copy_keeps_comments_and_has_a_topic_and_dataset_of_its_own(folder):
    path = copy_application(folder, name="crt-refund-v1-1.0", like=PAYOUT, topic=None)
    spike = load_application(path)
    assert (spike.topic, spike.dataset.name) == ("crt.refund", "crt_refund")
    ours, theirs = path.read_text().splitlines(), (folder / f"{PAYOUT}.yaml").read_text().splitlines()
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) == 4
    assert len(load_applications(folder)) == 5


def test_copy_of_a_file_with_a_block_description_is_a_file_too(folder, edit):
    edit(
        (
            "description: Payouts to publishers with their lines, taxes and state.",
            "description: >\n  Two\n  lines.",
        )
    )
    path = copy_application(folder, name="crt-refund-v1-1.0", like=PAYOUT, topic="refunds")
    assert load_application(path).topic == "refunds"


def test_copy_takes_the_whole_name_where_the_short_table_name_is_taken(folder):
    copy_application(folder, name="crt-refund-v1-1.0", like=PAYOUT, topic=None)
    path = copy_application(folder, name="crt-refund-v2-1.0", like=PAYOUT, topic=None)
    assert load_application(path).dataset.name == "crt_refund_v2_1_0"


@pytest.mark.parametrize(
    ("name", "like", "topic", "told"),
    [
        (PAYOUT, PAYOUT, None, "exists already"),
        ("crt-payout-v1-1-0", PAYOUT, None, "in Kubernetes"),
        ("Bad", PAYOUT, None, "is not a name"),
        ("../bad", PAYOUT, None, "is not a name"),
        ("bad-", PAYOUT, None, "is not a name"),
        ("x", "y", None, "there are: cct-adtracking-failure"),
        ("x", PAYOUT, "a b", "is not a Kafka topic"),
        ("x", PAYOUT, "x\nfinal: s3://evil/x", "is not a Kafka topic"),
    ],
)
def test_copy_that_would_not_load_is_refused_and_nothing_is_written(folder, name, like, topic, told):
    before = {path: path.read_text() for path in folder.iterdir()}
    with pytest.raises(InvalidSpec, match=told):
        copy_application(folder, name=name, like=like, topic=topic)
    assert {path: path.read_text() for path in folder.iterdir()} == before


@pytest.fixture
def cli(folder, monkeypatch):
    monkeypatch.setenv("SPIKE_APPLICATIONS_DIR", str(folder))
    return lambda *args: CliRunner().invoke(app, args)


def test_spike_new_prints_the_next_steps_with_events_like_the_source(cli):
    told = cli("new", "crt-refund-v1-1.0", "--from", PAYOUT)
    assert told.exit_code == 0
    assert "spike produce --topics crt.refund=crt.payout" in told.stdout


def test_spike_new_refuses_with_exit_code_1_and_the_reason_on_stderr(cli):
    told = cli("new", PAYOUT, "--from", PAYOUT)
    assert (told.exit_code, told.stdout) == (1, "")
    assert "exists already" in told.stderr


def test_an_error_is_printed_as_it_is(cli):
    """Rich has pictures for words between colons."""
    told = cli("where", "--offset", "crt.payout:a:1")
    assert "'crt.payout:a:1' is not topic:partition:offset" in told.stderr


def test_spike_applications_lists_them_or_says_what_is_wrong(cli, edit):
    assert "crt.payout" in cli("applications").stdout
    edit(("trigger:", "triger:"))
    told = cli("applications")
    assert told.exit_code == 1
    assert "did you mean 'trigger'?" in told.stderr


KUBERNETES = """
image: registry.local/spark:2
sparkConf: {spark.locality.wait: 0s}
spot: {driver: false}
sparkApplication: {timeToLiveSeconds: 60}
"""


def test_what_only_kubernetes_needs_may_be_there_and_changes_the_version(edit):
    before = load_application(SHIPPED / f"{PAYOUT}.yaml").version
    path = edit(("  memory: 512m\n", "  memory: 512m\n  tolerations: [{key: spot, operator: Exists}]\n"))
    path.write_text(path.read_text() + KUBERNETES)
    assert load_application(path).version != before


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  memory: 512m\n", "  memory: 512m\n  coreLimits: 1\n", "did you mean 'coreLimit'?"),
        ("  memory: 512m\n", "  memory: 512m\n  coreLimit: lots\n", "'lots' is not an amount of CPU"),
        ("  memory: 512m\n", "  memory: 512m\n  tolerations: [{kye: spot}]\n", "did you mean 'key'?"),
        ("trigger: 10s", "trigger: 10s\nsparkConf: {locality: x}", "sparkConf.locality"),
        ("trigger: 10s", "trigger: 10s\nspot: {drivers: true}", "did you mean 'driver'?"),
        ("trigger: 10s", "trigger: 10s\nimagePullPolicy: Sometimes", "imagePullPolicy"),
        *(
            ("trigger: 10s", f"trigger: 10s\n{conf}: {{{key}: s3cr3t}}", f"'{key}' is a secret by its name")
            for conf, key in [
                ("sparkConf", "spark.hadoop.fs.s3a.secret.key"),
                ("sparkConf", "spark.ssl.keyStorePassword"),
                ("sparkConf", "spark.kubernetes.authenticate.oauthToken"),
                ("hadoopConf", "fs.s3a.bucket.lake.access.key"),
                ("hadoopConf", "fs.s3a.session.token"),
                ("hadoopConf", "fs.azure.account.key.lake.dfs.core.windows.net"),
            ]
        ),
    ],
)
def test_a_mistake_in_what_only_kubernetes_needs_is_refused(edit, old, new, told):
    [problem] = problems(edit((old, new)))
    assert told in problem
    assert "s3cr3t" not in problem


@pytest.mark.parametrize(
    "key",
    [
        "spark.kubernetes.authenticate.driver.oauthTokenFile",
        "spark.kubernetes.driver.secretKeyRef.AWS_SESSION_TOKEN",
        "spark.hadoop.fs.s3a.aws.credentials.provider",
    ],
)
def test_a_key_that_names_where_a_secret_is_may_be_there(edit, key):
    load_application(edit(("trigger: 10s", f"trigger: 10s\nsparkConf: {{{key}: name}}")))
