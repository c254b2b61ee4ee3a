"""Settings of a run as words: what a configuration names, in short."""

from collections.abc import Mapping


def in_use(name: str, modality: str) -> bool:
    """Whether a setting has a say in models of a modality."""
    if name.startswith("image"):
        return modality != "video"
    if name.startswith(("video", "num_frames")) or name.endswith("_sampling"):
        return modality != "image"
    return name != "head" or modality == "combined"


def brief(value: object) -> str:
    """A value of a configuration in a few words; a constructor as `Name(argument=value)`."""
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return str(value)
    if "class_path" in value:
        arguments = value.get("init_args") or {}
        inner = ", ".join(f"{k}={v}" for k, v in arguments.items() if not isinstance(v, Mapping))
        return f"{str(value['class_path']).split('.')[-1]}({inner})"
    return ", ".join(f"{k}={v}" for k, v in value.items())
