"""A picture of what each uplink carries over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

from fedsdn.errors import FedsdnError
from fedsdn.traffic.counters import Sample

mpl.use("Agg")  # no display: before pyplot is imported

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLOURS = ("#2a78d6", "#eb6834", "#1baf7a", "#8a5cd0", "#c2891b", "#5b6770")
_INK, _QUIET = "#1f2933", "#7b8794"


@dataclass(frozen=True, slots=True)
class Phase:
    """A span of time that has a name; seconds of the monotonic clock."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Panel:
    """What one site received: its samples, and the name to show for each interface."""

    title: str
    samples: Sequence[Sample]
    labels: Mapping[str, str]

    def rates(self, interface: str) -> list[float]:
        """Mbit/s between each two samples."""
        return [
            8e-6 * (b.received[interface] - a.received[interface]) / (b.at - a.at)
            for a, b in pairwise(self.samples)
        ]

    def times(self, origin: float) -> list[float]:
        """Middle of each two samples, in seconds since ``origin``."""
        return [(a.at + b.at) / 2 - origin for a, b in pairwise(self.samples)]


def draw(path: Path, title: str, panels: Sequence[Panel], phases: Sequence[Phase]) -> None:
    """Write a PNG: one panel under the other, uplinks stacked, phases named on top.

    Raises:
        FedsdnError: the file cannot be written.

    """
    origin = min(panel.samples[0].at for panel in panels)
    figure, grid = plt.subplots(
        len(panels), figsize=(10, 1.2 + 2.3 * len(panels)), sharex=True, sharey=True, squeeze=False
    )
    axes = [row[0] for row in grid]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, origin)
        for phase in phases:
            axis.axvline(phase.start - origin, color=_QUIET, linewidth=0.6, linestyle=":")
    for phase in phases:
        axes[0].text(
            (phase.start + phase.end) / 2 - origin,
            1.03,
            phase.name,
            transform=axes[0].get_xaxis_transform(),
            ha="center",
            fontsize=9,
            color=_INK,
        )
    axes[-1].set_xlabel("time (s)", color=_INK)
    axes[-1].set_xlim(0, max(panel.samples[-1].at for panel in panels) - origin)
    axes[-1].set_ylim(bottom=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=144, facecolor="white")
    except OSError as error:
        raise FedsdnError(f"{path}: cannot write the picture: {error.strerror}") from error
    finally:
        plt.close(figure)


def _draw_panel(axis: Axes, panel: Panel, origin: float) -> None:
    names = list(panel.labels)
    axis.stackplot(
        panel.times(origin),
        [panel.rates(name) for name in names],
        labels=[panel.labels[name] for name in names],
        colors=_COLOURS,
        edgecolor="white",
        linewidth=0.4,
    )
    axis.set_ylabel(f"{panel.title}\n(Mbit/s)", color=_INK)
    axis.grid(axis="y", color=_QUIET, alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_QUIET)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(
        handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
    )
