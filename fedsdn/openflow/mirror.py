"""The flows of a bridge that concern us, as its flow monitor tells of them. No I/O."""

from __future__ import annotations

from fedsdn.openflow.flow_monitor import Change, Notice, Update, updates
from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import HookPriority, Table

TABLES = tuple(map(int, Table))
"""The tables whose flows are told."""
_BELOW_HOOK = range(HookPriority.MISS + 1, HookPriority.TENANT + 1)


class Mirror:
    """What one connection has told of: ours, others' in our tables, and others' above our hook."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.flows: dict[Key, WireFlow] = {}
        self.others: dict[Key, WireFlow] = {}
        """Those of them that are not ours."""
        self.changed: set[Key] = set()
        """Which have changed since somebody emptied this."""
        self.others_changed = False
        """Whether others' have, since somebody noted that they have not."""
        self.complete = False
        """Whether all flows that were there at the start have been told."""
        self.paused = False
        """Whether the bridge holds additions and changes back: what is here is old."""

    @property
    def current(self) -> bool:
        """Whether it is as the bridge was when it told last."""
        return self.complete and not self.paused

    def read(self, body: bytes) -> None:
        """Take the body of a message of the monitor.

        Raises:
            ValueError: it is not as Open vSwitch writes it.

        """
        for update in updates(body):
            self._take(update)

    def notice(self, notice: Notice) -> None:
        """Note that the bridge holds back from now on, or that it has told what it held back."""
        self.paused = notice is Notice.PAUSED

    def _take(self, update: Update) -> None:
        flow = update.flow
        key = flow.key
        ours = is_ours(flow)
        if self.others.pop(key, None) is not None:
            self.others_changed = True
        if update.change is Change.DELETED or not (ours or _concerns_us(flow)):
            if self.flows.pop(key, None) is None:
                return
        else:
            self.flows[key] = flow
            if not ours:
                self.others[key] = flow
                self.others_changed = True
        self.changed.add(key)


def _concerns_us(flow: WireFlow) -> bool:
    """Whether another owner's flow does; he may have any number in table 0, below our hook."""
    return flow.table != Table.HOOK or flow.priority not in _BELOW_HOOK


def is_ours(flow: WireFlow) -> bool:
    """Whether its cookie says so."""
    return origin(flow.cookie) is not None
