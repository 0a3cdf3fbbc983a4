"""How much slower or faster hosts are than predicted. Owns: one factor, from what was seen. Predicts nothing itself."""

_WEIGHT = 0.05
"""Of each new request: the factor follows a change of traffic or hardware within some dozens."""
_MIN_SEEN = 16


class Pace:
    """Observed over predicted seconds, long waits counting more than short ones; 1 until some have been seen."""

    def __init__(self) -> None:
        """Start without any."""
        self._observed_s = self._predicted_s = 0.0
        self._num_seen = 0

    @property
    def is_known(self) -> bool:
        """Whether enough was seen to refuse somebody by it."""
        return self._num_seen >= _MIN_SEEN

    @property
    def factor(self) -> float:
        """What to multiply a prediction by."""
        return self._observed_s / self._predicted_s if self._predicted_s > 0 else 1.0

    def see(self, observed_s: float, predicted_s: float) -> None:
        """Learn from one request."""
        self._num_seen += 1
        self._observed_s += _WEIGHT * (max(0.0, observed_s) - self._observed_s)
        self._predicted_s += _WEIGHT * (max(0.0, predicted_s) - self._predicted_s)
