from __future__ import annotations

from pathlib import Path

import pytest

from tests.annotations.layers import image_of
from unet_core.annotations.names import Names

FILE = Path("c.json")


def matched(names: list[str], *images: image_of) -> tuple[list[str | None], list[str]]:
    """The name of each image, and those of none."""
    table = Names(names, FILE)
    found, strangers = table.match([*images])
    return [names[table.of(image)] if n in found else None for n, image in enumerate(images)], strangers


def test_images_are_found_whatever_folder_stands_in_the_name() -> None:
    images = [image_of("a"), image_of("größe 1", folders=("data", "val")), image_of("c")]
    assert matched(["train/a.png", "gro\u0308ße 1.PNG", "x.png"], *images) == (
        ["train/a.png", "gro\u0308ße 1.PNG", None],
        ["x"],
    )


def test_of_the_same_name_in_several_folders_the_folders_of_the_image_decide() -> None:
    names = ["train/a.png", "test/a.png", "other/test/a.png", "a.png"]
    images = [
        image_of("a", folders=("data", "test")),
        image_of("a", folders=("data", "other", "test")),
        image_of("a", folders=("data", "train")),
        image_of("a", folders=("data",)),
    ]
    assert matched(names, *images) == (["test/a.png", "other/test/a.png", "train/a.png", "a.png"], [])
    assert matched(names[:2], images[0]) == (["test/a.png"], ["train/a.png"])
    assert matched(["train\\a.png", "test\\a.png"], images[2])[0] == ["train\\a.png"]


def test_a_name_belongs_to_the_image_of_its_folder_alone() -> None:
    images = [image_of("a", folders=("test",)), image_of("a", folders=("train",)), image_of("a", folders=("more",))]
    assert matched(["train/a.png"], *images) == ([None, "train/a.png", None], [])
    # All names have their image: this one is not annotated.
    assert matched(["train/a.png", "test/a.png"], *images) == (["test/a.png", "train/a.png", None], [])


def test_names_that_folders_do_not_tell_apart_are_told() -> None:
    with pytest.raises(
        ValueError, match=r"c.json: two images have the name 'a' \(x/a.png, y/a.png\), and their folders"
    ):
        matched(["x/a.png", "y/a.png"], image_of("a"))
    with pytest.raises(ValueError, match="c.json: a.png fits several images of this name"):
        matched(["a.png"], image_of("a", folders=("x",)), image_of("a", folders=("y",)))
    with pytest.raises(ValueError, match=r"c.json: two images have the name 'a' \(x/a.png, x/a.jpg\)"):
        Names(["x/a.png", "x/a.jpg"], FILE)
    with pytest.raises(ValueError, match="c.json: has no b"):
        Names(["a.png"], FILE).of(image_of("b"))


def test_names_may_be_urls_or_written_as_in_these() -> None:
    names = ["my%20cells/a%20%231.png", "https://host/b%C3%BC.png?size=9", "100%25.png", "100%2525.png"]
    images = [image_of("a #1"), image_of("bü"), image_of("100%25"), image_of("100%")]
    assert matched(names, *images)[0] == [names[0], names[1], "100%25.png", "100%25.png"]
