"""Cross-validation: which fold a sample is in, and which networks have not seen it."""

from __future__ import annotations

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Splits whose samples are divided into folds; split of a sample that was predicted by networks that have not seen it.
DIVIDED_SPLITS, HELD_OUT_SPLIT = ("train", "validation"), "cross-validation"


def divide_into_folds(names: Iterable[str], folds: int | Sequence[Sequence[str]]) -> dict[str, int]:
    """Divide samples into folds, by pattern or by the hash of their names.

    By hash, new samples leave old ones where they are, but for one case.
    Where so few samples are in a fold that it has less than half of its share, it is filled up from the largest folds:
    then a new sample may move an old one.

    Parameters
    ----------
    names : iterable of str
        Names of samples, in any order. Those of the same name in several data sets are in the same fold.
    folds : int or list of list of str
        Number of folds, or patterns of the names in each (the first that matches counts).

    Returns
    -------
    dict
        Name -> its fold, from 1.

    Raises
    ------
    ValueError
        If a fold would be empty, or a name matches none of the patterns.

    Examples
    --------
    >>> divide_into_folds(["a1", "a2", "b1"], [["a*"], ["b*"]])
    {'a1': 1, 'a2': 1, 'b1': 2}
    """
    ordered, count = sorted(set(names)), folds if isinstance(folds, int) else len(folds)
    if len(ordered) < count:
        raise ValueError(
            f"{count} folds need at least {count} annotated samples that are not for tests; there are {len(ordered)}"
        )
    if isinstance(folds, int):
        return _by_hash(ordered, folds)
    found = {}
    for name in ordered:
        matching = [
            number
            for number, patterns in enumerate(folds, 1)
            if any(fnmatch.fnmatchcase(name, part) for part in patterns)
        ]
        if not matching:
            raise ValueError(
                f"sample {name!r} is in none of the folds; add its name, or a pattern that it matches, to one of them"
            )
        found[name] = matching[0]
    for number in range(1, count + 1):
        if number not in found.values():
            raise ValueError(
                f"no sample is in fold {number} ({', '.join(folds[number - 1])}); samples are: {_some(ordered)}"
            )
    return found


def _by_hash(names: list[str], count: int) -> dict[str, int]:
    place = {
        name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"fold").digest()) for name in names
    }
    found, least = {name: place[name] % count + 1 for name in names}, max(1, len(names) // (2 * count))
    sizes = Counter(found.values())
    for number in range(1, count + 1):
        while sizes[number] < least:
            largest = min(sizes, key=lambda fold: (-sizes[fold], fold))
            moved = min((name for name in names if found[name] == largest), key=lambda name: place[name])
            found[moved] = number
            sizes[number] += 1
            sizes[largest] -= 1
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def folds_of_samples(stamps: Mapping[str, Any], folds: int | Sequence[Sequence[str]]) -> dict[str, int]:
    """Folds of all samples for training and validation.

    Parameters
    ----------
    stamps : mapping
        Data set -> stamp with the split of each sample.
    folds : int or list of list of str
        As for `divide_into_folds`.

    Returns
    -------
    dict
        ``<data set>/<sample>`` -> its fold, from 1.
    """
    names = [
        (dataset, name)
        for dataset, stamp in stamps.items()
        for name, entry in stamp["samples"].items()
        if entry["split"] in DIVIDED_SPLITS
    ]
    found = divide_into_folds((name for _, name in names), folds)
    return {f"{dataset}/{name}": found[name] for dataset, name in names}


def split_in_training(plan: Mapping[str, Any], key: str, split: str) -> str:
    """Split that a sample had in the training of the network of a plan.

    Without folds this is the sample's own split. With folds a sample is for validation in one network and trains the
    others.
    """
    number = plan.get("folds", {}).get(key)
    return split if number is None else "validation" if number == plan["fold"] else "train"


def holds_out(plan: Mapping[str, Any], key: str) -> bool:
    """Whether a sample is in the fold on which the network of a plan was validated, not trained."""
    return bool("folds" in plan and plan["folds"].get(key) == plan["fold"])


def may_predict(plan: Mapping[str, Any], key: str) -> bool:
    """Whether the network of a plan is asked about a sample: with folds not if it was trained on it."""
    return key not in plan.get("folds", {}) or holds_out(plan, key)


def split_in_scores(plans: Sequence[Mapping[str, Any]], key: str, split: str) -> str:
    """Split that a sample has in the scores of a model.

    This is its own split, or cross-validation where all networks of these plans held it out.
    """
    return HELD_OUT_SPLIT if all(holds_out(plan, key) for plan in plans) else split
