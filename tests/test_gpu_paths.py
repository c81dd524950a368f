"""The paths that only a GPU takes, on a machine without one: its streams are queues of jobs.

What is computed on a device is there only when the jobs of its stream have run, and a copy that
is not waited for is a job of the stream that is current on the device it comes from, as in
https://docs.pytorch.org/docs/stable/notes/cuda.html. This shows whom the recorder waits for and
in what order; it does not show that a GPU does the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actstore.recording import rows as rows_module
from actstore.recording.capture import Tap, _join, device_order
from actstore.recording.moments import MomentSum
from actstore.recording.rows import Rows
from actstore.recording.state import random_state, set_random_state
from actstore.recording.watch import Watch, one_a_sample

Current = dict[torch.device, "Queue"]


class Queue:
    """A stream: its jobs run when it is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.jobs: list[Callable[[], object]] = []
        self.waited = 0

    def wait_stream(self, other: Queue) -> None:
        """Let what follows begin after what the other stream was given until now."""
        held, other.jobs = other.jobs, []
        done: list[None] = []

        def once() -> None:
            if not done:
                done.append(None)
                for job in held:
                    job()

        other.jobs.append(once)
        self.jobs.append(once)

    def synchronize(self) -> None:
        """Run the jobs."""
        self.waited += 1
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


class OnDevice(Tensor):
    """A tensor that says it is on the first GPU, and is copied when its stream gets to it."""

    device = torch.device("cuda", 0)
    current: ClassVar[Current] = {}
    users: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Put off a copy to the host that is not to be waited for."""
        if function is Tensor.copy_ and (kwargs or {}).get("non_blocking"):
            to, source = (each.as_subclass(Tensor) for each in args[:2])
            stream = source_of(args[1]).current[args[1].device]
            stream.jobs.append(lambda: to.copy_(source))
            return args[0]
        return super().__torch_function__(function, types, args, kwargs or {})

    def record_stream(self, stream: Any) -> None:
        """Note who still reads the memory."""
        self.users.append(stream)


class OnSecond(OnDevice):
    """One on the second GPU."""

    device = torch.device("cuda", 1)


def source_of(tensor: Any) -> Any:
    return type(tensor)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Current:
    """Stand in for torch.cuda, and for pinned memory; return the current stream of each device."""
    current = {kind.device: Queue(kind.device) for kind in (OnDevice, OnSecond)}
    empty = torch.empty

    @contextlib.contextmanager
    def use(stream: Queue | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        before, current[stream.device] = current[stream.device], stream
        yield
        current[stream.device] = before

    monkeypatch.setattr(OnDevice, "current", current)
    monkeypatch.setattr(OnDevice, "users", [])
    monkeypatch.setattr(torch.cuda, "Stream", Queue)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[device])
    monkeypatch.setattr(torch.cuda, "stream", use)
    monkeypatch.setattr(
        rows_module.torch, "empty", lambda *shape, pin_memory=False: empty(*shape).fill_(torch.nan)
    )
    return current


def computed(values: Tensor, streams: Current, kind: type[OnDevice] = OnDevice) -> OnDevice:
    """Return a batch whose values are there when its stream has computed them."""
    batch = torch.full_like(values, torch.nan)
    streams[kind.device].jobs.append(lambda: batch.copy_(values))
    return batch.as_subclass(kind)


# rows


def test_a_batch_is_copied_after_it_is_computed_and_before_it_is_written(streams: Current) -> None:
    batches = [torch.randn(n, 4) for n in (3, 5, 2)]
    rows = Rows()
    for batch in batches:
        rows.append(computed(batch, streams))
    np.testing.assert_array_equal(rows.array(), torch.cat(batches).numpy())


def test_the_device_is_not_waited_for_until_rows_are_written(streams: Current) -> None:
    rows = Rows()
    rows.append(computed(torch.randn(8, 4), streams))
    rows.clear()
    own: Any = rows._stream
    before = own.waited  # for new memory it is, with nothing to do yet
    for _ in range(2):
        rows.append(computed(torch.randn(4, 4), streams))  # the memory of the first is enough
    assert own is not streams[OnDevice.device]
    assert (own.waited, streams[OnDevice.device].waited) == (before, 0)


def test_memory_of_a_batch_is_kept_until_its_copy_is_done(streams: Current) -> None:
    rows = Rows()
    rows.append(computed(torch.randn(3, 4), streams))
    assert OnDevice.users == [rows._stream]


def test_memory_is_used_again_only_after_its_rows_were_written(streams: Current) -> None:
    rows = Rows()
    rows.append(computed(torch.ones(3, 2), streams))
    assert rows.array().tolist() == [[1, 1]] * 3
    rows.clear()
    rows.append(computed(torch.zeros(3, 2), streams))
    assert rows.array().tolist() == [[0, 0]] * 3


def test_a_model_that_moves_to_another_device_loses_no_row(streams: Current) -> None:
    first, second = torch.randn(3, 4), torch.randn(2, 4)
    rows = Rows()
    rows.append(computed(first, streams))
    rows.append(computed(second, streams, OnSecond))
    np.testing.assert_array_equal(rows.array(), torch.cat([first, second]).numpy())


# moments


def test_moments_are_summed_in_the_stream_that_computed_the_batches(
    streams: Current, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's thread asks for them while the default stream is current there."""
    used = []
    total = MomentSum()
    with torch.cuda.stream(Queue(OnDevice.device)):  # type: ignore[arg-type]
        training: Any = streams[OnDevice.device]
        total.add(torch.randn(30, 3).as_subclass(OnDevice))
    monkeypatch.setattr(total, "settle", lambda: used.append(streams[OnDevice.device]))
    total.moments()
    assert used == [training]


