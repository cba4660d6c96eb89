"""SIGTERM stops a study between Ray Tune's runs, as in the attacks, however it was started."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from puzzle_study.study.ray.runner import sigterm_as_sigint


@pytest.mark.parametrize(
    "interrupt",
    [pytest.param(signal.default_int_handler, id="terminal"), pytest.param(signal.SIG_IGN, id="script's background")],
)
def test_sigterm_interrupts_and_the_handlers_come_back(interrupt: Callable[..., None] | signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, interrupt), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_as_sigint() as received:
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) == interrupt
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
