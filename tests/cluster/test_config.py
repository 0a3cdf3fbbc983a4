"""How sizes and addresses are read, and what `serve` refuses to be started with."""

import pytest

from cluster.config import ServeConfig, format_bytes, is_loopback, parse_address, parse_bytes
from lorajax.config import EngineConfig

ENGINE = EngineConfig(kv_bytes=1, adapter_bytes=1, host_adapter_bytes=1)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("4096", 4096),
        ("512B", 512),
        ("64k", 64_000),
        ("1.5GB", 1_500_000_000),
        ("256MiB", 256 * 2**20),
        ("256 mib", 256 * 2**20),
        ("2Gi", 2 * 2**30),
        ("1TiB", 2**40),
    ],
)
def test_size_is_a_number_and_a_unit(text, num_bytes):
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1MiB", "1XB", "1 2", "1iB", "nan", "1e9"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (256 * 2**20, "256 MiB"), (1023 * 2**20, "1,023 MiB")],
)
def test_size_in_words_keeps_three_digits(num_bytes, text):
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("text", "address"), [("127.0.0.1:0", ("127.0.0.1", 0)), ("h:65535", ("h", 65535)), ("[::1]:80", ("[::1]", 80))]
)
def test_address_is_host_and_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "localhost", ":80", "h:", "h:x", "::1:80", "h:65536", "h:-1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=r"address|outside"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False), ("h", False)]
)
def test_loopback_is_what_only_this_machine_reaches(host, expected):
    assert is_loopback(host) is expected


def test_listening_to_other_machines_must_be_asked_for():
    with pytest.raises(ValueError, match="--insecure"):
        ServeConfig(model="m", engine=ENGINE, grpc="10.0.0.1:50051")
    with pytest.raises(ValueError, match="--http"):
        ServeConfig(model="m", engine=ENGINE, http="10.0.0.1:8000")
    assert ServeConfig(model="m", engine=ENGINE, grpc="10.0.0.1:50051", insecure=True).insecure


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 129])
def test_adapter_name_is_never_a_path(name):
    with pytest.raises(ValueError, match="letters, digits"):
        ServeConfig(model="m", engine=ENGINE, adapters=((name, "d"),))


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="names a twice"):
        ServeConfig(model="m", engine=ENGINE, adapters=(("a", "1"), ("a", "2")))


@pytest.mark.parametrize("drain_s", [-1, float("nan"), 1e9])
def test_drain_time_lies_in_its_range(drain_s):
    with pytest.raises(ValueError, match="--drain-s"):
        ServeConfig(model="m", engine=ENGINE, drain_s=drain_s)
