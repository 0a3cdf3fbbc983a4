"""How many tokens each adapter will want next. Owns: the history behind that forecast. Does not: know hosts or time.

Tokens are counted in windows of equal length, so beats may come at any time and from any number of hosts. Each adapter
has a level, a damped trend and a spread (Holt's linear smoothing; Gardner and McKenzie 1985 for the damping).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from cluster.view import Adapter, Forecast
from lorajax.spec import Version

_TREND_WEIGHT = 0.1
"""How fast the trend follows: small, because the tokens of one window are noisy."""
_TREND_DAMPING = 0.8
"""What a trend keeps of itself from window to window: a ramp is followed, a spike is not extrapolated for long."""
_DEAD_TOKENS_PER_S = 1e-3
"""A level and spread below this are nothing."""
_MAX_EMPTY_WINDOWS = 1000
"""After so many windows without a word nothing is left of any level; more need not be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandConfig:
    """How far a forecast looks back and ahead."""

    window_s: float = 5.0
    """Tokens are counted over this long. Small follows faster; large is less noisy."""
    half_life_s: float = 60.0
    """A window this old counts half."""
    horizon_s: float = 30.0
    """How long a placement is to last."""
    quantile: float = 0.9
    """Of the demand over the horizon: `high` is exceeded once in 1 / (1 - quantile) horizons."""
    prior_tokens_per_s: float = 1.0
    """Of a new adapter while no adapter has any history."""

    def __post_init__(self) -> None:
        """Refuse what no forecast can be made with."""
        for name, value in (
            ("window_s", self.window_s),
            ("half_life_s", self.half_life_s),
            ("horizon_s", self.horizon_s),
            ("prior_tokens_per_s", self.prior_tokens_per_s),
        ):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be a number above 0")
        if not 0.5 <= self.quantile < 1:
            raise ValueError(f"quantile is {self.quantile}; it must lie in 0.5 … 1, and below 1")


@dataclass(slots=True)
class _History:
    """What is left of one adapter's past windows."""

    level: float
    """Tokens/s."""
    trend: float
    """Tokens/s per window."""
    variance: float
    """Of a window's tokens/s round the forecast."""
    num_windows: int
    """Windows it has seen; a prior counts as one."""
    has_come: bool = False
    """Whether any token ever came; until then the level is only a prior."""


class Demand:
    """Token counts of every adapter, and the forecast from them.

    Invariant: after `forecast` there is a history for each of the adapters it was given, and for no other.
    Owner: the coordinator.
    """

    def __init__(self, config: DemandConfig) -> None:
        self._config = config
        self._weight = 1 - 0.5 ** (config.window_s / config.half_life_s)
        self._histories: dict[Version, _History] = {}
        self._tokens: Counter[Version] = Counter()
        self._window_end_s: float | None = None
        self.has_observed = False
        """Whether a window with tokens has closed: until then every forecast is a prior."""

    def observe(self, tokens: Mapping[Version, int], *, now_s: float) -> None:
        """Count what one beat reported, whichever host it is from."""
        self._close_windows(now_s)
        self._tokens.update(tokens)

    def forecast(self, adapters: Mapping[Version, Adapter], *, now_s: float) -> Mapping[Version, Forecast]:
        """Tokens/s of every adapter over the next horizon; exactly 0 where nothing has come for long.

        A new adapter starts at the mean of its rank (of all where its rank is new, too) and fades if nothing comes.
        However many have had no token yet, together they want no more than those that have had some.
        """
        self._close_windows(now_s)
        self._follow(adapters)
        forecasts = {version: self._forecast(self._histories[version]) for version in adapters}
        cold = {one: forecast for one, forecast in forecasts.items() if not self._histories[one].has_come}
        total = sum(forecast.mean for forecast in cold.values())
        real = sum(forecast.mean for one, forecast in forecasts.items() if one not in cold)
        scale = real / total if 0 < real < total else 1.0
        return forecasts | {one: Forecast(mean=f.mean * scale, high=f.high * scale) for one, f in cold.items()}

    def succeed(self, old: Version, new: Version) -> None:
        """Count what came for `old` as what came for `new`, which replaces it."""
        if old in self._histories:
            self._histories[new] = self._histories.pop(old)
        self._tokens[new] += self._tokens.pop(old, 0)

    def _follow(self, adapters: Mapping[Version, Adapter]) -> None:
        """Forget adapters that are gone, start histories of new ones."""
        self._histories = {version: past for version, past in self._histories.items() if version in adapters}
        for version in self._tokens.keys() - adapters.keys():
            del self._tokens[version]
        levels: defaultdict[int, list[float]] = defaultdict(list)
        for version, past in self._histories.items():
            levels[adapters[version].rank].append(past.level)
        fallback = _mean([level for ranks in levels.values() for level in ranks]) or self._config.prior_tokens_per_s
        for version, adapter in adapters.items():
            if version not in self._histories:
                prior = _mean(levels[adapter.rank]) or fallback
                self._histories[version] = _History(level=prior, trend=0.0, variance=prior * prior, num_windows=1)

    def _forecast(self, past: _History) -> Forecast:
        windows = self._config.horizon_s / self._config.window_s
        mean = max(0.0, past.level + past.trend * _damped_sum(windows) / max(windows, 1.0))
        # Errors of one window even out over a horizon of several.
        spread = math.sqrt(past.variance / max(windows, 1.0))
        if past.level + spread < _DEAD_TOKENS_PER_S:
            return Forecast(mean=0.0, high=0.0)
        return Forecast(mean=mean, high=mean + NormalDist().inv_cdf(self._config.quantile) * spread)

    def _close_windows(self, now_s: float) -> None:
        """Fold every window that has ended by now into the histories."""
        if self._window_end_s is None:
            self._window_end_s = now_s + self._config.window_s
        num_ended = math.floor((now_s - self._window_end_s) / self._config.window_s) + 1
        for _ in range(min(num_ended, _MAX_EMPTY_WINDOWS)):
            self._close_window()
        self._window_end_s += max(0, num_ended) * self._config.window_s

    def _close_window(self) -> None:
        tokens, self._tokens = self._tokens, Counter()
        self.has_observed |= tokens.total() > 0
        for version in tokens.keys() - self._histories.keys():
            self._histories[version] = _History(level=0.0, trend=0.0, variance=0.0, num_windows=0)
        for version, past in self._histories.items():
            rate = tokens[version] / self._config.window_s
            expected = past.level + _TREND_DAMPING * past.trend
            error = rate - expected
            # A plain mean until there is enough to forget.
            weight = max(self._weight, 1 / (past.num_windows + 1))
            past.level = max(0.0, expected + weight * error)
            past.trend = _TREND_DAMPING * past.trend + weight * _TREND_WEIGHT * error
            past.variance = (1 - weight) * (past.variance + weight * error * error)
            past.num_windows += 1
            past.has_come |= tokens[version] > 0


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _damped_sum(num_windows: float) -> float:
    """Sum over the windows of what a trend of 1 has added by each."""
    total = added = 0.0
    for window in range(1, max(1, round(num_windows)) + 1):
        added += _TREND_DAMPING**window
        total += added
    return total
