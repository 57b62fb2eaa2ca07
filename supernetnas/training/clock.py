"""Seconds, and limits on them."""

from __future__ import annotations

import time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Seconds since it was made; knows whether a limit has passed."""

    def __init__(self, limit: float | None = None) -> None:
        self.start, self.limit = time.monotonic(), limit

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def expired(self, share: float = 1.0) -> bool:
        """Whether more than ``share`` of the limit has passed; False without a limit."""
        return self.limit is not None and self.seconds > share * self.limit
