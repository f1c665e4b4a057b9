"""Versions of the methods: a step whose number here is raised counts all that it made before as old.

The number of a step is raised in the same change that makes its results others: other values for the same data and
options, not other messages, names or speed. ``tests/test_method.py`` runs small fixed data through each step, and fails
where what comes out has changed and the number has not.
"""

from __future__ import annotations

VERSIONS = {
    "groundtruth": 2,
    "weights": 2,
    "plan": 2,
    "train": 1,
    "ensemble": 1,
    "predict": 1,
    "tune": 1,
    "instances": 2,
    "measures": 1,
    "evaluate": 1,
    "report": 1,
}

# What stands for version 1 in digests: it names the code of release 0.1.0, so that what that release made stays valid.
_FIRST = {
    "groundtruth": "0b357ef536941b7a6db4",
    "weights": "b63561677bbce2c38614",
    "plan": "2bf7869cb28395c8ea6c",
    "train": "015f9e803da6cfe33359",
    "ensemble": "d0f9193bcaac5b56ca84",
    "predict": "58f79e2aa6e13b949db2",
    "instances": "28f7d14a772a0b74b1c2",
    "tune": "tune 1",
    "measures": "measures 1",
    "evaluate": "b0f647a9b0fa84bce18c",
    "report": "dc1bb39e8667043d12e3",
}


def method(step: str, as_before: bool = False) -> str:
    """Name of the method of a step, for digests and the params of rules.

    Parameters
    ----------
    step : str
        Name of the step, ``ensemble``, ``tune``, or ``measures``: what `instances.measure` adds to tables of objects.
    as_before : bool
        Whether the version of now makes these results as the version before it did, which then stay valid.

    Returns
    -------
    str
        The same as long as the step gives the same results.
    """
    version = VERSIONS[step] - as_before
    return _FIRST[step] if version == 1 else f"{step} {version}"


def method_of_instances(split: float | str | None, min_size: int | str) -> str:
    """Name of the method of the step instances, whose version 2 differs in pieces of a split that are too small.

    Parameters
    ----------
    split, min_size
        Options of the step.
    """
    return method("instances", as_before=split is None or min_size in (0, 1))
