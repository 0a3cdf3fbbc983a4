"""From times to goals. Owns: what each goal compares, whether it is met, how it is printed. Does not: measure.

Peers add their updates to the output, so their times are compared with ours that add too; the best of a peer's forms
counts. Goals on the kernels alone are of the kernels alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.kernels.cases import ATTENTION, CASES, LLAMA_3_8B, STEP, Case, layer_bytes

type Found = Mapping[str, Any]
type Results = Mapping[str, Mapping[str, Found]]
"""What was found, by case and form."""

LAUNCHES = 8
"""Of a layer: two for each group."""
MEASURED = {True: "met", False: "MISSED", None: "not measured"}
ESTIMATED = {True: "promised", False: "not promised", None: "not estimated"}
VLLM = ("vllm", "vllm tuned")
SGLANG = ("csgmv", "csgmv, split 8", "csgmv, chunks of 128", "triton_v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One thing that was asked for."""

    case: str
    what: str
    goal: float
    goal_is: Literal["at least", "at most"]
    value: float | None
    """None where a side of it was not measured."""

    @property
    def is_met(self) -> bool | None:
        """None where nobody can tell."""
        if self.value is None:
            return None
        return self.value >= self.goal if self.goal_is == "at least" else self.value <= self.goal

    def as_json(self) -> dict[str, object]:
        """With the answer."""
        return asdict(self) | {"is_met": self.is_met}

    def line(self, answers: Mapping[bool | None, str]) -> str:
        """As it is printed."""
        value = "-" if self.value is None else f"{self.value:.3g}"
        return f"{self.case:18}{self.what:46}{value:>9}  {self.goal_is} {self.goal:<6g}{answers[self.is_met]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Results beside what the device can do at best."""

    results: Results
    copy_bytes_per_s: float
    matmul_flop_per_s: float

    def us(self, case: str, *forms: str) -> float | None:
        """The least time of some forms; None where none was measured."""
        found = self.results.get(case, {})
        return min((found[form]["us"] for form in forms if "us" in found.get(form, {})), default=None)

    def floor_us(self, case: Case) -> float:
        """No layer's updates are faster."""
        return case.floor_s(LLAMA_3_8B, self.copy_bytes_per_s, self.matmul_flop_per_s) * 1e6

    def described(self, case: Case) -> dict[str, Found]:
        """What was found of every form, its time beside bytes, arithmetic, the floor and our own."""
        num_bytes = layer_bytes(case, LLAMA_3_8B)
        flop = sum(case.least_flop(group) for group in LLAMA_3_8B)
        least = {"bytes": num_bytes, "flop": flop, "floor_us": self.floor_us(case)}
        ours = self.us(case.name, "mosaic+add")

        def beside(us: float) -> Found:
            return {
                "of_copy": num_bytes / us * 1e6 / self.copy_bytes_per_s,
                "of_matmul": flop / us * 1e6 / self.matmul_flop_per_s,
                "over_floor": us / self.floor_us(case),
                "over_ours": _ratio(us, ours),
            }

        forms = self.results.get(case.name, {})
        return {"least": least} | {
            form: {**found, **(beside(found["us"]) if "us" in found else {})} for form, found in forms.items()
        }

    def goals(self) -> list[Goal]:
        """All of them, in the order of the issue."""
        cases = {case.name: case for case in CASES}
        few = [case for case in CASES if case.name in ("decode-1", "decode-4", "decode-8")]
        prefill = [case for case in CASES if case.is_prefill]
        return [
            *self._full(cases["decode-mixed"]),
            *self._skewed(cases["decode-skewed"]),
            *(goal for case in few for goal in self._few(case)),
            *(goal for case in prefill for goal in self._prefill(case)),
            *self._proportions(),
            *self._others(),
        ]

    def _full(self, case: Case) -> list[Goal]:
        speed = _ratio(layer_bytes(case, LLAMA_3_8B) * 1e6, self.us(case.name, "mosaic"))
        return [
            _goal(case.name, "share of the copy's bandwidth", 0.75, _ratio(speed, self.copy_bytes_per_s)),
            *self._beside(case.name, vllm=2.0, sglang=1.15),
        ]

    def _skewed(self, case: Case) -> list[Goal]:
        us = self.us(case.name, "mosaic")
        over = None if us is None else (us - self.floor_us(case)) / LAUNCHES
        return [
            _goal(case.name, "µs over the floor, of each launch", 2.5, over, "at most"),
            *self._beside(case.name, vllm=5.0, sglang=1.5),
        ]

    def _few(self, case: Case) -> list[Goal]:
        us = self.us(case.name, "mosaic")
        return [
            _goal(case.name, "µs of a layer's seven linears", 20.0, us, "at most"),
            *self._beside(case.name, vllm=2.0),
        ]

    def _prefill(self, case: Case) -> list[Goal]:
        ratio = _ratio(self.us(case.name, "mosaic"), self.floor_us(case))
        return [
            _goal(case.name, "time over the floor's", 1.35, ratio, "at most"),
            *self._beside(case.name, vllm=1.5, sglang=1.5),
        ]

    def _proportions(self) -> list[Goal]:
        small, large, skewed = (self.us(f"decode-{name}", "mosaic") for name in ("r8", "r128", "skewed"))
        return [
            _goal("decode-skewed", "time over that of 32 of rank 8", 1.4, _ratio(skewed, small), "at most"),
            _goal("decode-r8", "time over that of 32 of rank 128", 0.2, _ratio(small, large), "at most"),
        ]

    def _others(self) -> list[Goal]:
        attention = self.results.get(ATTENTION, {}).get("mosaic", {})
        read = _ratio(attention.get("bytes", 0) * 1e6, attention.get("us"))
        base, adapters = (self.results.get(STEP, {}).get(form, {}) for form in ("base", "adapters"))
        per_us = self.copy_bytes_per_s / 1e6
        base_us, adapters_us = base.get("us"), adapters.get("us")
        weights_us = base.get("weight_bytes", 0) / per_us
        both = None if base_us is None else base_us + adapters.get("lora_bytes", 0) / per_us
        return [
            _goal(ATTENTION, "share of the copy's bandwidth", 0.8, _ratio(read, self.copy_bytes_per_s)),
            _goal(STEP, "base's time over its weights' bytes", 1.2, _ratio(base_us, weights_us), "at most"),
            _goal(STEP, "time over base's and the adapters' bytes", 1.25, _ratio(adapters_us, both), "at most"),
        ]

    def _beside(self, case: str, **goals: float) -> list[Goal]:
        """How many times as fast as the best form of each peer."""
        forms = {"vllm": VLLM, "sglang": SGLANG}
        ours = self.us(case, "mosaic+add")
        return [
            _goal(case, f"times as fast as {peer}", goal, _ratio(self.us(case, *forms[peer]), ours))
            for peer, goal in goals.items()
        ]

    def lines(self) -> list[str]:
        """Every time beside the floor."""
        out = []
        for case in CASES:
            floor_us, found = self.floor_us(case), self.results.get(case.name, {})
            for form, one in found.items():
                if "us" in one:
                    host = "  (the host may have been slower than the device)" if one.get("is_host_bound") else ""
                    out.append(f"{case.name:16}{form:22}{one['us']:10.1f} µs {one['us'] / floor_us:8.2f} x floor{host}")
        return out


def _goal(
    case: str, what: str, goal: float, value: float | None, goal_is: Literal["at least", "at most"] = "at least"
) -> Goal:
    return Goal(case=case, what=what, goal=goal, goal_is=goal_is, value=value)


def _ratio(over: float | None, under: float | None) -> float | None:
    return None if over is None or not under else over / under


def failures(results: Results) -> Sequence[str]:
    """What went wrong, in one line each."""
    return [
        f"{case}, {form}: {found['error']}"
        for case, forms in results.items()
        for form, found in forms.items()
        if "error" in found
    ]
