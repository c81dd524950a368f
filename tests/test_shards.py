import asyncio

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, GzipCodec
from zarr.core.buffer import default_buffer_prototype

from actstore.storage import layout
from actstore.storage.local import LocalFiles
from actstore.storage.reading import chunk_names
from actstore.storage.shards import write_epoch


@pytest.fixture
def group(tmp_path):
    return zarr.create_group(LocalFiles(tmp_path / "s.zarr"), zarr_format=3)


def values(samples, width, *, sparse=False):
    x = np.random.default_rng(samples).normal(size=(samples, width)).astype("float32")
    return np.where(x > 0.8, x, 0).astype("float32") if sparse else x


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("samples", "width"), [(3, 1), (2048, 256), (2049, 257), (4500, 600)])
def test_zarr_reads_what_was_written_and_would_have_taken_the_same_room(
    group, samples, width, sparse
):
    x = values(samples, width, sparse=sparse)
    array = layout.create_activations(group, slots=3, samples=samples, width=width, sparse=sparse)
    names = chunk_names(array, 1)
    folder = group.store.root / array.path
    array[1] = x
    zarrs = {name: (folder / name).stat().st_size for name in names}
    write_epoch(array, 1, x)
    ours = {name: (folder / name).stat().st_size for name in names}
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[1], x)
    assert ours == zarrs
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def test_blocks_of_samples_are_written_apart(group):
    x = values(100, 4)
    array = layout.create_activations(group, slots=2, samples=100, width=4, sparse=False, blocks=3)
    _, rows, _ = array.shards or array.chunks
    for first in range(0, 100, rows):
        write_epoch(array, 0, x[first : first + rows], first=first)
    np.testing.assert_array_equal(array[0], x)
    assert len(chunk_names(array, 0)) == 3


def test_an_array_with_codecs_of_others_is_left_to_zarr(group):
    array = group.create_array(
        "activations",
        shape=(2, 10, 4),
        chunks=(1, 5, 4),
        dtype="float32",
        serializer=BytesCodec(),
        compressors=[GzipCodec()],
    )
    x = values(10, 4)
    write_epoch(array, 1, x)
    np.testing.assert_array_equal(array[1], x)


def test_a_flipped_bit_is_noticed(group):
    array = layout.create_activations(group, slots=1, samples=3000, width=300, sparse=False)
    write_epoch(array, 0, values(3000, 300))
    path = group.store.root / array.path / chunk_names(array, 0)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        array[0]


def test_a_file_that_is_there_is_not_written_beside_itself_first(tmp_path, monkeypatch):
    files = LocalFiles(tmp_path / "s.zarr")
    zarr.create_group(files, zarr_format=3)

    def refuse(*_args, **_keywords):
        raise AssertionError("another process could sweep this file away")

    monkeypatch.setattr("zarr.storage._local._put", refuse)
    document = default_buffer_prototype().buffer.from_bytes(b"{}")
    asyncio.run(files.set_if_not_exists("zarr.json", document))
    with pytest.raises(AssertionError, match="sweep"):
        asyncio.run(files.set_if_not_exists("other/zarr.json", document))
