"""`ddp_predict.py CONFIG OUT DEVICES`: predictions of a configuration's initial weights."""

import json
import sys
from pathlib import Path

from experiments.build import build
from experiments.run import predict


def main(config: Path, out: Path, devices: int) -> None:
    settings = json.loads(config.read_text())
    settings["trainer"] |= {"devices": devices, "accelerator": "cpu"}
    trainer, model, data = build(settings, root=out.parent)
    table = predict(trainer, model, data, None)
    if trainer.is_global_zero:
        table.to_parquet(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
