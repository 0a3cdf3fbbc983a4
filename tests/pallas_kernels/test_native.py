"""The C++ kernels: the reference's numbers, nobody else's pages, and the same bits in any batch."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pallas_kernels import native
from pallas_kernels.ops import NATIVE
from tests.pallas_kernels import claims

OPS = claims.jitted(NATIVE)
pytestmark = pytest.mark.usefixtures("native_kernels")


def _writer(command):
    """A compiler that writes what `command` prints."""
    script = f'for last; do :; done; {command} > "$last"'
    return shlex.join(["sh", "-c", script, "sh"])


DAMAGED = _writer("echo damaged")
BUILD_AFTER_EACH_CHANGE = """
import contextlib, pathlib, sys
from pallas_kernels import native
folder = pathlib.Path("built")
folder.mkdir()
for source in (None, *sorted(pathlib.Path("pallas_kernels/cpu").iterdir())):
    if source:
        source.write_text(source.read_text() + "// changed")
    with contextlib.suppress(NotImplementedError):
        native.load(folder, sys.argv[1])
"""


@claims.each_dtype
@claims.each_lora_case
def test_lora_agrees_with_the_reference(case, dtype):
    claims.lora_agrees(OPS.lora, case, dtype)


@claims.each_dtype
@claims.each_attention_case
def test_attention_agrees_with_the_reference(case, dtype):
    claims.attention_agrees(OPS.attention, case, dtype)


@claims.each_lora_case
def test_unnamed_pages_are_never_read(case):
    claims.unnamed_pages_are_never_read(OPS.lora, case)


@claims.each_adapter_case
def test_a_broken_adapter_harms_its_own_tokens_only(case):
    claims.a_broken_adapter_harms_its_own_tokens_only(OPS.lora, case)


@claims.each_lora_case
def test_a_broken_token_harms_itself_only(case):
    claims.a_broken_token_harms_itself_only(OPS.lora, case)


@claims.each_attention_case
def test_what_is_not_seen_is_never_read(case):
    claims.what_is_not_seen_is_never_read(OPS.attention, case)


@claims.each_attention_case
def test_a_broken_sequence_harms_itself_only(case):
    claims.a_broken_sequence_harms_itself_only(OPS.attention, case)


@claims.each_dtype
@claims.each_lora_case
def test_a_run_has_the_same_bits_alone(case, dtype):
    for index in range(len(case.runs)):
        together, alone = claims.run_alone(OPS.lora, case, index, dtype)
        np.testing.assert_array_equal(together, alone)


@claims.each_dtype
@claims.each_attention_case
def test_a_sequence_has_the_same_bits_alone(case, dtype):
    for index in range(len(case.sequences)):
        together, alone = claims.sequence_alone(OPS.attention, case, index, dtype)
        np.testing.assert_array_equal(together, alone)


def test_a_second_load_builds_nothing(pytestconfig):
    native.load(pytestconfig.cache.mkdir("kernels"), "false")


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("c++") is None
    with pytest.raises(NotImplementedError, match=r"no C\+\+ compiler .* install one"):
        native.load(tmp_path, None)


@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("false", "false cannot build them: exit code 1"),
        ("sh -c 'echo no such flag >&2; exit 1'", "cannot build them: no such flag"),
        ("/opt/gone/g++", "/opt/gone/g[+][+]"),
        ("true", "No such file"),
        ("g++ 'unclosed", "not a command line"),
    ],
)
def test_a_compiler_that_fails_is_named_in_one_line_and_leaves_nothing(tmp_path, compiler, says):
    with pytest.raises(NotImplementedError, match=says) as caught:
        native.load(tmp_path, compiler)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files_is_named(tmp_path):
    with pytest.raises(NotImplementedError, match="gone"):
        native.load(tmp_path / "gone", "true")


def test_a_library_that_cannot_be_loaded_is_reported(tmp_path):
    """As in a folder mounted noexec."""
    with pytest.raises(NotImplementedError, match="cannot be built and loaded"):
        native.load(tmp_path, DAMAGED)


def test_a_damaged_library_is_built_anew(pytestconfig, tmp_path):
    with pytest.raises(NotImplementedError):
        native.load(tmp_path, DAMAGED)
    (library,) = tmp_path.iterdir()
    whole = pytestconfig.cache.mkdir("kernels") / library.name
    # In a process of its own: XLA takes a kernel of one name once.
    code = "import sys, pathlib; from pallas_kernels import native; native.load(pathlib.Path(sys.argv[1]), sys.argv[2])"
    compiler = _writer(f"cat {shlex.quote(str(whole))}")
    subprocess.run([sys.executable, "-c", code, tmp_path, compiler], cwd=pytestconfig.rootpath, check=True)
    assert library.read_bytes() == whole.read_bytes()


def test_a_change_of_any_source_is_built_anew(tmp_path):
    shutil.copytree(Path(native.__file__).parent, tmp_path / "pallas_kernels")
    subprocess.run([sys.executable, "-c", BUILD_AFTER_EACH_CHANGE, DAMAGED], cwd=tmp_path, check=True)
    assert len(list((tmp_path / "built").iterdir())) == len(list(native._SOURCES.glob("*.*"))) + 1
