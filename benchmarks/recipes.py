"""Recipes of others, re-made from their papers or settings, to train beside ours."""

from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from lightning_modules import ImageClassifier, VideoClassifier
from lightning_modules.schedule import with_schedule


class TimmFinetuning(ImageClassifier):
    """timm's training script as it stands: SGD with momentum, cosine, label smoothing 0.1.

    Rate 0.1 for 256 images a step, scaled to the batch; weight decay 2e-5.
    """

    def __init__(self, encoder: nn.Module, **settings: Any) -> None:
        super().__init__(encoder, **settings)
        self.smoothed_labels = (0.05, 0.95)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD of all weights at one rate."""
        batch = self.trainer.datamodule._batch_size  # type: ignore[attr-defined]
        optimizer = torch.optim.SGD(
            self.parameters(), lr=0.1 * batch / 256, momentum=0.9, weight_decay=2e-5
        )
        return with_schedule(optimizer, self.trainer, warmup=0.05)


class EchoNetDynamic(VideoClassifier):
    """EchoNet-Dynamic's (Ouyang et al., Nature 2020): SGD, a step every 15 epochs."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD of all weights at one rate."""
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=15)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def logistic(features: Any, labels: Any, others: Any, *, components: int | None = None) -> Any:
    """Twenty lines of scikit-learn: standardise, logistic regression; log-odds of the others."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    reduce = [PCA(min(components, len(features) - 1))] if components else []
    model = make_pipeline(StandardScaler(), *reduce, LogisticRegression(max_iter=2000))
    return model.fit(features, labels).decision_function(others)


def curve_of(frames: Any) -> Any:
    """Mean grey level of a clip's central half, of frames uint8 `(T, 3, H, W)`."""
    height, width = frames.shape[-2:]
    centre = frames[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    return centre.float().mean(dim=(1, 2, 3)).numpy()
