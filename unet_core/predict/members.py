"""The members of a model, that is its networks, as the step predict applies them.

A model of one network has one member. Members with the same architecture and normalisation form a group.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unet_core.blocks import ZYX, Box
from unet_core.config.folds import may_predict
from unet_core.config.options import Network, Predict
from unet_core.digest import digest
from unet_core.method import method
from unet_core.network import unet
from unet_core.network.ensemble import members_of
from unet_core.plan.tiles import voxel_memory
from unet_core.predict.calibration import Tiles
from unet_core.runtime import read_json


class Member(NamedTuple):
    """One network of a model, with the plan by which it was trained or is applied."""

    folder: Path
    weights: str
    plan: dict[str, Any]

    @property
    def shape(self) -> unet.Shape:
        """What the network does along each axis."""
        return unet.shape_of(Network.model_validate(self.plan["network"]))


class Group(NamedTuple):
    """Networks of one kind, for which images are normalised in one way: they are given the same tiles.

    Whether results depend on the tile, and the memory that a voxel of it takes on a CPU.
    """

    shape: unet.Shape
    tiles: Tiles
    tile_counts: bool
    voxel_bytes: int = 0


class Part(NamedTuple):
    """Networks of a group that a sample is predicted by.

    Number of the group, folders and digests, normalisation, and the arithmetic that all blocks of a sample share.
    """

    group: int
    networks: tuple[tuple[Path, str], ...]
    norm: dict[str, list[float]]
    precision: str = "float32"


def read_members(model: Path, plans: Sequence[Path]) -> list[Member]:
    """Networks of a model from its stamp and the plan of each, in the same order."""
    found = zip(members_of(model).values(), plans, strict=True)
    return [Member(Path(entry["model"]), entry["weights"], read_json(path)) for entry, path in found]


def members_for(key: str, members: Sequence[Member]) -> list[Member]:
    """Networks by which ``<data set>/<sample>`` is predicted: with folds not those that were trained on it."""
    return [member for member in members if may_predict(member.plan, key)]


def kind_of(member: Member) -> str:
    """Equal for networks that belong to one group."""
    rule = member.plan.get("normalisation"), member.plan.get("least_extent", {}).get("value")
    return digest(member.plan["network"], rule, tile_in_digest(member.plan))


def probabilities_digest(
    image: str,
    key: str,
    members: Sequence[Member],
    cfg: Predict,
    mask_threshold: float | None,
    region: Sequence[Box] = (),
) -> str:
    """Digest of the probabilities of a sample.

    Parameters
    ----------
    image : str
        Digest of its image.
    key : str
        ``<data set>/<sample>``.
    members : sequence of Member
        Networks of the model; those that it is predicted by count.
    cfg : Predict
        Options.
    mask_threshold : float or None
        What probabilities must exceed in the masks that are stored in their place.
    region : sequence of Box
        Outside of which all is background; none: nowhere.
    """
    networks = [
        [member.weights, member.plan["samples"][key], *tile_in_digest(member.plan)]
        for member in members_for(key, members)
    ]
    # Which blocks are empty depends on what blocks there are.
    limits = [{"skip": cfg.skip.model_dump(), "block": block_in_plan(members)}] if cfg.skip else []
    limits += [{"region": region}] if region else []
    return digest(image, networks, cfg.precision, cfg.average, cfg.dtype, mask_threshold, method("predict"), *limits)


def groups_of(members: Sequence[Member]) -> dict[str, Group]:
    """Kind -> group, with the tiles of the plan."""
    return {
        kind_of(member): Group(
            member.shape,
            Tiles(tile_of(member.plan["predict_tile"]["value"]), 1),
            bool(tile_in_digest(member.plan)),
            voxel_memory(Network.model_validate(member.plan["network"]), _channels(member.plan)),
        )
        for member in members
    }


def _channels(plan: dict[str, Any]) -> int:
    return max((len(norm["offset"]) for norm in itertools.islice(plan["samples"].values(), 1)), default=1)


def parts_of(used: Sequence[Member], kinds: list[str], key: str) -> tuple[Part, ...]:
    """Group by group the networks that a sample is predicted by.

    Parameters
    ----------
    used : sequence of Member
        All of them.
    kinds : list of str
        Of the groups.
    key : str
        ``<data set>/<sample>``.
    """
    alike: dict[int, list[Member]] = {}
    for member in used:
        alike.setdefault(kinds.index(kind_of(member)), []).append(member)
    return tuple(
        Part(number, tuple((member.folder, member.weights) for member in several), several[0].plan["samples"][key])
        for number, several in alike.items()
    )


def tile_in_digest(plan: dict[str, Any]) -> list[Any]:
    """The tile where results depend on it: instance normalisation takes the statistics of each tile."""
    return [plan["predict_tile"]["value"]] if plan["network"]["norm"] == "instance" else []


def deepest(members: Sequence[Member]) -> Member:
    """The network that pools the most planes: the block that suits it suits the others."""
    return max(members, key=planes_together)


def block_in_plan(members: Sequence[Member]) -> ZYX:
    """Block of the probabilities, before the chunks of the image are looked at."""
    return unet.sides(deepest(members).plan["predict_block"]["value"])


def tile_of(value: Any) -> int | ZYX:
    """A tile as it was read from JSON."""
    return value if isinstance(value, int) else unet.sides(value)


def planes_together(member: Member) -> int:
    """Planes that its network pools together."""
    return member.shape.z.step


def common_shape(shapes: Sequence[unet.Shape]) -> unet.Shape:
    """Along each axis that of the network that pools the most: boxes that start at multiples of its steps suit all."""
    z, y, x = (max(axes, key=_step) for axes in zip(*shapes, strict=True))
    return unet.Shape(z, y, x)


def _step(axis: unet.Axis) -> int:
    return axis.step
