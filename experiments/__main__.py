"""`python -m experiments` is the `ceus` command."""

from experiments.cli import main

main()
