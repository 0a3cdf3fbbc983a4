"""The search tries what fits the widths, and the table that it writes is the one that the kernels read."""

import json
from dataclasses import asdict, replace

from benchmarks.kernels.cases import LLAMA_3_8B
from benchmarks.kernels.tune import TUNED_CASES, candidates, together
from pallas_kernels.mosaic_parts import tuning
from pallas_kernels.tiles import wide_window
from pallas_kernels.tuned import table

QKV = LLAMA_3_8B[0]
COUNTED = tuning(32, 32, QKV.width_in, QKV.widths_out)


def test_candidates_cut_the_widths_into_whole_blocks():
    for case in TUNED_CASES:
        for group in LLAMA_3_8B:
            counted = tuning(case.num_tokens, wide_window(case.num_tokens), group.width_in, group.widths_out)
            for how in candidates(counted, group):
                assert group.width_in % (how.splits * how.in_block) == 0
                assert all(width % (how.out_block * how.repeats) == 0 for width in group.widths_out)


def test_the_best_of_each_field_is_tried_together():
    quick, slow = replace(COUNTED, in_stages=3), replace(COUNTED, in_stages=2)
    times_us = {COUNTED: 5.0, quick: 4.0, slow: 6.0, replace(COUNTED, out_stages=1): 4.5}
    assert together(COUNTED, times_us) == replace(COUNTED, in_stages=3, out_stages=1)


def test_rows_come_back_as_the_kernels_read_them(tmp_path):
    row = {"num_tokens": 32, "width_in": 4096, "widths_out": (4096, 1024, 1024), "tuning": asdict(COUNTED), "us": 1.0}
    (tmp_path / "gpu.json").write_text(json.dumps({"rows": [row]}))
    assert table(tmp_path / "gpu.json") == {(32, 4096, (4096, 1024, 1024)): COUNTED}
