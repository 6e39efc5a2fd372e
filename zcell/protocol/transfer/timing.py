"""When a receiver probes, retries and gives up. Invariant: only "no progress", the deadline and the caller end a wait."""

from __future__ import annotations

PROBE_FIRST = 0.2
PROBE_SLOWEST = 5.0
RETRY_FIRST = 0.1
RETRY_SLOWEST = 2.0
ASK_AGAIN = 1.0


class Patience:
    """The timers of one receiver. `idle_timeout` in seconds; `deadline` and `now` are times of one monotonic clock."""

    def __init__(self, idle_timeout: float, deadline: float | None, now: float) -> None:
        self._idle_timeout = idle_timeout
        self._deadline = deadline
        self._last_progress = now
        self._probe_at = now + PROBE_FIRST
        self._probe_delay = PROBE_FIRST
        self._retry_delay = RETRY_FIRST
        self._unreachable = ""
        self.retry_at: float | None = None
        """When the request that is open has to be repeated, None while an answer is due by itself."""

    def progress(self, now: float) -> None:
        """Something was achieved."""
        self._last_progress = now
        self._unreachable = ""

    def heard(self, now: float, delay: float | None) -> None:
        """The other side gave a sign of life: no reason to probe for a while."""
        self._unreachable = ""
        self._probe_delay = min(PROBE_SLOWEST, max(PROBE_FIRST, 4 * (delay or 0.0)))
        self._probe_at = now + self._probe_delay

    def asked(self, now: float, delay: float | None) -> None:
        """Chunks were asked for: nothing can arrive before a round trip."""
        self._probe_at = max(self._probe_at, now + max(PROBE_FIRST, 4 * (delay or 0.0)))

    def reached(self, now: float) -> None:
        """A request was answered."""
        self._unreachable = ""
        self._retry_delay = RETRY_FIRST
        self._probe_at = now + self._probe_delay

    def unreachable(self, text: str, now: float) -> None:
        """A request got nowhere: repeat it, ever more slowly."""
        self._unreachable = text
        self.retry_at = now + self._retry_delay
        self._retry_delay = min(RETRY_SLOWEST, 2 * self._retry_delay)

    def retry(self, now: float) -> None:
        """An event was posted whose answer may get lost."""
        self.retry_at = now + ASK_AGAIN

    def hurry(self, now: float) -> None:
        """Do at once what waits for a timer."""
        self._probe_at = now
        self._probe_delay = PROBE_FIRST
        self._retry_delay = RETRY_FIRST
        if self.retry_at is not None:
            self.retry_at = now

    def probe_due(self, now: float) -> bool:
        """Whether to probe now; then the next probe is further away."""
        if now < self._probe_at:
            return False
        self._probe_delay = min(PROBE_SLOWEST, 2 * self._probe_delay)
        self._probe_at = now + self._probe_delay
        return True

    def out(self, now: float, *, local: bool) -> tuple[str, str] | None:
        """The reason and text to fail with, or None. `local`: the next step is our own, so nobody is idle."""
        if self._deadline is not None and now >= self._deadline:
            return "deadline", "the deadline passed before the download was complete"
        if local:
            self._last_progress = now
        elif now - self._last_progress >= self._idle_timeout:
            if self._unreachable:
                return "link", f"no way to the owner for {self._idle_timeout:g} s: {self._unreachable}"
            return "idle", f"no progress for {self._idle_timeout:g} s"
        return None

    def next_tick(self, *, probing: bool) -> float:
        """When `tick` is needed next. `probing`: whether chunks are waited for."""
        times = [self._last_progress + self._idle_timeout]
        if probing:
            times.append(self._probe_at)
        if self._deadline is not None:
            times.append(self._deadline)
        if self.retry_at is not None:
            times.append(self.retry_at)
        return min(times)
