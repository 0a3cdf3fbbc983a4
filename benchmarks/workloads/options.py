"""The flags that say a workload. Owns: them, and how they become a setting. Does not: draw, know any command."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from benchmarks.workloads import arrivals, lengths, loaders, popularity, ranks
from benchmarks.workloads.columns import NAMES, parsed
from benchmarks.workloads.popularity import Popularity
from benchmarks.workloads.setting import Part, Setting
from benchmarks.workloads.settings import NAMED, changed
from benchmarks.workloads.traces import Trace
from lorajax.cli_types import Flag, Parsed, bad_usage

_PATH = click.Path(exists=True, path_type=Path)
_ABOVE_0 = click.FloatRange(0, min_open=True)
_WHO, _HOW_LONG = ("adapter", "rank"), ("prompt", "output")
"""Kinds of columns of the file of --popularity, and of --lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What a user says of a workload; None: nothing."""

    workload: str = "zipf"
    trace: Path | None = None
    columns: Mapping[str, str] | None = None
    arrivals: str | None = None
    lengths: str | None = None
    popularity: str | None = None
    ranks: str | None = None
    adapters: int | None = None
    rate: float | None = None
    duration_s: float | None = None
    pace: float | None = None
    compress: float | None = None
    length_scale: float = 1.0
    context_tokens: int | None = None


def workload_options[R](command: Callable[..., R]) -> Callable[..., R]:
    """Flags for a command, which gets `setting` and `seed`: `setting(seed=seed)` is the workload.

    A sweep calls it again with another `rate` or seed. Mistakes become bad usage that names the flag.
    """

    @functools.wraps(command)
    def with_setting(**given: Flag) -> R:
        flags = Flags(**{name: given.pop(name) for name in Flags.__dataclass_fields__})
        with bad_usage():
            setting = setting_of(flags)
        return command(setting=setting, **given)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), with_setting)


def setting_of(flags: Flags) -> Setting:
    """The named setting, then whatever the trace holds instead, then whatever the other flags say.

    Raises: ValueError of one line that starts with the field of the flags, or with the file.
    """
    setting = NAMED[flags.workload]
    if flags.adapters is not None:
        setting = changed(setting, adapters=flags.adapters)
    if flags.trace is not None:
        setting = _played(setting, loaders.read(flags.trace, _said_of_trace(flags)).timed(), flags)
    elif flags.compress is not None:
        raise ValueError("compress is for the times of a trace; add --trace PATH, or take it away")
    if flags.arrivals is not None:
        setting = changed(setting, arrivals=flags.arrivals)
    if flags.popularity is not None:
        setting = _with_popularity(setting, flags.popularity, flags)
    if flags.ranks is not None:
        setting = changed(setting, ranks=flags.ranks)
    rate, duration_s = flags.rate or setting.rate, flags.duration_s or setting.duration_s
    setting = replace(setting, rate=rate, duration_s=duration_s, pace=flags.pace or setting.pace)
    return _with_lengths(setting, flags)


def _played(setting: Setting, trace: Trace, flags: Flags) -> Setting:
    """Times of a trace; its lengths, adapters, ranks and tenants if it has them."""
    if trace.adapters and flags.popularity is None:
        names = _top("adapters", trace, flags.adapters)
        trace = trace.among((*names, "")).timed()
        setting = _asked_as(setting, trace, names, popularity.recorded)
    if trace.has_lengths:
        setting = replace(setting, lengths=_lengths_of(trace))
    elif flags.lengths is None and (len(trace.prompt_tokens) or len(trace.output_tokens)):
        there, lacking = ("prompt", "output") if len(trace.prompt_tokens) else ("output", "prompt")
        raise ValueError(
            f"{trace.label} has {there} tokens and no {lacking} tokens; "
            f"name the column with --columns {lacking}=…, or give --lengths conv"
        )
    compress = flags.compress or 1.0
    at_s, span_s = trace.at_s / compress, trace.duration_s / compress
    duration_s = flags.duration_s or span_s
    return replace(
        setting,
        name=trace.label,
        arrivals=Part(f"{trace.label} / {compress:g}", arrivals.recorded(at_s, span_s)),
        tenants=trace.tenants or setting.tenants,
        rate=arrivals.recorded_count(at_s, span_s, duration_s) / duration_s,
        duration_s=duration_s,
    )


def _with_popularity(setting: Setting, text: str, flags: Flags) -> Setting:
    if text in popularity.POPULARITY:
        return changed(setting, popularity=text)
    trace = loaders.read(_file("popularity", text, popularity.POPULARITY), _said(flags, _WHO))
    names = _top("popularity", trace, flags.adapters)
    return _asked_as(setting, trace.among(names), names, popularity.in_turn)


def _asked_as(setting: Setting, trace: Trace, names: tuple[str, ...], order: Callable[..., Popularity]) -> Setting:
    """Adapters of a trace, in its order; its ranks, if it knows them all."""
    setting = replace(setting, adapters=names, popularity=Part(f"order of {trace.label}", order(trace.adapters, names)))
    if trace.ranks.keys() >= set(names):
        known = np.array([trace.ranks[name] for name in names])
        setting = replace(setting, ranks=Part(f"of {trace.label}", lambda _count, _random: known))
    return setting


def _with_lengths(setting: Setting, flags: Flags) -> Setting:
    text, scale, context = flags.lengths, flags.length_scale, flags.context_tokens
    if text in lengths.FITS:
        setting = changed(setting, lengths=text)
    elif text is not None:
        trace = loaders.read(_file("lengths", text, lengths.FITS), _said(flags, _HOW_LONG))
        if not trace.has_lengths:
            raise ValueError(f"lengths {text} has no columns of prompt and answer tokens; name them with --columns")
        setting = replace(setting, lengths=_lengths_of(trace))
    if scale == 1 and context is None:
        return setting
    label = f"{setting.lengths.label} x {scale:g}" + (f", within {context} tokens" if context else "")
    return replace(setting, lengths=Part(label, lengths.scaled(setting.lengths.make, scale, context or 2**40)))


def _lengths_of(trace: Trace) -> Part[lengths.Lengths]:
    return Part(trace.label, lengths.recorded(trace.prompt_tokens, trace.output_tokens))


def _said(flags: Flags, kinds: Iterable[str]) -> dict[str, str]:
    """What --columns says of these kinds."""
    return {kind: column for kind, column in (flags.columns or {}).items() if kind in kinds}


def _said_of_trace(flags: Flags) -> dict[str, str]:
    """What --columns says of the trace: all that it does not say of other files."""
    others = _WHO * (flags.popularity is not None) + _HOW_LONG * (flags.lengths is not None)
    return _said(flags, NAMES.keys() - set(others))


def _top(flag: str, trace: Trace, count: int | None) -> tuple[str, ...]:
    """The most popular adapters of a trace, so many of them."""
    names = trace.popular()
    if trace.adapters and not names:
        raise ValueError(f"popularity is missing: {trace.label} asks the base model alone; give one, such as zipf")
    if not names:
        raise ValueError(f"{flag} {trace.label} has no column of adapters; name it with --columns adapter=…")
    if count is not None and count > len(names):
        raise ValueError(f"adapters {count}: {trace.label} has {len(names)}; write at most that")
    return names[:count]


def _file(flag: str, text: str, names: Iterable[str]) -> Path:
    if not (path := Path(text)).exists():
        raise ValueError(f"{flag} {text} is no file and no name; write a path, or one of {', '.join(names)}")
    return path


_OPTIONS = (
    click.option("--workload", type=click.Choice(tuple(NAMED)), default="zipf", show_default=True, help="By its name."),
    click.option(
        "--trace",
        type=_PATH,
        help="Times, lengths and adapters, as far as it has them: .csv, .jsonl, also packed; GenTD26's folder.",
    ),
    click.option(
        "--columns",
        type=Parsed("KIND=COLUMN,…", parsed),
        help="What columns of files mean where their names do not say it, such as time_ms=when,adapter=model.",
    ),
    click.option("--arrivals", type=click.Choice(tuple(arrivals.ARRIVALS)), help="Generated times."),
    click.option("--lengths", metavar="NAME|PATH", help=f"Of prompts and answers: {', '.join(lengths.FITS)}, a trace."),
    click.option(
        "--popularity",
        metavar="NAME|PATH",
        help=f"Who is asked for: {', '.join(popularity.POPULARITY)}, or a trace for its adapters in their order.",
    ),
    click.option("--ranks", metavar="MIX", help=f"Of adapters: {', '.join(ranks.MIXES)}, or ranks such as 8,64."),
    click.option("--adapters", type=click.IntRange(1), help="How many; of a trace the most popular ones."),
    click.option("--rate", type=_ABOVE_0, help="Requests/s, the mean; a trace keeps the shape of its bursts."),
    click.option("--duration-s", type=_ABOVE_0, help="A trace is cut, or begins again."),
    click.option(
        "--pace",
        type=_ABOVE_0,
        help="Of days and drift, not of a trace: 1 as in life.  [default: eight hours, squeezed]",
    ),
    click.option("--compress", type=_ABOVE_0, help="Play the trace so many times as fast, before --rate."),
    click.option("--length-scale", type=_ABOVE_0, default=1.0, show_default=True, help="Times all lengths."),
    click.option("--context-tokens", type=click.IntRange(2), help="Cut prompts, and only then answers, to fit."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything drawn."),
)
