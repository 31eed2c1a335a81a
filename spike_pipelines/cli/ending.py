"""Being told to end: Ctrl-C, SIGTERM and a terminal that is closed are all the same."""

import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_end(handler: Callable[[int, FrameType | None], None]) -> None:
    """`nohup` asks to outlive the terminal, and is obeyed."""
    for number in SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def interrupt_once() -> None:
    """The first one raises `KeyboardInterrupt`, so that what was started is ended on the way out. More of
    them change nothing, not even in the commands that are started for that."""

    def interrupt(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    on_end(interrupt)
