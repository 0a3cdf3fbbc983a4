"""Numbered pages of device memory: which are taken. Owns: the free list. Does not: touch memory."""

from collections.abc import Sequence


class PagePool:
    """Equal pages, handed out and taken back by number; the same class counts KV pages and adapter pages.

    Page 0 is never handed out: it is the page of zeros that padding reads and the trash that padding writes.
    Invariant: a page is free or taken once, never both.
    Owner: the engine thread. Not thread-safe.
    """

    def __init__(self, num_pages: int) -> None:
        """Make a pool over pages 1 … `num_pages` - 1; `num_pages` counts page 0, as the device array does."""
        if num_pages < 1:
            raise ValueError(f"num_pages is {num_pages}; page 0 alone needs 1")
        self._free = list(range(num_pages - 1, 0, -1))
        self._num_total = num_pages - 1
        self._is_taken = bytearray(num_pages)

    @property
    def num_total(self) -> int:
        """Pages that can be handed out."""
        return self._num_total

    @property
    def num_free(self) -> int:
        """Pages that can be handed out now."""
        return len(self._free)

    def take(self, num_pages: int) -> tuple[int, ...]:
        """Hand out free pages; the caller has checked `num_free`."""
        free, is_taken = self._free, self._is_taken
        place = len(free) - num_pages
        assert 0 <= place <= len(free), f"{num_pages} pages asked for, {len(free)} free"
        pages = tuple(reversed(free[place:]))
        del free[place:]
        for page in pages:
            is_taken[page] = True
        return pages

    def give_back(self, pages: Sequence[int]) -> None:
        """Make pages free again."""
        is_taken = self._is_taken
        for page in pages:
            assert is_taken[page], f"page {page} is free already"
            is_taken[page] = False
        self._free += pages
