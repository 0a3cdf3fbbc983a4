"""From a real cluster's own step records to a host kind of the simulator. Owns: how records become steps, the record.

Does not: fit (simulator/fit.py), or run the cluster. A step lasts until the next begins, where the engine did not wait
in between: where a request of the one is in the other.
"""

import asyncio
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from benchmarks.drive.open_loop import Sent
from benchmarks.simulator.fit import Fit, Step, fitted
from benchmarks.simulator.hardware import Hardware
from benchmarks.simulator.measure import work_of
from checkpoints import base
from cluster import profile
from cluster.cluster_config import ClusterConfig
from cluster.step_log import LoggedChunk, LoggedStep
from lorajax.adapter_pages import DTYPES
from lorajax.batch import buckets, fitting
from lorajax.limits import EngineLimits
from lorajax.plan import Chunk
from lorajax.runner import PoolSizes
from lorajax.spec import Request, Sampling, Version

_LARGEST_RANK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was learnt of the hosts of a cluster."""

    hardware: Hardware
    fit: Fit


def calibrated(
    config: ClusterConfig, logs: Sequence[Sequence[LoggedStep]], ranks: Mapping[Version, int], relay_s: Sequence[float]
) -> Calibration:
    """The hosts of a cluster, by what each of them logged and by what requests spent on their way."""
    spec, dtype = base.read_spec(Path(config.model)), DTYPES[config.engine.dtype]
    sizes = PoolSizes.of(spec, config.engine)
    limits = EngineLimits(
        config=config.engine,
        num_kv_pages=sizes.num_kv_pages,
        num_adapter_pages=sizes.num_adapter_pages,
        max_model_len=spec.max_model_len,
        stop_token_ids=spec.stop_token_ids,
    )
    steps = [steps_of(log, limits, ranks) for log in logs]
    fit = fitted([step for found in steps for step in found])
    page_bytes = spec.adapter_page_bytes(np.dtype(dtype).itemsize)
    link_bytes_per_s = asyncio.run(profile.loopback_bytes_per_s(profile.random_adapter(spec, _LARGEST_RANK, dtype)))
    hardware = Hardware(
        name=f"{Path(config.model).name} as measured",
        about="fitted to the step records of a local cluster",
        step=fit.step,
        limits=limits,
        host_bytes=config.engine.host_adapter_bytes,
        page_bytes=page_bytes,
        link_bytes_per_s=link_bytes_per_s,
        store_bytes_per_s=link_bytes_per_s,
        load_bytes_per_s=page_bytes / max(fit.write_s, 1e-9),
        relay_s=statistics.median(relay_s),
        jitter=rows(fit.jitter, map(len, steps)),
    )
    return Calibration(hardware=hardware, fit=fit)


def rows(ratios: Iterable[float], counts: Iterable[int]) -> tuple[tuple[float, ...], ...]:
    """The ratios of each host, which took so many steps; one that took none is as the model says."""
    rest = iter(ratios)
    return tuple(tuple(islice(rest, count)) or (1.0,) for count in counts)


def ways_s(sent: Sent, logs: Mapping[str, Sequence[LoggedStep]]) -> list[float]:
    """What each request spent on its way there and back since it was due: what its host did not count, without the rest
    of the step that went on when it was sent, for whose end every request waits."""
    began_s = {host: [step.began_s for step in log] for host, log in logs.items()}
    found = []
    for one, ending in zip(sent.outcomes, sent.endings, strict=True):
        if ending is None or ending.first_token_s is None:
            continue
        sent_s = sent.began_s + one.sent_s
        place = bisect_right(began_s[ending.host], sent_s) - 1
        rest_s = max(0.0, logs[ending.host][place].ended_s - sent_s) if place >= 0 else 0.0
        found.append(one.first_s - one.due_s - ending.first_token_s - rest_s)
    return found


def steps_of(log: Sequence[LoggedStep], limits: EngineLimits, ranks: Mapping[Version, int]) -> list[Step]:
    """The steps of one host whose end is known."""
    shapes = buckets(limits.config)
    found = []
    for step, after in pairwise(log):
        if _ids(step).isdisjoint(_ids(after)):
            continue
        chunks = [_chunk(one) for one in step.chunks]
        found.append(
            Step(
                work=work_of(chunks, ranks.__getitem__),
                shape_tokens=fitting(chunks, shapes).num_tokens,
                num_writes=step.num_writes,
                seconds=after.began_s - step.began_s,
            )
        )
    return found


def _ids(step: LoggedStep) -> set[str]:
    return {chunk.request_id for chunk in step.chunks}


def _chunk(logged: LoggedChunk) -> Chunk:
    """As it was, but for the tokens themselves and the pages, on which no time depends."""
    adapters = tuple((Version(version), 1.0) for version in logged.adapters.split())
    request = Request(id=logged.request_id, prompt=(0,), sampling=Sampling(max_tokens=1), adapters=adapters)
    return Chunk(
        request=request,
        tokens=(0,) * logged.num_tokens,
        start=logged.start,
        kv_pages=(),
        adapter_pages=(),
        output=(),
        num_output=0,
        samples=True,
    )
