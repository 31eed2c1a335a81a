"""Which certificate authorities downloads trust: the machine's, as its own tools do.

`requests`, below jgo and cjdk, brings a list of its own; behind a company's proxy, which signs with an
authority that only the machine knows, every download would fail.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "REQUESTS_CA_BUNDLE"


def system_store() -> str | None:
    """OpenSSL's file or folder of authorities; None where this machine has neither."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath


@contextmanager
def system_certificates() -> Iterator[None]:
    """For the time of the block, unless the user chose otherwise."""
    store = system_store()
    if store is None or any(name in os.environ for name in (VARIABLE, "CURL_CA_BUNDLE")):
        yield
        return
    os.environ[VARIABLE] = store
    try:
        yield
    finally:
        del os.environ[VARIABLE]
