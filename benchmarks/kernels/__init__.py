"""Our kernels beside the peers' on one GPU. Owns: cases, programs, time, judgement."""
