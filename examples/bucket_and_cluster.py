"""Ask a store in a bucket, on a cluster: each worker reads the epochs it computes with.

Copy a store there with ``actstore merge s3://bucket/digits.zarr digits.zarr``, then run
``python examples/bucket_and_cluster.py s3://bucket/digits.zarr tcp://scheduler:8786``. Without an
address two processes of this machine are the cluster. Keys are those that other S3 tools use:
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION`` and, if it is not Amazon's,
``AWS_ENDPOINT_URL``.
"""

import sys

from distributed import Client, LocalCluster

import actstore


def ask(path: str) -> None:
    store = actstore.open(path).sel(epoch=-1)

    # Before anything is read: how many bytes, tasks and operations the answer costs.
    print(store.explain("scaling", threshold=0.95))

    # The activations go from the bucket to the workers; what comes here is the answer.
    with actstore.progress():
        answer = store.scaling(threshold=0.95).compute()

    for setting in answer.setting.values:
        one = answer.sel(setting=setting, threshold=0.95)
        law = f"n_clones ~ width^{one.exponent.item():.2f}" if one.exponent.notnull() else "no fit"
        print(f"\n{setting}: {law}")
        print(one.n_clones.to_pandas().round(1).to_string())


def main(path: str, address: str | None = None) -> None:
    if address is not None:
        with Client(address):
            ask(path)
        return
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        ask(path)


if __name__ == "__main__":  # worker processes import this file too
    if len(sys.argv) < 2:
        sys.exit(f"which store? {__doc__}")
    main(*sys.argv[1:3])
