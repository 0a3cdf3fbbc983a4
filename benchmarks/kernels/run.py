"""One measurement from start to JSON. Owns: which processes run when, how long, and the file. Does not: touch a GPU.

The file is written anew after every result, so that whatever stops a run leaves what was measured.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.kernels import peer_files
from benchmarks.kernels.bank import Bank
from benchmarks.kernels.cases import ATTENTION, CASES, LLAMA_3_8B, NAMES, STEP, Case
from benchmarks.kernels.judge import MEASURED, Found, Judge, failures
from benchmarks.kernels.turns import Child
from lorajax.errors import LorajaxError

ROOT = Path(__file__).resolve().parent.parent.parent
_QUICK = ("decode-mixed", "decode-skewed", "prefill-2048", ATTENTION, STEP)
_UNTIL_S = {"lora": 210.0, "attention": 235.0, "peers": 375.0, "step": 465.0}
"""From the start: when each part must be done, in the order in which they run."""
_PROBE_S = 120.0
_PROBE = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='|')"


class NoGpu(LorajaxError):
    """There is none that the kernels run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command's flags say."""

    names: tuple[str, ...]
    """Cases to measure."""
    has_peers: bool
    peers_dir: Path
    peers_python: Path
    is_quick: bool
    seed: int
    out: Path
    """Folder of the JSON file."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """The LoRA cases among them."""
        wanted = set(self.names) & set(_QUICK) if self.is_quick else set(self.names)
        return tuple(case for case in CASES if case.name in wanted)


@dataclass(slots=True)
class Report:
    """What a run has found so far, on disk at any time.

    Invariant: the file holds every outcome that `take` was given.
    Owner: the process that runs the command.
    """

    path: Path
    facts: dict[str, object]
    results: dict[str, dict[str, Found]] = field(default_factory=dict)
    """By case and form; what is no case's is in ""."""

    def take(self, name: str, found: Found) -> None:
        """Add one outcome and write the file."""
        case, _, form = name.rpartition("/")
        case, form = (name, "mosaic") if name == ATTENTION else (case, form)
        self.results.setdefault(case, {})[form] = found
        self.write()

    def judge(self) -> Judge | None:
        """None where the device's ceilings are not known."""
        ceilings = self.results.get("", {}).get("ceilings", {})
        if "copy_bytes_per_s" not in ceilings:
            return None
        return Judge(
            results=self.results,
            copy_bytes_per_s=ceilings["copy_bytes_per_s"],
            matmul_flop_per_s=ceilings["matmul_flop_per_s"],
        )

    def write(self) -> None:
        """Write the file, whole or not at all."""
        judge = self.judge()
        run = self.results.get("", {})
        peers = run.get("peers", {}).get("versions", {})
        result = {
            **self.facts,
            "device": run.get("device", {}).get("device"),
            "versions": {**run.get("device", {}).get("versions", {}), **peers, **peer_files.WHEELS},
            "ceilings": run.get("ceilings"),
            "goals": [goal.as_json() for goal in judge.goals()] if judge else [],
            "cases": {case: forms for case, forms in self.results.items() if case}
            | ({case.name: judge.described(case) for case in CASES if case.name in self.results} if judge else {}),
            "run": run,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(result, indent=1) + "\n")
        new.replace(self.path)


