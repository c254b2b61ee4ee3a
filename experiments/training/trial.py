"""What a configuration names, made apart from any run to see whether it can be."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser
from lightning import LightningModule
from torch import nn

from experiments.config.study import study_keys
from experiments.errors import ConfigError
from lightning_modules import PatientClassifier
from lightning_modules.probe import LinearRule


class StandIn(nn.Module):
    """In the place of an encoder, where a model is made without."""

    num_features = 2


def instantiate(kind: type, node: Mapping[str, Any]) -> Any:
    """The object of a `class_path` and its `init_args`, a subclass of `kind`.

    Raises:
        Exception: What its constructor raised, which jsonargparse would wrap.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "made")
    try:
        return parser.instantiate_classes(parser.parse_object({"made": dict(node)})).made
    except ValueError as error:
        raise (error.__cause__ or error) from None


def check_model(config: Mapping[str, Any]) -> None:
    """Make a classifier of ours around no encoder, and its head of a rule where one is to be.

    Raises:
        ConfigError: For a setting out of range, a head that cannot start from a probe, or mirror
            images scored that training does not show.
    """
    node, study = copy.deepcopy(config["model"]), config["study"]
    for name in node["init_args"]:
        if name.endswith("encoder"):
            node["init_args"][name] = {"class_path": f"{__name__}.StandIn"}
    mirrors = node["init_args"].get("mirror_views") and study["finetune"] != "probe"
    if mirrors and _never_mirrors(config["data"]["init_args"]):
        raise ConfigError(
            "mirror_views must be false where training never shows a mirror image, got true. Set "
            "mirror_views=false, or augment.init_args.flip above 0."
        )
    if not str(node["class_path"]).startswith("lightning_modules."):
        return
    starts_from_rule = study["finetune"] == "probe" or (
        study["finetune"] == "lp-ft" and not study["warm_start"]
    )
    try:
        model = instantiate(LightningModule, node)
        if starts_from_rule and isinstance(model, PatientClassifier):
            zero = {name: np.zeros(StandIn.num_features) for name in ("image", "video")}
            nothing = dict.fromkeys(zero, 0.0)
            model.start_from_rule(LinearRule(zero, nothing, 0.0, nothing))
    except (ValueError, TypeError) as error:
        raise ConfigError(_as_users_set_it(str(error))) from error


def _never_mirrors(data: Mapping[str, Any]) -> bool:
    augment = data.get("augment")
    if augment is None:
        return True
    return (augment.get("init_args") or {}).get("flip") == 0


def _as_users_set_it(message: str) -> str:
    """A classifier's message, with the key of `study:` in the place of the argument it goes to."""
    for key in study_keys():
        message = message.replace(f"Set model.init_args.{key}.", f"Set {key}=...")
    return message
