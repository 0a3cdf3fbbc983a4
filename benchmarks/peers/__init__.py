"""Other servers, run beside ours on the same work.

Owns: their environments, scripts and inputs. Does not: compare them with ours (bench_engine does).
"""
