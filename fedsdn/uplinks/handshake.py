"""Which start of a peer's application is the one that runs: proven by answers, not by clocks.

An application draws a number by lot when it starts, its epoch, which is in all its probes. What was
recorded of an earlier epoch, or of this one, must not count when it is sent again. So a probe of an
epoch that is not the peer's proven one is only asked back on its path, in a greeting with the
moment of our clock; the application that runs there answers with that moment at once::

      this site                                     the peer, started again
                           <---------- epoch 7, round 1
      greets epoch 7, asks 5.2 ----------> names epoch 7: this site is proven there
                           <---------- greets, answers 5.2
      epoch 7 is proven by 5.2

A peer of which no epoch is proven here proves its own by any probe that names ours, as ours was
drawn by lot when we started. In place of a proven epoch another one comes only by an answer to a
*later* question than the one that was answered before, or, if it was proven without one, than that
moment. As a peer's epochs do not overlap, a later epoch can answer later questions than an earlier
one: whatever of an earlier epoch was held back, it answers questions that were asked before the
later one was seen. So epochs only go forward. A site that becomes a peer while we run may have been
one before, and its probes recorded: it has to answer a question that was asked since.

A greeting is a probe of no round. It says how many rounds its sender has sent before: those do not
count afterwards either, whoever sends them again. Nothing is kept of an epoch that is not proven,
and a greeting is sent for each of its probes, so that who sends old ones again, however many,
displaces nothing, and gains nothing: it is no more than he sent, and goes to the peer alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.uplinks.probe import Probe


def moment(now: float) -> int:
    """Return a time of our clock in µs, as a greeting asks with it."""
    return int(now * 1e6)


@dataclass(frozen=True, slots=True)
class Handshake:
    """The peer's ``epoch`` that is proven; 0: none is yet.

    Only answers to questions after ``asked``, in µs of our clock, prove another one; 0: none is
    needed. ``sent`` is the last round that it had sent before.
    """

    epoch: int = 0
    asked: int = 0
    sent: int = 0

    def is_proof(self, probe: Probe, epoch: int, now: float) -> bool:
        """Whether a probe proves its epoch to us, whose own is ``epoch``."""
        if probe.heard_epoch != epoch:
            return False
        return not self.asked or self.asked < probe.answers <= moment(now)

    def after(self, proof: Probe, now: float) -> Handshake:
        """Go over to the epoch that a probe proves."""
        sent = proof.number if proof.is_greeting else proof.number - 1
        return Handshake(proof.epoch, proof.answers or moment(now), sent)

    def question(self, probe: Probe, epoch: int, now: float) -> tuple[int, int] | None:
        """Return what a greeting asks and answers in reply to a probe; None if none is due.

        ``epoch`` is our own.
        """
        answers = probe.asks if probe.heard_epoch == epoch else 0
        asks = 0 if probe.epoch == self.epoch else moment(now)
        return (asks, answers) if asks or answers else None
