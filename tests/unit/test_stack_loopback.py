"""A proxy in the environment is never asked for what runs on loopback."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import boto3
import httpx
import pytest
from loopback_server import Server

from spike_pipelines.adapters import s3
from spike_pipelines.stack import process
from spike_pipelines.stack.loopback import spare_loopback
from spike_pipelines.stack.part import Part
from spike_pipelines.stack.parts.s3 import PORTS, S3, S3Ports
from spike_pipelines.stack.probes import http as probe

EMPTY = b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"


@pytest.fixture
def server():
    with Server(EMPTY) as server:
        yield server


@pytest.fixture(autouse=True)
def proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "AWS_PROFILE"):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken away again
        monkeypatch.delenv(name)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first request
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with Server(EMPTY) as proxy:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        yield proxy


def test_probes_of_the_stack_ask_no_proxy(server, proxy, tmp_path):
    assert probe(f"{server.url}/readyz") is None
    ports = S3Ports.of({**dict.fromkeys(PORTS, 1), "s3": server.port})
    S3(tmp_path, ports, "a", "b", ()).client().list_buckets()
    assert (len(server.asked), proxy.asked) == (2, [])


@pytest.mark.parametrize("ask", [
    lambda url: s3.connect(url).list_buckets(),
    lambda url: boto3.client("s3", endpoint_url=url, region_name="us-east-1").list_buckets(),
    lambda url: httpx.get(url).raise_for_status(),
    lambda url: urllib.request.urlopen(url).close(),
], ids=["store", "boto3", "httpx", "urllib"])  # fmt: skip
def test_every_client_goes_to_loopback_directly_once_it_is_spared(server, proxy, ask):
    ask(server.url)
    assert proxy.asked.pop()
    assert not server.asked
    spare_loopback(os.environ)
    ask(server.url)
    assert server.asked
    assert not proxy.asked


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, ("127.0.0.1,localhost", "127.0.0.1,localhost")),
        ({"no_proxy": ".corp, localhost"}, (".corp,localhost,127.0.0.1",) * 2),
        ({"NO_PROXY": ".corp"}, (".corp,127.0.0.1,localhost",) * 2),
        ({"no_proxy": "a", "NO_PROXY": "b"}, ("a,127.0.0.1,localhost", "b,127.0.0.1,localhost")),
        ({"no_proxy": "*"}, ("*", None)),
    ],
)
def test_loopback_is_added_to_what_is_there(before, after):
    env = dict(before)
    spare_loopback(env)
    assert (env.get("no_proxy"), env.get("NO_PROXY")) == after
    spare_loopback(env)
    assert (env.get("no_proxy"), env.get("NO_PROXY")) == after


def test_parts_inherit_it(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert process.environment(Part(name="p", command=("true",), cwd=Path("/")))["no_proxy"] == "127.0.0.1"


def test_the_command_spares_loopback_before_anything_else(tmp_path):
    code = (
        "import os; from spike_pipelines.cli.main import app\n"
        "try: app(['applications'])\n"
        "finally: print(os.environ['no_proxy'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines()[-1] == "127.0.0.1,localhost"
