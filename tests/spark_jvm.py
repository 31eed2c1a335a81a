"""A JVM for each group of Spark tests.

PySpark keeps one JVM for the life of a process, with the memory, jars and environment that its first
session was started with; a later session of another kind in it fails in ways that say nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark import SparkContext
from pyspark.sql import SparkSession

END_SECONDS = 30


@contextmanager
def own_jvm(start: Callable[[], SparkSession]) -> Iterator[SparkSession]:
    """The session that `start` makes, in a JVM that nobody used before and that ends with the block."""
    assert SparkContext._gateway is None, "a JVM is left from before: its tests must use own_jvm too"
    session = start()
    gateway = SparkContext._gateway
    try:
        yield session
    finally:
        session.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # PySpark's JVM ends when its standard input does
        gateway.proc.wait(END_SECONDS)
        SparkContext._gateway = SparkContext._jvm = None
