"""Safetensors files: what is read, and every way to be hostile that we know."""

import json
import os
import struct
import time

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints.safetensors_files import MAX_HEADER_BYTES, TensorFiles
from lorajax.errors import MalformedCheckpoint


def packed(header, data=b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def refusal(tmp_path, content: bytes, **limits) -> str:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(MalformedCheckpoint) as caught:
        TensorFiles.open([path], **limits)
    message = str(caught.value)
    assert message.startswith("bad.safetensors: ")
    assert "\n" not in message
    assert len(message) < 300
    return message


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    wanted = {"a": np.arange(12).reshape(3, 4).astype(dtype), "b": np.array(1.5, dtype)}
    save_file(wanted, tmp_path / "x.safetensors")
    files = TensorFiles.open([tmp_path / "x.safetensors"])
    for name, values in wanted.items():
        got = files.read(name)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, values)


def test_several_files_are_one_set(tmp_path):
    paths = [tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    for number, path in enumerate(paths):
        save_file({f"t{number}": np.full(3, number, np.float32)}, path)
    files = TensorFiles.open(paths)
    assert [files.read(f"t{number}").tolist() for number in range(2)] == [[0, 0, 0], [1, 1, 1]]


def test_metadata_is_not_a_tensor(tmp_path):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert list(TensorFiles.open([tmp_path / "x.safetensors"]).entries) == ["a"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated"),
        (b"\x01\x02\x03", "truncated"),
        (struct.pack("<Q", 2**63) + b"{}", "truncated"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (packed(b"hello"), "does not begin"),
        (packed(b"{not json"), "not JSON"),
        (packed(b'{"a":\xff\xfe}'), "not JSON"),
        (packed(b"[]"), "does not begin"),
        (packed(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "nested too deeply"),
        (packed(b'{"a":' * 200_000 + b"1" + b"}" * 200_000), "nested too deeply"),
        (packed(b'{"a":' + b"9" * 5000 + b"}"), "not JSON"),
        (packed(b'{"a":{},"a":{}}'), "'a' is there twice"),
        (packed({"__metadata__": {"a": 1}}), "__metadata__"),
        (packed({"__metadata__": []}), "__metadata__"),
        (packed({"w": 3}), "'w' must have dtype"),
        (packed({"w": entry(0, 8) | {"more": 1}}, bytes(8)), "'w' must have dtype"),
        (packed({"w": entry(0, 16, dtype="F64")}, bytes(16)), "'w' has dtype 'F64'"),
        (packed({"w": entry(0, 2, dtype="I8")}, bytes(2)), "'w' has dtype 'I8'"),
        (packed({"w": entry(0, 2, dtype=[])}, bytes(2)), "'w' has dtype []"),
        (packed({"w": entry(-8, 0)}), "'w' has data_offsets [-8, 0]"),
        (packed({"w": entry(0, 8.0)}, bytes(8)), "'w' has data_offsets"),
        (packed({"w": entry(*[False, 8])}, bytes(8)), "'w' has data_offsets"),
        (packed({"w": entry(8, 0)}, bytes(8)), "'w' leaves a hole"),
        (packed({"w": entry(0, 8, shape=[-2])}, bytes(8)), "'w' has shape [-2]"),
        (packed({"w": entry(0, 0, shape=[0])}), "'w' has shape [0]"),
        (packed({"w": entry(0, 8, shape=[2] + [1] * 100)}, bytes(8)), "'w' has shape"),
        (packed({"w": entry(0, 8, shape=[2**62, 4])}, bytes(8)), "'w' has 8 bytes"),
        (packed({"w": entry(0, 8, shape=[3])}, bytes(8)), "'w' has 8 bytes; F32 [3] takes 12"),
        (packed({"v": entry(0, 8), "w": entry(4, 12)}, bytes(12)), "'w' overlaps"),
        (packed({"v": entry(0, 8), "w": entry(0, 8)}, bytes(8)), "'w' overlaps"),
        (packed({"v": entry(0, 8), "w": entry(12, 20)}, bytes(20)), "'w' leaves a hole"),
        (packed({"w": entry(4, 12)}, bytes(12)), "'w' leaves a hole"),
        (packed({"w": entry(0, 8)}, bytes(7)), "truncated"),
        (packed({"w": entry(0, 8)}, bytes(9)), "trailing"),
        (packed({"x" * 100_000: 3}), "must have dtype"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_file_is_refused_in_one_line(tmp_path, content, says):
    assert says in refusal(tmp_path, content)


def test_huge_header_is_refused_unread(tmp_path):
    tensors = {f"t{number}": entry(number * 4, number * 4 + 4, shape=[1]) for number in range(1000)}
    body = json.dumps(tensors).encode()[1:-1]
    header = b"{" + b",".join([body] * (67_000_000 // len(body))) + b"}"
    content = packed(header)
    assert f"at most {MAX_HEADER_BYTES}" in refusal(tmp_path, content)
    path = tmp_path / "bad.safetensors"
    start_s = time.monotonic()
    with pytest.raises(MalformedCheckpoint):
        TensorFiles.open([path])
    assert time.monotonic() - start_s < 0.1


def test_too_many_tensors_are_refused(tmp_path):
    header = {f"t{number}": entry(number * 8, number * 8 + 8) for number in range(4)}
    assert "more than 3 tensors" in refusal(tmp_path, packed(header, bytes(32)), max_tensors=3)


def test_name_in_two_files_is_refused(tmp_path):
    paths = [tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    for path in paths:
        save_file({"w": np.zeros(2, np.float32)}, path)
    with pytest.raises(MalformedCheckpoint, match=r"y.safetensors: tensor 'w' is in x.safetensors too"):
        TensorFiles.open(paths)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MalformedCheckpoint, match=r"gone.safetensors: no such file"):
        TensorFiles.open([tmp_path / "gone.safetensors"])


def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(MalformedCheckpoint, match=r"pipe.safetensors: not a regular file"):
        TensorFiles.open([tmp_path / "pipe.safetensors"])


def test_file_cut_short_after_its_check_is_an_error_not_a_crash(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.zeros(100_000, np.float32)}, path)
    files = TensorFiles.open([path])
    os.truncate(path, 4096)
    with pytest.raises(MalformedCheckpoint, match="the file changed"):
        files.read("w")


def test_file_replaced_after_its_check_is_not_read(tmp_path):
    path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    save_file({"w": np.zeros(8, np.float32)}, path)
    files = TensorFiles.open([path])
    save_file({"w": np.ones(8, np.float32)}, other)
    other.rename(path)
    with pytest.raises(MalformedCheckpoint, match="the file changed"):
        files.read("w")


def test_file_deleted_after_its_check_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.zeros(8, np.float32)}, path)
    files = TensorFiles.open([path])
    path.unlink()
    with pytest.raises(MalformedCheckpoint, match="No such file"):
        files.read("w")