# labels


class Labels(OnDevice):
    """Labels that count how often the host waits for them."""

    asked = 0

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        """Wait, and return them."""
        type(self).asked += 1
        return self.as_subclass(Tensor)


def test_labels_on_a_gpu_are_not_waited_for_before_the_split_ends() -> None:
    class Nothing:
        def take(self, rows: int) -> dict[str, Tensor]:
            return {}

    watch = Watch("test", {}, Nothing(), None)  # type: ignore[arg-type]
    given = [torch.tensor([1, 2, 3]), torch.tensor([[4], [5]])]
    for each in given:
        held = each.as_subclass(Labels)
        watch.keep(held)
        each.zero_()  # the batch's memory is the loader's, which may fill it again
    assert Labels.asked == 0
    assert watch.all_labels().tolist() == [1, 2, 3, 4, 5]
    assert Labels.asked == 2


def test_labels_of_the_host_are_copied_too() -> None:
    given = torch.tensor([1, 2])
    kept = one_a_sample(given)
    given.zero_()
    assert kept.tolist() == [1, 2]


# DataParallel


class Part:
    """A part of a batch as one device computed it."""

    def __init__(self, index: int, rows: list[float]) -> None:
        self.device = torch.device("cuda", index)
        self.rows = rows
        self.moved: torch.device | None = None

    def to(self, device: torch.device) -> Tensor:
        """Return it on a device."""
        self.moved = device
        return torch.tensor(self.rows)


@pytest.mark.parametrize(
    ("devices", "expected"), [((0, 1, 2), [0, 1, 2]), ((2, 0, 1), [2, 0, 1]), ((), [0, 1, 2])]
)
def test_parts_of_a_batch_are_joined_in_the_order_in_which_it_was_cut(
    devices: tuple[int, ...], expected: list[int]
) -> None:
    """Whichever device ended first; the rows lie on that of the first part, at every batch."""
    tap = Tap("fc", "input", nn.Identity())
    for ended in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        parts: Any = [Part(index, [float(index)]) for index in ended]
        joined = _join(parts, tap, devices)
        assert joined.tolist() == expected
        assert {part.moved.index for part in parts} == {expected[0]}


def test_the_devices_of_a_parallel_model_are_found_inside_a_compiled_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parallel = nn.DataParallel(nn.Linear(2, 2))
    monkeypatch.setattr(parallel, "device_ids", [1, 0])
    assert device_order(torch.compile(parallel)) == (1, 0)
    assert device_order(nn.Linear(2, 2)) == ()


# random numbers


def test_a_checkpoint_of_more_gpus_than_there_are_restores_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restored: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    set_random_state({**random_state(), "cuda": ["first", "second"]})
    assert restored == ["first"]
