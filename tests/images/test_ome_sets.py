"""OME-TIFF in several files: each plane comes from the file that the OME-XML names, or a message says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.images.test_readers import count_decoded
from unet_core.images.headers import header_of
from unet_core.images.readers import arrays_in, members_of, open_image, set_of

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
FILM = np.random.default_rng(0).integers(0, 2**16, (3, 2, 2, 20, 24)).astype(np.uint16)  # t c z y x
Plane = tuple[str, int, tuple[int, int, int]]


def xml_of(images: list[list[Plane]], sizes: tuple[int, int, int] = (3, 2, 2), attributes: str = "") -> str:
    """OME-XML of images whose planes (file, page, (t, c, z)) lie in files."""
    t, c, z = sizes
    text = ""
    for number, planes in enumerate(images):
        data = "".join(
            f'<TiffData IFD="{page}" FirstT="{i}" FirstC="{j}" FirstZ="{k}" PlaneCount="1">'
            f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
            for name, page, (i, j, k) in planes
        )
        text += (
            f'<Image ID="Image:{number}" Name="{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" '
            f'Type="uint16" SizeX="24" SizeY="20" SizeZ="{z}" SizeC="{c}" SizeT="{t}" PhysicalSizeX="0.{number + 2}" '
            f'PhysicalSizeY="0.{number + 2}" PhysicalSizeZ="1">'
            + "".join(f'<Channel ID="Channel:{number}:{j}" Name="c{j}" SamplesPerPixel="1"/>' for j in range(c))
            + f"{data}</Pixels></Image>"
        )
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{NAMESPACE}" {attributes}>{text}</OME>'


def write(path: Path, pages: Any, text: str, **options: Any) -> Path:
    with tifffile.TiffWriter(path) as file:
        for number, page in enumerate(pages):
            file.write(
                page,
                contiguous=False,
                metadata=None,
                photometric="minisblack",
                description=text if number == 0 else None,
                **options,
            )
    return path


def film(folder: Path, by: str = "t", **options: Any) -> list[Path]:
    """A file per time point or channel, each with the OME-XML of all."""
    axis = "tc".index(by)
    planes, pages = list[Plane](), dict[str, list[np.ndarray]]()
    for t, c, z in np.ndindex(FILM.shape[:3]):
        name = f"film_{by}{(t, c)[axis]}.ome.tif"
        planes.append((name, len(pages.setdefault(name, [])), (t, c, z)))
        pages[name].append(FILM[t, c, z])
    return [
        write(folder / name, many, xml_of([planes], attributes=f'UUID="urn:uuid:{name}"'), **options)
        for name, many in pages.items()
    ]


def read(path: Path, internal: str = "") -> np.ndarray:
    with open_image(path, internal) as array:
        assert array.axes == header_of(path, internal).axes == "tczyx"
        return array[...]


def failure(path: Path) -> str:
    with pytest.raises(ValueError) as error, open_image(path) as array:
        array[...]
    return str(error.value)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("by", ["t", "c"])
def test_each_plane_comes_from_its_file_and_is_decoded_once(
    tmp_path: Path, by: str, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = film(tmp_path, by, compression=compression)
    opened: list[str] = []
    kind = tifffile.TiffFile

    def count(file: Any, *more: Any, **options: Any) -> Any:
        opened.append(Path(file).name)
        return kind(file, *more, **options)

    decoded = count_decoded(monkeypatch)
    monkeypatch.setattr(tifffile, "TiffFile", count)
    for file in files:
        with open_image(file) as array:
            assert (array.shape, array.axes) == (FILM.shape, "tczyx")
            opened.clear()
            for place in np.ndindex(FILM.shape[:3]):
                for y in range(0, 20, 5):
                    np.testing.assert_array_equal(array[(*place, slice(y, y + 5))], FILM[place][y : y + 5])
            assert len(opened) <= len(files)
    assert len(decoded) == (12 if compression else 0)
    assert set_of(files[1]) == sorted(files)
    assert members_of(files[1]) == [files[1], *sorted(set(files) - {files[1]})]
    assert arrays_in(files[0]) == []
    assert header_of(files[0]).pixel_size == {"z": 1, "y": 0.2, "x": 0.2}
    assert header_of(files[0]).channels == ("c0", "c1")


def test_more_files_than_may_be_open_are_read(tmp_path: Path) -> None:
    count = 70
    planes = [(f"p{t}.ome.tif", 0, (t, 0, 0)) for t in range(count)]
    for t in range(count):
        write(tmp_path / f"p{t}.ome.tif", [FILM[0, 0, 0] + t], xml_of([planes], (count, 1, 1)), compression="zlib")
    with open_image(tmp_path / "p7.ome.tif") as array:
        assert array.axes == "tyx"
        np.testing.assert_array_equal(array[...], np.stack([FILM[0, 0, 0] + t for t in range(count)]))
    assert len(set_of(tmp_path / "p7.ome.tif")) == count


def test_planes_in_any_order_are_placed_as_the_xml_says(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(12)
    places = [np.unravel_index(int(i), (3, 2, 2)) for i in order]
    planes = [(f"{'ab'[n % 2]}.ome.tif", n // 2, tuple(map(int, place))) for n, place in enumerate(places)]
    for which in (0, 1):
        pages = [FILM[place] for place in places[which::2]]
        write(tmp_path / f"{'ab'[which]}.ome.tif", pages, xml_of([planes]))
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif"), FILM)
    np.testing.assert_array_equal(read(tmp_path / "b.ome.tif"), FILM)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = film(tmp_path)
    files[1].unlink()
    text = failure(files[0])
    assert text.startswith(f"{files[0]}: ") and "film_t1.ome.tif is missing" in text
    assert set_of(files[0]) == [files[0], files[2]] and members_of(files[0]) == [files[0], files[2]]


def test_a_file_with_too_few_pages_is_named_and_other_uuids_are_not(tmp_path: Path) -> None:
    files = film(tmp_path)
    text = tifffile.tiffcomment(files[1])
    write(files[1], FILM[1].reshape(4, 20, 24), text.replace("urn:uuid:film_t1", "urn:uuid:other"))
    np.testing.assert_array_equal(read(files[0]), FILM)
    write(files[1], FILM[1].reshape(4, 20, 24)[:3], text)
    assert "film_t1.ome.tif should have a plane at page 3, but has 3 pages" in failure(files[0])


def test_a_file_of_another_size_is_an_error(tmp_path: Path) -> None:
    files = film(tmp_path)
    text = tifffile.tiffcomment(files[1])
    write(files[1], FILM[1].reshape(4, 20, 24)[:, :9], text)
    assert "but the first has (20, 24)" in failure(files[0])


@pytest.mark.parametrize("name", ["../secret.tif", "/etc/passwd", "..", "folder/a.tif", "C:\\a.tif", "a\\b.tif"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    planes = [("a.ome.tif", 0, (0, 0, 0)), (name, 0, (1, 0, 0))]
    file = write(tmp_path / "a.ome.tif", [FILM[0, 0, 0]], xml_of([planes], (2, 1, 1)))
    assert "only files of its own folder are read" in failure(file)
    assert set_of(file) == members_of(file) == [file]


def test_planes_that_no_file_has_are_told(tmp_path: Path) -> None:
    planes = [("a.ome.tif", 0, (0, 0, 0)), ("b.ome.tif", 0, (1, 0, 0))]
    for name in ("a.ome.tif", "b.ome.tif"):
        write(tmp_path / name, [FILM[0, 0, 0]], xml_of([planes], (5, 1, 1)))
    assert "tells of 5 planes, but not where 3 of them lie" in failure(tmp_path / "a.ome.tif")


def test_a_description_beside_the_files_counts(tmp_path: Path) -> None:
    planes = [(f"{'ab'[t]}.ome.tif", 2 * c + z, (t, c, z)) for t, c, z in np.ndindex(2, 2, 2)]
    (tmp_path / "set.companion.ome").write_text(xml_of([planes], (2, 2, 2)), encoding="utf-8")
    for t in (0, 1):
        text = (
            f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}" UUID="urn:uuid:{t}">'
            '<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:9"/></OME>'
        )
        write(tmp_path / f"{'ab'[t]}.ome.tif", FILM[t].reshape(4, 20, 24), text)
    a, b = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    np.testing.assert_array_equal(read(b), FILM[:2])
    assert members_of(b) == [b, a, tmp_path / "set.companion.ome"] and set_of(b) == [a, b]
    assert header_of(b).channels == ("c0", "c1")
    (tmp_path / "set.companion.ome").unlink()
    assert "set.companion.ome, which describes it, is missing" in failure(a) and members_of(a) == [a]


def test_a_file_belongs_to_the_image_whose_planes_it_has(tmp_path: Path) -> None:
    """Positions: a file each, and one OME-XML for all."""
    images = [[(f"pos{p}_{t}.ome.tif", 2 * c + z, (t, c, z)) for t, c, z in np.ndindex(2, 2, 2)] for p in (0, 1)]
    for p, t in np.ndindex(2, 2):
        write(tmp_path / f"pos{p}_{t}.ome.tif", FILM[t].reshape(4, 20, 24) + p, xml_of(images, (2, 2, 2)))
    for p, t in np.ndindex(2, 2):
        file = tmp_path / f"pos{p}_{t}.ome.tif"
        np.testing.assert_array_equal(read(file), FILM[:2] + p)
        assert set_of(file) == [tmp_path / f"pos{p}_{i}.ome.tif" for i in (0, 1)]
        assert header_of(file).pixel_size["x"] == pytest.approx(0.2 + 0.1 * p)
    np.testing.assert_array_equal(read(tmp_path / "pos0_0.ome.tif", "1"), FILM[:2] + 1)


def test_a_file_with_planes_of_several_images_asks(tmp_path: Path) -> None:
    images = [[("a.ome.tif", p, (0, 0, 0)), ("b.ome.tif", p, (1, 0, 0))] for p in (0, 1)]
    for t in (0, 1):
        write(tmp_path / f"{'ab'[t]}.ome.tif", FILM[t, 0], xml_of(images, (2, 1, 1)))
    assert "holds planes of 2 images (0, 1); say which, as in a.ome.tif:1" in failure(tmp_path / "a.ome.tif")
    for p in (0, 1):
        with open_image(tmp_path / "a.ome.tif", str(p)) as array:
            np.testing.assert_array_equal(array[...], FILM[:2, 0, p])
    assert arrays_in(tmp_path / "a.ome.tif") == ["0", "1"]


def test_a_single_file_that_was_renamed_is_read(tmp_path: Path) -> None:
    planes = [("before.ome.tif", 2 * (2 * t + c) + z, (t, c, z)) for t, c, z in np.ndindex(3, 2, 2)]
    file = write(tmp_path / "after.ome.tif", FILM.reshape(12, 20, 24), xml_of([planes]))
    np.testing.assert_array_equal(read(file), FILM)
    assert set_of(file) == members_of(file) == [file]


def test_counts_that_the_xml_leaves_out_are_those_of_the_files(tmp_path: Path) -> None:
    text = xml_of([[("a.ome.tif", 0, (0, 0, 0)), ("b.ome.tif", 0, (1, 0, 0))]], (2, 2, 2))
    text = text.replace(' IFD="0"', "").replace(' PlaneCount="1"', "")
    for t in (0, 1):
        write(tmp_path / f"{'ab'[t]}.ome.tif", FILM[t].reshape(4, 20, 24), text)
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif"), FILM[:2])


def test_ordinary_and_damaged_files_are_alone(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", FILM, metadata={"axes": "TCZYX"}, compression="zlib")
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif"), FILM)
    (tmp_path / "b.tif").write_bytes(b"II*\0damaged")
    for path in (tmp_path / "a.ome.tif", tmp_path / "b.tif", tmp_path / "missing.tif", tmp_path / "a.txt"):
        assert set_of(path) == members_of(path) == [path] and arrays_in(path) == []


@pytest.mark.parametrize("name", ["a.ome.tif", "b.ome.tif"])
@pytest.mark.parametrize(
    ("old", "new"), [('PlaneCount="1"', 'PlaneCount="1000000000"'), ('SizeT="1"', 'SizeT="1000000000"')]
)
def test_more_planes_than_can_be_are_an_error(tmp_path: Path, name: str, old: str, new: str) -> None:
    text = xml_of([[(name, 0, (0, 0, 0))]], (1, 1, 1)).replace(old, new)
    (tmp_path / "b.ome.tif").touch()
    assert "its OME-XML tells of 1000000000 planes" in failure(write(tmp_path / "a.ome.tif", [FILM[0, 0, 0]], text))
