"""What is run (YAML) and how it is run; the `ceus` command."""

from experiments.errors import ConfigError

__all__ = ["ConfigError"]
