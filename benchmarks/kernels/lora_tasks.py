"""The LoRA kernels' turn on the device: each implementation on each case, first its numbers, then its time.

Owns: which implementations take part in what. Does not: judge.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import jax
import numpy as np

from benchmarks.kernels import ours
from benchmarks.kernels.bank import TOLERANCE, Bank, error_of
from benchmarks.kernels.cases import Case
from benchmarks.kernels.timing import timed
from benchmarks.kernels.turns import Found, Task

_COMPILERS = 6
_TASK_S, _COMPILE_S = 40.0, 110.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One implementation as it is measured."""

    name: str
    update: ours.Update
    has_base: bool = False
    """Whether the updates are added to an output, as the peers add theirs."""
    is_padded: bool = False
    most_layers: int = 32
    """Of one program: one layer where it takes longer than many of the others', few where it compiles slowly."""

    def takes(self, case: Case) -> bool:
        """Whether it is measured on this case: what does not bear on a goal is not measured everywhere."""
        if self.name == "triton":
            return case.num_tokens in (32, 2048)
        return self.most_layers > 1 or case.name in ("decode-mixed", "decode-skewed", "prefill-2048")


FORMS = (
    Form(name="mosaic", update=ours.MOSAIC),
    Form(name="mosaic+add", update=ours.MOSAIC, has_base=True),
    Form(name="padded", update=ours.MOSAIC, is_padded=True),
    Form(name="triton", update=ours.TRITON, most_layers=8),
    Form(name="xla", update=ours.XLA, most_layers=1),
    Form(name="reference", update=ours.REFERENCE, most_layers=1),
)


class Device:
    """The bank on the device and the programs over it.

    Invariant: a program is traced once for each form and number of tokens, whatever the ranks.
    Owner: the process that measures.
    """

    def __init__(self, bank: Bank, compiler_options: Mapping[str, str] | None = None) -> None:
        """Load the bank at the first use of `inputs`."""
        self.bank = bank
        self.program = functools.cache(lambda update: ours.program(bank.groups, update, compiler_options))

    @functools.cached_property
    def inputs(self) -> ours.Inputs:
        """The bank, once for each copy that a case needs."""
        return ours.Inputs.of(self.bank, max(case.num_copies for case in self.bank.cases))

    def call(self, form: Form, case: Case) -> tuple[Callable[[], ours.Outs], int]:
        """(the program with its arguments, layers that it runs)."""
        layers = min(form.most_layers, case.num_layers)
        arguments = self.inputs.arguments(case, layers, form.has_base, form.is_padded)
        return functools.partial(self.program(form.update), *arguments), layers

    def keep_wanted(self, case: Case) -> None:
        """Compute and keep the reference's updates of a case's first layer."""
        call, _ = self.call(FORMS[-1], case)
        for group, update in zip(self.bank.groups, call(), strict=True):
            self.bank.keep_wanted(case, group, np.asarray(update[case.checked_rows()], np.float32))

    def error(self, form: Form, case: Case, outs: ours.Outs) -> float:
        """Of the first layer's updates, relative to the reference's."""
        rows, ones = case.checked_rows(), float(form.has_base)
        actual = [np.asarray(out[rows], np.float32) for out in outs[: len(self.bank.groups)]]
        return error_of(actual, [self.bank.wanted(case, group) + np.float32(ones) for group in self.bank.groups])


def tasks(bank: Bank) -> Iterator[Task]:
    """Everything, in an order in which an early end costs least."""
    device = Device(bank)
    yield Task("compile", _COMPILE_S, functools.partial(_compile, device))
    for case in bank.cases:
        yield Task(f"{case.name}/wanted", _TASK_S, functools.partial(_keep_wanted, device, case))
    for form in FORMS:
        for case in filter(form.takes, bank.cases):
            yield Task(f"{case.name}/{form.name}", _TASK_S, functools.partial(_measure, device, form, case))


def _compile(device: Device) -> Found:
    """Run every program once, several at a time: compilers take most of the time, and one core each."""
    first: dict[tuple[str, int], tuple[Form, Case]] = {}
    for form in FORMS:
        for case in filter(form.takes, device.bank.cases):
            first.setdefault((form.name.replace("padded", "mosaic"), case.num_tokens), (form, case))
    failed: dict[str, str] = {}

    def one(job: tuple[Form, Case]) -> None:
        try:
            jax.block_until_ready(device.call(*job)[0]())
        except Exception as error:  # noqa: BLE001 - the form's own task says it again
            failed[f"{job[0].name}, {job[1].num_tokens} tokens"] = str(error)[:200]

    _ = device.inputs, [device.program(form.update) for form, _ in first.values()]  # once, not once a thread
    with ThreadPoolExecutor(_COMPILERS) as pool:
        list(pool.map(one, first.values()))
    return {"programs": len(first), "failed": failed}


def _keep_wanted(device: Device, case: Case) -> Found:
    device.keep_wanted(case)
    return {}


def _measure(device: Device, form: Form, case: Case) -> Found:
    call, layers = device.call(form, case)
    outs = call()
    error = device.error(form, case, outs)
    if not error <= TOLERANCE[device.bank.dtype]:
        return {"relative_error": error, "error": f"differs from the reference by {error:.2g}"}
    is_same = all(bool((one == other).all()) for one, other in zip(outs, call(), strict=True))
    return {"relative_error": error, "is_deterministic": is_same, **asdict(timed(lambda _: call(), layers))}
