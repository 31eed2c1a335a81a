"""Drivers that share a machine: one that runs gives way to one that starts, which is behind already."""

import os
from contextlib import suppress
from pathlib import Path

NICE = 5  # weighs about a third of a process that starts (sched(7)): enough to go on with


def give_way() -> None:
    """Lower this process, its JVM and their threads: the process group, and its session's autogroup, which
    is what Linux shares the cores out to where it is switched on. Only ever down, so nobody forbids it.

    Nothing without a session of its own: it would lower its neighbours, and in a pod there are none."""
    if os.getpid() != os.getsid(0):
        return
    os.setpriority(os.PRIO_PGRP, 0, NICE)
    with suppress(OSError):  # another system, or no autogroups
        Path("/proc/self/autogroup").write_text(str(NICE), encoding="ascii")
