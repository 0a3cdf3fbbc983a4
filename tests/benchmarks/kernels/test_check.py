"""Ours, interpreted on small layers, give the reference's numbers: what the benchmark checks first on a GPU."""

import pytest

from benchmarks.kernels.bank import Bank
from benchmarks.kernels.cases import TOY, TOY_CASES
from benchmarks.kernels.check import lora_errors, toy_bank
from benchmarks.kernels.lora_tasks import FORMS


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    filled = toy_bank(tmp_path_factory.mktemp("bank"), "bfloat16", seed=0)
    return Bank(filled.folder, TOY, TOY_CASES[:1], filled.dtype, filled.seed)


def test_forms_agree_with_the_reference(bank):
    forms = [form for form in FORMS if form.name in ("mosaic", "padded", "xla")]
    assert [name for name, error, allowed in lora_errors(bank, forms) if not error <= allowed] == []


def test_a_bank_is_read_as_it_was_saved(bank):
    assert Bank.load(bank.save()) == bank
