import numpy as np
import zarr

from actstore.training import RECIPES, plan_sweep, record_sweep


def layout(run):
    """Return path, dims, dtype, shape and chunks of every array of a run."""
    return {
        array.path.removeprefix(run.path): (
            array.metadata.dimension_names,
            array.dtype,
            array.shape,
            array.chunks,
            array.shards,
        )
        for _, array in run.members(max_depth=None)
        if isinstance(array, zarr.Array) and "/moments/" not in array.path  # a cache of queries
    }


def only_run(store):
    (run,) = (group for _, group in zarr.open_group(store, mode="r").groups())
    return run


def test_a_loop_of_one_s_own_learns_and_gives_the_store_that_a_sweep_gives(tmp_path, own_store):
    own = only_run(own_store)
    np.testing.assert_array_equal(own["epoch"][:], [0, 5, 10, 15, 20])
    assert own["test_error"][0] > 0.7
    assert own["test_error"][-1] < 0.05
    plans = plan_sweep(RECIPES["digits"], widths=[64], epochs=4, schedule="0,every:1")
    record_sweep(tmp_path / "sweep.zarr", plans)
    sweep = only_run(tmp_path / "sweep.zarr")
    assert layout(own) == layout(sweep)
    assert own.attrs.keys() == sweep.attrs.keys()
