"""From YAML files and overrides to a resolved run with an id."""
