"""How much may be sent in a minute: a bucket that fills steadily. No clock in it: time is handed in."""

from __future__ import annotations


class Bucket:
    """Lets `per_minute` units pass a minute, at most a full minute's worth at once.

    Starts full. What is taken may exceed what is there only where more is asked for than the bucket can ever hold: such
    a request passes when the bucket is full and leaves a debt, since refusing it for good helps nobody.
    """

    def __init__(self, per_minute: float, now_s: float) -> None:
        self._per_s = per_minute / 60.0
        self._capacity = float(per_minute)
        self._level = self._capacity
        self._at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return the seconds until `amount` may pass; 0 is now."""
        self._fill(now_s)
        missing = min(amount, self._capacity) - self._level
        # Not > 0: a wait of the exact length can end a rounding error too early, and would be begun again for ever.
        return missing / self._per_s if missing > 1e-6 * self._capacity else 0.0

    def take(self, amount: float, now_s: float) -> None:
        """Let `amount` pass."""
        self._fill(now_s)
        self._level -= amount

    def give_back(self, amount: float, now_s: float) -> None:
        """Return what was taken and not used; a negative amount is what was used beyond it."""
        self._fill(now_s)
        self._level = min(self._capacity, self._level + amount)

    def _fill(self, now_s: float) -> None:
        if now_s > self._at_s:
            self._level = min(self._capacity, self._level + (now_s - self._at_s) * self._per_s)
            self._at_s = now_s
