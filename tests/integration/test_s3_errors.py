"""How S3's own ways of failing reach the platform. A server on loopback plays S3 where SeaweedFS cannot."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from dagster_aws.s3 import S3Resource

from spike_pipelines.adapters.s3 import S3ObjectStore, connect
from spike_pipelines.adapters.s3_copy import Copy, copy_whole, part_ranges
from spike_pipelines.domain.errors import Refused, Transient

ONCE = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=2)
COPY_FAILED = b"<Error><Code>InternalError</Code><Message>We encountered an internal error</Message></Error>"


def store_at(endpoint, key="k", secret="s"):
    return S3ObjectStore(
        boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=ONCE,
        )
    )


@contextmanager
def playing_s3(status, body=b""):
    """An S3 with one object `a`; every PUT is answered with the status and the body."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(200, b"", {"ETag": '"e"', "Content-Length": "10"})

        def do_PUT(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(status, body, {"Content-Length": str(len(body)), "Content-Type": "application/xml"})

        def answer(self, status, body, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store_at(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.real
def test_a_source_that_changes_before_the_copy_is_refused_by_the_server(s3):
    looked_at = s3.client().put_object(Bucket="spike-lake", Key="etag/a", Body=b"old")["ETag"].strip('"')
    s3.client().put_object(Bucket="spike-lake", Key="etag/a", Body=b"new")
    with pytest.raises(ClientError) as refused:
        copy_whole(s3.client(), Copy("spike-lake", "etag/a", "etag/b", looked_at, 3, {}))
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412


def copy(store):
    return store.copy("bucket", "a", "b", source_etag="e", size=1, metadata={})


def test_a_copy_answered_200_with_an_error_inside_has_failed():
    with (
        playing_s3(200, COPY_FAILED) as store,
        pytest.raises(Transient, match="InternalError"),
    ):
        copy(store)


@pytest.mark.parametrize("status", [409, 429, 500, 503, 507])
def test_a_store_in_trouble_is_transient(status):
    with playing_s3(status) as store, pytest.raises(Transient, match=str(status)):
        copy(store)


def test_a_denied_request_names_the_credentials():
    with (
        playing_s3(403) as store,
        pytest.raises(Transient, match="AWS_ACCESS_KEY_ID"),
    ):
        copy(store)


def test_a_request_that_can_never_succeed_is_refused():
    with playing_s3(400) as store, pytest.raises(Refused, match="400"):
        copy(store)


def test_a_store_that_is_down_is_transient():
    with pytest.raises(Transient, match="does not answer"):
        store_at("http://127.0.0.1:1").head("bucket", "a")


def test_no_credentials_at_all_are_named(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(Transient, match="no credentials"):
        S3ObjectStore(connect("http://127.0.0.1:1")).head("bucket", "a")


@pytest.mark.real
def test_wrong_credentials_are_named(s3):
    with pytest.raises(Transient, match="AWS_SECRET_ACCESS_KEY"):
        list(store_at(s3.endpoint, s3.access_key, "wrong").list("spike-lake", ""))


@pytest.mark.real
def test_a_failed_multipart_copy_leaves_no_upload_behind(s3):
    client = s3.client()
    store = S3ObjectStore(client, max_copy=10, part=5 * 1024 * 1024)
    put = store.put("spike-lake", "parts/a", b"x" * 100)
    store.copy("spike-lake", "parts/a", "parts/b", source_etag=put.etag, size=100, metadata={})
    with pytest.raises(Exception, match="parts/b is there"):
        store.copy("spike-lake", "parts/a", "parts/b", source_etag=put.etag, size=100, metadata={})
    assert client.list_multipart_uploads(Bucket="spike-lake").get("Uploads", []) == []


@pytest.mark.parametrize(("size", "part"), [(1, 10), (10, 10), (11, 10), (25, 10), (10**9, 1)])
def test_parts_cover_every_byte_once_and_are_not_too_many(size, part):
    ranges = part_ranges(size, part)
    assert [first for first, _ in ranges] == [0, *(last + 1 for _, last in ranges[:-1])]
    assert ranges[-1][1] == size - 1
    assert len(ranges) <= 10_000


@pytest.mark.real
def test_the_client_of_dagster_aws_serves_as_well(s3):
    resource = S3Resource(
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
    )
    store = S3ObjectStore(resource.get_client())
    put = store.put("spike-lake", "dagster/a", b"body")
    assert store.head("spike-lake", "dagster/a") == put
