"""The transfer benchmark: adapters between hosts beside the bare ways, and what running streams notice of it.

Owns: the sizes, the claims, the two ends' processes and the JSON. Does not: send (transfer_ends.py) or run a cluster
(transfer_gaps.py).
"""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine, report, transfer_gaps
from benchmarks.samples import Claim, judged
from benchmarks.transfer_ends import Size, as_json
from checkpoints import base
from cluster import world
from cluster.cluster_config import TRANSFERS
from lorajax.spec import TARGETS

_RANKS = (8, 64)
_GAP_GOAL = 2.0
_LIMIT_S = 600.0


def run(*, model: Path, rounds: int, moves: int, out: Path) -> None:
    """Measure `rounds` transfers of each size and way and `moves` beside streams; write `transfer.json` into `out`."""
    sizes = _sizes(model)
    series, claims = _ends(sizes, rounds), list(_claims(sizes))
    for way in TRANSFERS if moves else ():
        with tempfile.TemporaryDirectory(prefix="lorajax-transfer-") as scratch:
            series |= transfer_gaps.measured(Path(scratch), model, way, moves)
        claims += _gap_claims(way)
    result = machine.facts({}) | {
        "model": model.stem,
        "rounds": rounds,
        "moves": moves,
        "claims": [row for claim in claims if (row := judged(claim, series)) is not None],
        "series": series,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "transfer.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(report.engine_table(result), path, sep="\n\n")


def _sizes(model: Path) -> list[Size]:
    spec = base.read_spec(model)
    widths = [spec.widths(target) for target in TARGETS]
    sizes = [Size(name=f"rank {rank}", rank=rank, num_layers=spec.num_layers, widths=widths) for rank in _RANKS]
    return [*sizes, Size(name="40 MiB", rank=64, num_layers=40, widths=[(4096, 4096)])]


def _ends(sizes: list[Size], rounds: int) -> dict[str, list[float]]:
    """MB/s of each size and way."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    service = world.start_service(address, 2)
    command = [sys.executable, "-m", "benchmarks.transfer_ends"]
    argv = [address, str(rounds), as_json(sizes)]
    with subprocess.Popen([*command, "0", *argv]) as first:
        try:
            said = subprocess.run(
                [*command, "1", *argv], stdout=subprocess.PIPE, check=True, text=True, timeout=_LIMIT_S
            ).stdout
        finally:
            first.kill()
    del service
    num_bytes = {size.name: size.adapter().spec.num_bytes for size in sizes}
    return {
        f"{name} {way}": [num_bytes[name] / 1e6 / second for second in seconds]
        for name, ways in json.loads(said.splitlines()[-1]).items()
        for way, seconds in ways.items()
    }


def _claims(sizes: list[Size]) -> Iterator[Claim]:
    for size in sizes:
        for case, ours, reference, goal in (
            ("collective, beside a bare permute", "collective", "permute", 0.8),
            ("the same with its hashes made and checked", "checked", "permute", None),
            ("stream, beside a bare gRPC stream", "stream", "grpc", 0.6),
        ):
            ours, reference = f"{size.name} {ours}", f"{size.name} {reference}"
            yield Claim(case=f"{size.name}: {case}", unit="MB/s", ours=ours, reference=reference, goal=goal)


def _gap_claims(way: str) -> list[Claim]:
    """Of the stream that noticed most, move by move."""
    worst = Claim(
        case=f"rank {transfer_gaps.RANK} comes by {way}: worst gap of running streams, their median gap",
        unit="ms",
        ours=f"{way} worst ms",
        reference=f"{way} median ms",
        goal=_GAP_GOAL,
        goal_is="at most",
    )
    quiet = Claim(
        case="the same streams, as long without a transfer",
        unit="ms",
        ours=f"{way} quiet worst ms",
        reference=f"{way} quiet median ms",
    )
    beside = Claim(
        case="worst gap of a while with a transfer, of the while without before it",
        unit="ms",
        ours=f"{way} worst ms",
        reference=f"{way} quiet worst ms",
    )
    return [worst, quiet, beside]
