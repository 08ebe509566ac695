"""The WAN of a lab, one process: it moves frames between TAPs in the sites' namespaces.

``python -m fedsdn.lab.wan SPECIFICATION SOCKET``, where the specification is ``WanSpecification``
as JSON. On the Unix socket it takes one JSON request per line and answers each with one line: the
state of all wires, or ``{"error": ...}``. A request without ``wire`` only asks.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from fedsdn.errors import FedsdnError
from fedsdn.lab.process import detach
from fedsdn.lab.tap import Tap, wire_bytes
from fedsdn.lab.wire import Quality, WireDirection

REQUEST_SECONDS = 60.0
_PRIORITY = -10
_FRAMES_PER_TURN = 32
"""Most frames read from one TAP before the others have their turn."""


@dataclass(frozen=True, slots=True)
class WanEnd:
    """One end of a wire: ``name`` is SITE/UPLINK, ``tap`` a device to make in ``pid``'s network."""

    name: str
    pid: int
    tap: str


@dataclass(frozen=True, slots=True)
class WanWire:
    """A wire between two ends."""

    name: str
    first: WanEnd
    second: WanEnd
    quality: Quality


class _End:
    """A TAP and the direction of the wire that starts at it."""

    def __init__(self, end: WanEnd, quality: Quality) -> None:
        self.name = end.name
        self.tap = Tap(end.pid, end.tap)
        self.outgoing = WireDirection(quality, seed=crc32(end.name.encode()))
        self.other: _End = self
        self.set_quality(quality)

    def set_quality(self, quality: Quality) -> None:
        self.outgoing.quality = quality
        # Losses hit single segments, so super-frames are segmented before.
        self.tap.set_segmentation(offloaded=quality.loss_percent == 0)

    def take_in(self) -> None:
        for _ in range(_FRAMES_PER_TURN):
            frame = self.tap.read()
            if frame is None:
                return
            self.outgoing.send(time.monotonic(), frame, wire_bytes(frame))

    def give_out(self) -> None:
        for frame in self.outgoing.arrived(time.monotonic()):
            self.other.tap.write(frame)


class _Wire:
    def __init__(self, wire: WanWire) -> None:
        self.quality = wire.quality
        self.ends = [_End(end, wire.quality) for end in (wire.first, wire.second)]
        self.ends[0].other, self.ends[1].other = self.ends[1], self.ends[0]
        self.carrier = True

    def change(self, carrier: bool | None = None, **quality: float) -> None:
        self.quality = replace(self.quality, **quality)
        for end in self.ends:
            end.set_quality(self.quality)
            if carrier is not None:
                if carrier:
                    end.outgoing.join()
                else:
                    end.outgoing.cut()
                end.tap.set_carrier(on=carrier)
        self.carrier = self.carrier if carrier is None else carrier

    def state(self) -> dict[str, Any]:
        sent = {end.name: asdict(end.outgoing.counters) for end in self.ends}
        return {"carrier": self.carrier, **asdict(self.quality), "sent": sent}


class _Wan:
    def __init__(self, wires: list[WanWire], listener: socket.socket) -> None:
        self._wires = {wire.name: _Wire(wire) for wire in wires}
        self._ends = [end for wire in self._wires.values() for end in wire.ends]
        # select(2) takes its timeout in microseconds, epoll_wait(2) only in milliseconds.
        self._selector = selectors.SelectSelector()
        for end in self._ends:
            self._selector.register(end.tap, selectors.EVENT_READ, end.take_in)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))

    def run(self) -> None:
        while True:
            for key, _events in self._selector.select(self._idle_seconds()):
                key.data()
            for end in self._ends:
                end.give_out()

    def _idle_seconds(self) -> float | None:
        arrivals = [at for end in self._ends if (at := end.outgoing.next_arrival()) is not None]
        return max(0.0, min(arrivals) - time.monotonic()) if arrivals else None

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.settimeout(1.0)  # whoever connects is root's own command, and sends at once
        with client, client.makefile("rw") as stream:
            try:
                print(json.dumps(self._answer(stream.readline())), file=stream, flush=True)
            except OSError:
                return

    def _answer(self, line: str) -> dict[str, Any]:
        try:
            request = json.loads(line)
            name = request.pop("wire", None)
            if name is not None:
                self._wires[name].change(**request)
        except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            return {"error": f"the WAN process does not understand {line!r}: {error!r}"}
        return {name: wire.state() for name, wire in self._wires.items()}


def ask(control: Path, **request: str | float) -> dict[str, Any]:
    """Send a request to the WAN process that listens at ``control``, and return its answer.

    Raises:
        FedsdnError: nobody answers, or the request was refused.

    """
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(REQUEST_SECONDS)
            client.connect(str(control))
            with client.makefile("rw") as stream:
                print(json.dumps(request), file=stream, flush=True)
                answer: dict[str, Any] = json.loads(stream.readline())
    except (OSError, json.JSONDecodeError) as error:
        raise FedsdnError(
            f"the lab's WAN process does not answer at {control} ({error}): bring the lab up again"
        ) from error
    if "error" in answer:
        raise FedsdnError(answer["error"])
    return answer


def specification(wires: list[WanWire]) -> str:
    """Write wires as the JSON that the process reads."""
    return json.dumps([asdict(wire) for wire in wires])


def _read_specification(text: str) -> list[WanWire]:
    return [
        WanWire(
            name=wire["name"],
            first=WanEnd(**wire["first"]),
            second=WanEnd(**wire["second"]),
            quality=Quality(**wire["quality"]),
        )
        for wire in json.loads(text)
    ]


@contextmanager
def _listening(control: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control))
        listener.listen()
        yield listener


def main() -> None:
    """Make the TAPs and move frames until killed."""
    specification_file, control = map(Path, sys.argv[1:])
    ready = detach()
    with _listening(control) as listener:
        wan = _Wan(_read_specification(specification_file.read_text()), listener)
        # Frames are late by the wire's delay alone, not by the machine's other load.
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
        ready()
        wan.run()


if __name__ == "__main__":
    main()
