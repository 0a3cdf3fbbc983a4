"""Open-loop drivers: a workload, a server that runs, a run's record. Simulates and judges nothing."""
