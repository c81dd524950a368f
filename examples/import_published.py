"""Ask actstore's questions of activations that others saved: features, labels, weights, bias.

The files are made here as the paper's authors publish theirs: one tensor a file, saved with
``torch.save``. With files of your own, only the ``actstore import`` line remains. Run
``python examples/import_published.py FOLDER``; without a folder they go into a temporary one.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import actstore

WIDTHS = (32, 64)
SAMPLES, SIGNALS, CLASSES = 1000, 4, 10


def save_network(folder: Path, width: int) -> None:
    """Save a layer whose neurons all mix a few signals, and its readout."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(width)
    signals = torch.randn(SAMPLES, SIGNALS, generator=torch.Generator().manual_seed(0))
    mixing = torch.randn(SIGNALS, width, generator=generator)
    noise = 0.05 * torch.randn(SAMPLES, width, generator=generator)
    features = signals @ mixing + noise
    weight = torch.randn(CLASSES, width, generator=generator) / width**0.5
    bias = torch.zeros(CLASSES)
    torch.save(features, folder / "features.pt")
    torch.save((features @ weight.T + bias).argmax(1), folder / "labels.pt")
    torch.save(weight, folder / "weights.pt")
    torch.save(bias, folder / "bias.pt")


def main(folder: Path) -> None:
    store = folder / "published.zarr"
    for width in WIDTHS:
        files = folder / f"W{width}"
        save_network(files, width)
        command = [
            Path(sys.executable).parent / "actstore", "import", store,
            files / "features.pt", "--labels", files / "labels.pt",
            "--readout-weight", files / "weights.pt", "--readout-bias", files / "bias.pt",
            "--epoch", 200,
        ]  # fmt: skip
        subprocess.run([str(part) for part in command], check=True)
    answer = actstore.open(store).clones(threshold=0.95).set_index(run="width")
    print(answer.n_clones.squeeze().to_pandas().round(1))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
