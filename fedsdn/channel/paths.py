"""The application's table of paths, and the messages that keep workers' tables like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedsdn.channel.messages import MOST_PATHS, Call, PathsMessage
from fedsdn.uplinks.news import PathNews, ToldPath
from fedsdn.uplinks.path import PathKey


class PathTable:
    """What holds of all paths."""

    def __init__(self) -> None:
        """Begin without paths."""
        self._paths: dict[PathKey, ToldPath] = {}
        self._endpoints: tuple[str, ...] = ()
        self.is_known = False
        """Whether anything was said yet."""

    def take(self, news: PathNews) -> bytes:
        """Take in what has changed; return the lines that tell it."""
        self.is_known, self._endpoints = True, news.endpoints
        self._paths.update((path.key, path) for path in news.paths)
        for key in news.gone:
            self._paths.pop(key, None)
        return b"".join(self._lines(news.paths, news.gone, anew=False))

    def whole(self) -> bytes:
        """Return the lines that tell everything."""
        return b"".join(self._lines(tuple(self._paths.values()), (), anew=True))

    def _lines(
        self, paths: Sequence[ToldPath], gone: Sequence[PathKey], *, anew: bool
    ) -> Iterator[bytes]:
        """Write messages, each short enough for a line; there is one at least."""
        places = range(0, max(len(paths), len(gone), 1), MOST_PATHS)
        for start in places:
            part = slice(start, start + MOST_PATHS)
            yield Call(
                PathsMessage(
                    anew=anew and start == 0,
                    more=start != places[-1],
                    endpoints=list(self._endpoints),
                    paths=list(paths[part]),
                    gone=list(gone[part]),
                )
            ).encode()
