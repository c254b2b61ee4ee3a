"""Measured speed, side by side with what a user would pick instead: `python -m benchmarks`.

A benchmark is a module with `run(folder) -> Section`, named in `benchmarks.__main__`.
"""
