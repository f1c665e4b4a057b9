"""Results on disk: OME-Zarr stores whose blocks appear whole or not at all."""
