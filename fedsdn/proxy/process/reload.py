"""A reload, from the signal until the workers of the program on disk have taken over."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence

from fedsdn.proxy.process.handed_on import HandedOn, Trial, execute
from fedsdn.proxy.process.succession import Succession
from fedsdn.proxy.stats import Statistics

_LOG = logging.getLogger(__name__)

_TRIAL_SECONDS = 60.0
"""How long the program on disk may take to say whether it would run."""


class Reload:
    """What there is of a reload; one at a time, and one more that waits for its end."""

    def __init__(
        self,
        statistics: Statistics,
        signals: Sequence[signal.Signals],
        document: Callable[[], HandedOn],
        refusal: Callable[[], str],
    ) -> None:
        """Begin with none under way.

        ``document`` is what is handed on, with ``signals`` blocked; ``refusal`` says why nothing
        can be, or nothing.
        """
        self._statistics = statistics
        self._signals = signals
        self._document = document
        self._refusal = refusal
        self._wanted = False
        self._trial: Trial | None = None
        self._tried = False
        self._latest = 0.0
        self._late = False
        self._given_up = False
        self.succession: Succession | None = None

    def ask(self) -> None:
        """Reload, when the reload that is under way has ended."""
        self._wanted = True

    def give_up(self) -> None:
        """Begin no succession any more: the proxy stops."""
        self._given_up = True
        if self._trial is not None:
            os.kill(self._trial.pid, signal.SIGKILL)

    def look(self, received: socket.socket) -> None:
        """Go on; somebody looks every second at least. ``received`` brings the signals.

        If the trial was well, this process becomes another program, and nothing returns.
        """
        if self._given_up:
            return
        if self._tried and self._wanted:  # what is on disk may be another program than was tried
            self._tried = False
        if self._tried:
            self._execute(received)
        elif self._trial is not None:
            if time.monotonic() > self._latest:
                self._late = True
                os.kill(self._trial.pid, signal.SIGKILL)
        elif self._wanted and self.succession is None:
            self._wanted = False
            if refusal := self._refusal():
                self.fail(refusal)
                return
            try:
                self._trial = Trial(self._document(), self._signals)
            except OSError as error:
                self.fail(str(error))
            self._latest, self._late = time.monotonic() + _TRIAL_SECONDS, False

    def ended(self, pid: int, status: int) -> bool:
        """Take up that a process has ended; say whether it was the trial."""
        if self._trial is None or self._trial.pid != pid:
            return False
        trial, self._trial = self._trial, None
        failure = trial.result(status)
        if self._given_up:
            pass
        elif self._late:
            seconds = f"{_TRIAL_SECONDS:g} s"
            self.fail(f"the program on disk has not said within {seconds} whether it runs")
        elif failure:
            self.fail(failure)
        else:
            self._tried = True
        return True

    def _execute(self, received: socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            if not select.select([received], [], [], 0)[0]:  # else that comes first
                self._tried = False
                execute(self._document())
        except OSError as error:
            self.fail(str(error))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)

    def fail(self, why: str) -> None:
        """Say that everything goes on as before."""
        self._statistics.reloads_failed += 1
        _LOG.error("not reloaded, going on as before: %s", why)
