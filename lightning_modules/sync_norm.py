"""Batch norm over all processes of a run, for every kind of batch norm that encoders have."""

from lightning.pytorch.plugins import TorchSyncBatchNorm
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_KNOWN = {kind.forward for kind in (_BatchNorm, nn.SyncBatchNorm, BatchNormAct2d)}


class SyncBatchNorm(TorchSyncBatchNorm):
    """Lightning's plugin by timm's conversion, and back to what was there.

    torch's own conversion, and Lightning's way back, keep of a layer its numbers only: a batch norm
    that holds the activation, as timm's do, would lose it.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert.

        Raises:
            ValueError: For a batch norm of a kind whose further work is not known.
        """
        layers = {
            name: module
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, _BatchNorm)
        }
        for name, module in layers.items():
            if type(module).forward not in _KNOWN:
                raise ValueError(
                    "batch norm must be torch's or timm's to be synchronised, got "
                    f"{type(module).__name__} ({name}). Set trainer.sync_batchnorm=false."
                )
        self._model, self._layers = model, layers
        converted: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the layers back, with the weights and statistics that they have come to."""
        for name, layer in self._layers.items():
            parent, _, child = name.rpartition(".")
            synced = self._model.get_submodule(name)
            layer._parameters, layer._buffers = synced._parameters, synced._buffers
            layer.train(synced.training)
            setattr(self._model.get_submodule(parent), child, layer)
        return model
