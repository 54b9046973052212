"""What `make bench` runs: each `bench_*` module is a script of its own, on the real parts, bounded in time."""
