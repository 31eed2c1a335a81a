"""Fetching Java and jars, from a server on loopback."""

import functools
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
from collections import Counter
from pathlib import Path

import cjdk
import pytest
from loopback_server import Server

from spike_pipelines.stack import certificates, jars
from spike_pipelines.stack.errors import DownloadFailed, NoJava
from spike_pipelines.stack.jars import Jar, fetched, locked
from spike_pipelines.stack.java import find_java

JAVA = '#!/bin/sh\necho "openjdk version \\"{version}\\" 2025-04-15" >&2\n'


@pytest.fixture
def server():
    with Server() as server:
        yield server


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch, server):
    """No Java, no caches, no configuration of the user; Maven and the JDK index are on loopback."""
    for name in ("JAVA_HOME", "M2_REPO", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CJDK_CACHE_DIR", str(tmp_path / "cjdk"))
    monkeypatch.setenv("CJDK_INDEX_URL", f"{server.url}/index.json")
    monkeypatch.setenv("CJDK_HIDE_PROGRESS_BARS", "1")
    # cjdk insists on https, except with its own switch for tests.
    insecure = functools.partial(cjdk.java_home, _allow_insecure_for_testing=True)
    monkeypatch.setattr(cjdk, "java_home", insecure)
    config = tmp_path / "home" / ".config" / "jgo.conf"
    config.parent.mkdir(parents=True)
    config.write_text(f"[repositories]\ncentral = {server.url}/maven\n")


def install_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(JAVA.format(version=version))
    program.chmod(0o755)
    return home


def jdk_archive(version: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("jdk/bin/java")
        content = JAVA.format(version=version).encode()
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def jdk_index(server):
    place = f"tgz+{server.url}/jdk.tar.gz"
    arches = {arch: {"jdk@adoptium": {"1.17.0.15": place}} for arch in ("amd64", "arm64")}
    server.files["/index.json"] = json.dumps({"linux": arches, "darwin": arches}).encode()
    server.files["/jdk.tar.gz"] = jdk_archive("17.0.15")


def test_java_home_comes_first(tmp_path, monkeypatch):
    install_java(tmp_path, "21.0.1")  # on the PATH
    monkeypatch.setenv("JAVA_HOME", str(install_java(tmp_path / "home-17", "17.0.2")))
    assert find_java() == tmp_path / "home-17"


def test_java_on_the_path_is_used_where_java_home_is_too_old(tmp_path, monkeypatch):
    install_java(tmp_path, "17")
    monkeypatch.setenv("JAVA_HOME", str(install_java(tmp_path / "home-8", "1.8.0_292")))
    assert find_java() == tmp_path


@pytest.mark.parametrize("too_new", ["22", "25.0.3"])
def test_java_on_the_path_is_used_where_java_home_is_too_new(tmp_path, monkeypatch, too_new):
    install_java(tmp_path, "21.0.1")
    monkeypatch.setenv("JAVA_HOME", str(install_java(tmp_path / "home-new", too_new)))
    assert find_java() == tmp_path


def test_java_is_fetched_where_all_there_is_is_too_new(tmp_path, jdk_index, server):
    install_java(tmp_path, "25.0.3")
    assert find_java() != tmp_path
    assert server.asked.count("/jdk.tar.gz") == 1


def test_java_is_fetched_once_where_there_is_none(jdk_index, server):
    home = find_java()
    assert (home / "bin" / "java").exists()
    assert find_java() == home
    assert server.asked.count("/jdk.tar.gz") == 1


@pytest.mark.parametrize(("version", "major"), [("11.0.2", 11), ("25.0.3", 25)])
def test_no_java_at_all_is_an_error_that_says_what_was_tried_and_what_to_install(
    tmp_path, server, version, major
):
    install_java(tmp_path, version)
    with pytest.raises(
        NoJava,
        match=rf"need Java 17 to 21: the PATH .* has Java {major}; and fetching .*apt install openjdk-17",
    ):
        find_java()


@pytest.fixture
def lock(tmp_path, monkeypatch, server):
    """A lock file of two jars that the server has."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setattr(jars, "LOCKS", folder)
    lines = []
    for name in ("one", "two"):
        body = name.encode() * 1000
        server.files[f"/maven/org/x/{name}/1.0/{name}-1.0.jar"] = body
        lines.append(f"org.x:{name}:1.0 sha256:{hashlib.sha256(body).hexdigest()}\n")
    (folder / "test.txt").write_text("".join(lines))
    return folder / "test.txt"


def test_jars_are_fetched_once_and_then_no_network_is_asked(lock, server):
    found = fetched("test")
    assert [jar.read_bytes()[:3] for jar in found] == [b"one", b"two"]
    server.asked.clear()
    assert fetched("test") == found
    assert not server.asked


def test_folder_of_jars_has_nothing_else_in_it(lock):
    found = fetched("test")
    assert sorted(found[0].parent.iterdir()) == sorted(found)


def test_jar_with_other_content_is_refused_and_not_kept(lock, server):
    server.files["/maven/org/x/two/1.0/two-1.0.jar"] = b"something else"
    with pytest.raises(DownloadFailed, match=r"org.x:two:1.0 could not be fetched: .* expected"):
        fetched("test")
    assert [path.name for path in (jars.cache_dir() / "jars").glob("*/*")] == ["one-1.0.jar"]


def test_fetch_that_was_cut_short_goes_on_where_it_was(lock, server):
    body = server.files.pop("/maven/org/x/two/1.0/two-1.0.jar")
    with pytest.raises(DownloadFailed, match=r"404.*Check the network"):
        fetched("test")
    server.files["/maven/org/x/two/1.0/two-1.0.jar"] = body
    fetched("test")
    assert server.asked.count("/maven/org/x/one/1.0/one-1.0.jar") == 1


def test_jar_in_the_local_maven_cache_is_taken_if_it_is_the_right_one(lock, server):
    repository = Path.home() / ".m2" / "repository"
    one, two = locked("test")
    for jar, body in ((one, b"one" * 1000), (two, b"damaged")):
        (repository / jar.path).parent.mkdir(parents=True)
        (repository / jar.path).write_bytes(body)
    fetched("test")
    assert server.asked == [f"/maven/{two.path}"]


def test_downloads_trust_the_machines_authorities_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(certificates, "system_store", lambda: "/etc/authorities")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with certificates.system_certificates():
        assert os.environ["REQUESTS_CA_BUNDLE"] == "/etc/authorities"
    assert "REQUESTS_CA_BUNDLE" not in os.environ
    monkeypatch.setenv("CURL_CA_BUNDLE", "/mine")
    with certificates.system_certificates():
        assert "REQUESTS_CA_BUNDLE" not in os.environ


def test_two_processes_at_once_fetch_each_jar_once(lock, server):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(fetched, ["test", "test"])
    assert first == second
    assert set(Counter(server.asked).values()) == {1}


def test_lock_names_versions_that_belong_together():
    spark = {jar.artifact: jar.version for jar in locked("spark")}
    assert spark["spark-sql-kafka-0-10_2.13"] == spark["spark-hadoop-cloud_2.13"] == "4.1.1"
    assert "bundle" not in spark
    assert {jar.version for jar in locked("spark") if jar.group == "software.amazon.awssdk"} == {"2.29.52"}


def test_jar_is_looked_for_where_maven_repositories_keep_it():
    jar = Jar.parse("org.apache.kafka:kafka_2.13:4.1.1 sha256:ab\n")
    assert jar.path == "org/apache/kafka/kafka_2.13/4.1.1/kafka_2.13-4.1.1.jar"
