"""Cross-validation: which fold a sample is in, and which networks have not seen it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from unet_core.patterns import fits, names_first

# Splits whose samples are divided into folds; split of a sample that was predicted by networks that have not seen it.
DIVIDED_SPLITS, HELD_OUT_SPLIT = ("train", "validation"), "cross-validation"


def divide_into_folds(groups: Mapping[str, str], folds: int | Sequence[Sequence[str]]) -> dict[str, int]:
    """Divide samples into folds, by pattern or by the hash of their groups.

    By hash, new samples leave old ones where they are, but for one case.
    Where so few samples are in a fold that it has less than half of its share, it is filled up from the largest folds:
    then a new sample may move an old one.

    Parameters
    ----------
    groups : mapping
        Name of a sample -> its group, whose samples are in the same fold unless patterns say otherwise. Those of the
        same name in several data sets are in the same fold too.
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
    >>> divide_into_folds({"a1": "a", "a2": "a", "b1": "b"}, [["a*"], ["b*"]])
    {'a1': 1, 'a2': 1, 'b1': 2}
    """
    ordered, count = sorted(groups), folds if isinstance(folds, int) else len(folds)
    units = sorted(set(groups.values())) if isinstance(folds, int) else ordered
    if len(units) < count:
        kept = f" in {len(units)} groups, which are kept together" if len(units) < len(ordered) else ""
        raise ValueError(
            f"{count} folds need at least {count} annotated samples that are not for tests; "
            f"there are {len(ordered)}{kept}"
        )
    if isinstance(folds, int):
        by_group = _by_hash(units, folds)
        return {name: by_group[groups[name]] for name in ordered}
    found = {}
    folds = [names_first(patterns, groups) for patterns in folds]
    for name in ordered:
        matching = [number for number, patterns in enumerate(folds, 1) if fits(name, patterns)]
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
    groups = {
        (dataset, name): entry.get("group", name)
        for dataset, stamp in stamps.items()
        for name, entry in stamp["samples"].items()
        if entry["split"] in DIVIDED_SPLITS
    }
    found = divide_into_folds({name: group for (_, name), group in groups.items()}, folds)
    return {f"{dataset}/{name}": found[name] for dataset, name in groups}


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
