"""Imports what jobs import only when they need it, once for all processes that are forked afterwards."""

from importlib import import_module

from numba.core.registry import cpu_target

for name in (
    "docutils.parsers.rst.directives.images",
    "matplotlib.backends.backend_svg",
    "nbformat",
    "pandas.io.formats.format",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "skimage.color",
    "smart_open",
    "snakemake.report",
    "tensorboardX",
    "tifffile",
    "torch._dynamo",
):
    import_module(name)
# Numba imports its own modules when it compiles, or loads, its first function.
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
