"""Everything that knows Zarr: where bytes go, how an epoch is committed, how it is read."""
