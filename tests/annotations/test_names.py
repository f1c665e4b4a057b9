from __future__ import annotations

from pathlib import Path

import pytest

from unet_core.annotations.layer import Image
from unet_core.annotations.names import Names

FILE = Path("c.json")


def matched(names: list[str], *images: Image) -> tuple[list[str | None], list[str]]:
    """The name of each image, and those of none."""
    table = Names(names, FILE)
    found, strangers = table.match([*images])
    return [names[table.of(image)] if n in found else None for n, image in enumerate(images)], strangers


def test_images_are_found_whatever_folder_stands_in_the_name() -> None:
    images = [Image("a"), Image("größe 1", folders=("data", "val")), Image("c")]
    assert matched(["train/a.png", "gro\u0308ße 1.PNG", "x.png"], *images) == (
        ["train/a.png", "gro\u0308ße 1.PNG", None],
        ["x"],
    )


def test_of_the_same_name_in_several_folders_the_folders_of_the_image_decide() -> None:
    names = ["train/a.png", "test/a.png", "other/test/a.png", "a.png"]
    images = [
        Image("a", folders=("data", "test")),
        Image("a", folders=("data", "other", "test")),
        Image("a", folders=("data", "train")),
        Image("a", folders=("data",)),
    ]
    assert matched(names, *images) == (["test/a.png", "other/test/a.png", "train/a.png", "a.png"], [])
    assert matched(names[:2], images[0]) == (["test/a.png"], ["train/a.png"])
    assert matched(["train\\a.png", "test\\a.png"], images[2])[0] == ["train\\a.png"]


def test_a_name_belongs_to_the_image_of_its_folder_alone() -> None:
    images = [Image("a", folders=("test",)), Image("a", folders=("train",)), Image("a", folders=("more",))]
    assert matched(["train/a.png"], *images) == ([None, "train/a.png", None], [])
    # All names have their image: this one is not annotated.
    assert matched(["train/a.png", "test/a.png"], *images) == (["test/a.png", "train/a.png", None], [])


def test_names_that_folders_do_not_tell_apart_are_told() -> None:
    with pytest.raises(
        ValueError, match=r"c.json: two images have the name 'a' \(x/a.png, y/a.png\), and their folders"
    ):
        matched(["x/a.png", "y/a.png"], Image("a"))
    with pytest.raises(ValueError, match="c.json: a.png fits several images of this name"):
        matched(["a.png"], Image("a", folders=("x",)), Image("a", folders=("y",)))
    with pytest.raises(ValueError, match=r"c.json: two images have the name 'a' \(x/a.png, x/a.jpg\)"):
        Names(["x/a.png", "x/a.jpg"], FILE)
    with pytest.raises(ValueError, match="c.json: has no b"):
        Names(["a.png"], FILE).of(Image("b"))


def test_names_may_be_urls_or_written_as_in_these() -> None:
    names = ["my%20cells/a%20%231.png", "https://host/b%C3%BC.png?size=9", "100%25.png", "100%2525.png"]
    images = [Image("a #1"), Image("bü"), Image("100%25"), Image("100%")]
    assert matched(names, *images)[0] == [names[0], names[1], "100%25.png", "100%25.png"]
