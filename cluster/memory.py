"""Memory of this process. Owns: giving back what is free. Does not: free anything, or say how much there may be."""

import ctypes


def give_back() -> None:
    """Return to the system what was freed but kept, where the C library keeps such memory (glibc) and can be told to.

    Loading, packing and compiling free hundreds of MiB between pieces that stay; glibc would keep those for good.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # a foreign object: only glibc has it
    if trim is not None:
        trim(0)
