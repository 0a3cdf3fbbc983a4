import platform

import psutil
import pytest

from cluster.memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told to")
def test_what_was_freed_between_pieces_that_stay_goes_back_to_the_system():
    pieces = [bytearray(b"x" * 100_000) for _ in range(1000)]
    kept, resident = pieces[::10], psutil.Process().memory_info().rss
    del pieces
    give_back()
    assert resident - psutil.Process().memory_info().rss > 50_000_000
    assert len(kept) == 100


def test_giving_back_twice_does_no_harm():
    give_back()
    give_back()
