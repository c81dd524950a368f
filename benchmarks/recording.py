"""What recording adds to a training: the same epochs with and without it, in turn."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from actstore.recording import Recorder

from .timing import Row

WIDTH, TRAIN, TEST, BATCH = 512, 60_000, 10_000, 128
BLOCK, REPEATS = 2, 7  # epochs a measurement, and measurements


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds an epoch, on the clock and of processors: medians of the differences, too."""

    training: float
    evaluation: float
    plain: float
    recorded: float
    plain_cpu: float
    recorded_cpu: float
    written: int

    @property
    def share(self) -> float:
        """What recording adds to an epoch of training and evaluation, on the clock."""
        return self.recorded / self.plain - 1

    @property
    def share_cpu(self) -> float:
        """The same in processor time."""
        return self.recorded_cpu / self.plain_cpu - 1


def main() -> None:
    """Print what an epoch costs, its parts, and what recording adds."""
    for options in ({}, {"moments": True}, {"keep": "moments"}):
        cost = measure(**options)
        print(
            f"{_name(options)}, {_device()}\n"
            f"  training alone      {cost.training:8.3f} s an epoch\n"
            f"  evaluation alone    {cost.evaluation:8.3f} s\n"
            f"  both                {cost.plain:8.3f} s ({cost.plain_cpu:.3f} CPU)\n"
            f"  with recording      {cost.recorded:8.3f} s ({cost.recorded_cpu:.3f} CPU)\n"
            f"  added               {cost.share:8.1%}   ({cost.share_cpu:.1%} CPU)\n"
            f"  written             {cost.written / 1e6:8.1f} MB an epoch, "
            f"{cost.written / cost.recorded / 1e6:.1f} MB/s beside the training"
        )


def rows() -> list[Row]:
    """Return a line for each way to record."""
    aim = 0.02 if torch.cuda.is_available() else 0.05
    return [
        Row(
            f"{_name(options)}, {_device()}",
            f"{cost.recorded:.3g} s ({cost.recorded_cpu:.3g} CPU) an epoch",
            f"{cost.plain:.3g} s ({cost.plain_cpu:.3g} CPU) without it",
            1 + cost.share,
            1 + cost.share_cpu,
            f"<= {1 + aim:g} x",
            min(cost.share, cost.share_cpu) <= aim,
        )
        for options in ({}, {"moments": True})
        for cost in [measure(**options)]
    ]


def measure(*, repeats: int = REPEATS, scale: float = 1.0, **options: Any) -> Cost:
    """Train with and without recording in turn, and return medians.

    Parameters
    ----------
    scale
        Share of the samples, for a quick look.
    **options
        Of the recorder.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = (_data(int(n * scale), device) for n in (TRAIN, TEST))
    layers: list[nn.Module] = []
    for reads in (784, WIDTH, WIDTH):
        layers += [nn.Linear(reads, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def plain() -> None:
        for _ in range(BLOCK):
            _train(model, optimizer, train)
            model.eval()
            with torch.no_grad():
                _evaluate(model, test)

    def record(recorder: Recorder, epoch: int) -> None:
        _train(model, optimizer, train)
        with recorder.epoch(epoch) as snapshot:
            wrong = _evaluate(model, snapshot.watch(test, "test"))
            snapshot.log(test_error=wrong)

    plain()
    walls: list[tuple[float, float]] = []
    cpus: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):  # in turn, so that other load falls on both alike
            # Without an open recorder: what its thread leaves behind must not slow both down.
            without = _seconds(plain, device)
            path = Path(folder) / f"{turn}.zarr"
            recorder = Recorder(path, model, epochs=1 + BLOCK, schedule="every:1", **options)
            record(recorder, 1)  # makes the arrays
            recorder.flush()

            def recorded(recorder: Recorder = recorder) -> None:
                for epoch in range(2, 2 + BLOCK):
                    record(recorder, epoch)
                recorder.flush()

            beside = _seconds(recorded, device)
            recorder.close()
            walls.append((without[0] / BLOCK, beside[0] / BLOCK))
            cpus.append((without[1] / BLOCK, beside[1] / BLOCK))
    training = _seconds(lambda: _train(model, optimizer, train), device)[0]
    model.eval()
    with torch.no_grad():
        evaluation = _seconds(lambda: _evaluate(model, test), device)[0]
    plain_wall, plain_cpu = (statistics.median(a for a, _ in x) for x in (walls, cpus))
    more, more_cpu = (statistics.median(b / a for a, b in x) for x in (walls, cpus))
    kept = 4 * TEST * scale * WIDTH if options.get("keep") != "moments" else 0
    if options:
        kept += 8 * WIDTH * (WIDTH + 1)
    return Cost(
        training, evaluation, plain_wall, plain_wall * more, plain_cpu, plain_cpu * more_cpu,
        int(kept),
    )  # fmt: skip


def _seconds(call: Any, device: torch.device) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def _data(samples: int, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 784, generator=generator)
    y = torch.randint(0, 10, (samples,), generator=generator)
    return [
        (x[start : start + BATCH].to(device), y[start : start + BATCH].to(device))
        for start in range(0, samples, BATCH)
    ]


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterable[Any]) -> None:
    model.train()
    for x, y in data:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def _evaluate(model: nn.Module, data: Iterable[Any]) -> float:
    wrong, count = torch.zeros((), dtype=torch.long), 0
    for x, y in data:
        wrong = wrong.to(y.device) + (model(x).argmax(1) != y).sum()
        count += len(y)
    return float(wrong) / count


def _name(options: dict[str, Any]) -> str:
    kept = "moments only" if options.get("keep") else "with moments" if options else "activations"
    return f"recording {TEST:,} x {WIDTH}, {kept}"


def _device() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    sys.exit(main())