def gpu() -> str:
    """Name of the GPU that JAX finds, asked in a process of its own: this one must not hold the device.

    Raises: NoGpu saying what is needed.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_S, check=False
        )
        platform, _, name = (done.stdout.strip().splitlines() or [""])[-1].partition("|")
    except subprocess.TimeoutExpired:
        platform, name = "a device that does not answer", ""
    if platform != "gpu":
        raise NoGpu(
            f"`kernels` needs a Hopper GPU (H100 or H200) and jax[cuda13]; JAX found {platform or 'no device'}. "
            "Without one: --estimate or --check"
        )
    return name


def measure(options: Options) -> Report:
    """Run every part and leave the JSON; what fails or hangs is in it by name.

    Raises: NoGpu.
    """
    device = gpu()
    path = options.out / f"kernels-{device.lower().replace(' ', '-')}.json"
    facts = {"command": command_line(), "seed": options.seed, "is_quick": options.is_quick}
    report = Report(path=path, facts=facts)
    options = _with_peers(options, report)
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lorajax-kernels-") as folder:
        bank = Bank(Path(folder), LLAMA_3_8B, options.cases, "bfloat16", options.seed).save()
        for part, child in _children(options, bank):
            for name, found in child.outcomes(start_s + _UNTIL_S[part]):
                report.take(f"{part}/start" if name == "start" else name, found)
                print(f"{time.monotonic() - start_s:6.0f} s  {name}: {short(found)}", flush=True)
    report.facts["wall_s"] = time.monotonic() - start_s
    report.write()
    return report


def _with_peers(options: Options, report: Report) -> Options:
    """The options, without peers where their files cannot be had: what is ours is measured all the same."""
    if not options.has_peers:
        return options
    try:
        peer_files.provide(options.peers_dir)
    except peer_files.PeersMissing as error:
        report.take("peers/start", {"error": str(error)})
        return replace(options, has_peers=False)
    return options


def show(report: Report) -> None:
    """Print every time, then each goal, then what went wrong."""
    if judge := report.judge():
        print(f"copy {judge.copy_bytes_per_s / 1e12:.2f} TB/s, product {judge.matmul_flop_per_s / 1e12:.0f} TFLOP/s")
        print(*judge.lines(), sep="\n")
        print(*(goal.line(MEASURED) for goal in judge.goals()), sep="\n")
    print(*(f"FAILED {line}" for line in failures(report.results)), report.path, sep="\n")


def _children(options: Options, bank: Path) -> Iterator[tuple[str, Child]]:
    layers = 4 if options.is_quick else 32
    if options.cases:
        yield "lora", ours("lora", bank, layers)
    else:
        yield "lora", ours("ceilings", bank, layers)
    if ATTENTION in options.names:
        yield "attention", ours("attention", bank, layers)
    if options.has_peers and options.cases:
        command = (str(options.peers_python), "-m", "benchmarks.kernels.peer_worker", "--bank", str(bank))
        yield "peers", _child((*command, "--files", str(options.peers_dir.resolve())), bank)
    if STEP in options.names:
        yield "step", ours("step", bank, layers)


def ours(part: str, bank: Path, layers: int) -> Child:
    """Our process for one part, with what XLA is told."""
    command = (sys.executable, "-m", "benchmarks.kernels.worker", part, "--bank", str(bank), "--layers", str(layers))
    child = _child(command, bank)
    # One stream, launch after launch: what runs side by side cannot be timed alone.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_command_buffer_scheduling_mode=SERIALIZE".strip()
    more = {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
    return replace(child, environment={**child.environment, **more})


def _child(command: tuple[str, ...], bank: Path) -> Child:
    return Child(command, ROOT, {**os.environ, "PYTHONUNBUFFERED": "1"}, bank.parent / "log")


def command_line() -> str:
    """What was typed."""
    started = Path(sys.argv[0]).stem
    module = "benchmarks" if started == "__main__" else f"benchmarks.{started}"
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def short(found: Found) -> str:
    """An outcome in a few words."""
    if "error" in found:
        return f"FAILED, {found['error']}"
    keys = ("us", "copy_bytes_per_s", "matmul_flop_per_s", "counted_us", "relative_error")
    return ", ".join(f"{key} {found[key]:.4g}" for key in keys if key in found) or f"done in {found['wall_s']:.0f} s"


def known(text: str) -> tuple[str, ...]:
    """Case names with commas between.

    Raises: ValueError listing those there are.
    """
    names = tuple(text.split(",")) if text != "all" else NAMES
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"{', '.join(sorted(unknown))}; write all, or some of {','.join(NAMES)}")
    return names
