"""Secrets in URLs are used, and written nowhere."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

from unet_core.blocks import Box
from unet_core.config.datasets import Dataset
from unet_core.config.options import Groundtruth
from unet_core.digest import FileHashes
from unet_core.engine import local_engine
from unet_core.groundtruth.contents import with_contents
from unet_core.groundtruth.listing import expand
from unet_core.groundtruth.samples import find_samples
from unet_core.groundtruth.step import convert_groundtruth
from unet_core.images.urls import masked, written_secret
from unet_core.runtime import UserError
from unet_core.store.store import open_image_of

SECRET = "s3cr3t-token"
IMAGE = np.arange(80, dtype=np.uint8).reshape(8, 10)


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an image whose folder has a secret name, as the configuration writes it."""
    monkeypatch.setenv("TOKEN", SECRET)
    zarr.create_array(tmp_path / "a.zarr", data=IMAGE)
    fsspec.filesystem("memory").put(str(tmp_path / "a.zarr"), f"/{SECRET}/a.zarr", recursive=True)
    shutil.rmtree(tmp_path / "a.zarr")
    yield "memory://$TOKEN/a.zarr"
    fsspec.filesystem("memory").rm(f"/{SECRET}", recursive=True)


def run(folder: Path, url: str) -> None:
    cfg = Dataset.model_validate({"images": url, "axes": "yx", "in_place": "always", "split": {"test": 0}})
    samples, wrong = find_samples(cfg)
    assert wrong == []
    with local_engine(1) as engine:
        convert_groundtruth(
            cfg, Groundtruth(), samples, store=folder / "d.zarr", stamp=folder / "d.json", engine=engine
        )


def test_a_variable_of_a_url_is_filled_in_where_it_is_opened_and_nowhere_else(
    tmp_path: Path, hidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path, hidden)
    np.testing.assert_array_equal(open_image_of(tmp_path / "d.zarr", "a").read(Box((0, 0, 0), (1, 8, 10)))[0, 0], IMAGE)
    written = [file.read_text() for file in tmp_path.rglob("*") if file.suffix in (".json", ".csv", ".html")]
    assert any("$TOKEN" in text for text in written)
    assert not any(SECRET in text for text in [*written, caplog.text])
    (sample,), _ = find_samples(Dataset(images=hidden, axes="yx"))
    hashes = FileHashes(tmp_path / "d.files.json")
    assert with_contents(sample, hashes.known) == with_contents(sample, hashes.of) is not None


def test_errors_of_what_is_behind_a_url_hide_its_secrets(
    tmp_path: Path, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as error:
        run(tmp_path, hidden.replace("a.zarr", "none.zarr"))
    assert SECRET not in str(error.value) and "$TOKEN/none.zarr" in str(error.value)

    def broken(*_: object) -> None:
        raise RuntimeError(f"404, url=memory://{SECRET}/a.zarr/zarr.json")

    monkeypatch.setattr("unet_core.digest._metadata", broken)
    with pytest.raises(UserError, match=r"404, url=memory://\$TOKEN/a.zarr") as error:
        run(tmp_path, hidden)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("where", ["images", "annotations.0"])
def test_passwords_that_are_written_out_are_refused_without_being_told(where: str) -> None:
    url = f"https://me:{SECRET}@host/{{stem}}.zarr"
    annotated = [{"format": "labels", "path": url}] if where != "images" else []
    images = "s3://b/a.zarr" if annotated else url.replace("{stem}", "a")
    wrong = find_samples(Dataset.model_validate({"images": images, "axes": "yx", "annotations": annotated}))[1]
    assert wrong[0].startswith(f"{where}: https://***@host/") and "environment variable" in wrong[0]
    assert SECRET not in "".join(wrong)


def test_queries_of_urls_are_not_told() -> None:
    (line,) = find_samples(Dataset(images=f"https://host/a.zarr?signature={SECRET}", axes="yx"))[1]
    assert SECRET not in line and "https://host/a.zarr" in line


def test_what_is_secret_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN", "me:pw")
    monkeypatch.setenv("EMPTY", "")
    text = "cannot read https://me:pw@host/a.zarr?key=1&b=2 (403), s3://b/c"
    assert masked(text) == "cannot read https://***@host/a.zarr?*** (403), s3://b/c"
    assert masked(text, "https://$LOGIN@host/${EMPTY}a.zarr") == (
        "cannot read https://$LOGIN@host/a.zarr?*** (403), s3://b/c"
    )
    assert masked("a@b, a/b?c") == "a@b, a/b?c"
    assert not written_secret("https://$LOGIN@host/a.zarr") and not written_secret("https://me:$PW@host/a.zarr")


def test_of_a_url_whose_kind_is_in_a_variable_no_more_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://images")
    monkeypatch.setenv("TOKEN", SECRET)
    assert expand("$BUCKET/$TOKEN/a.zarr") == "s3://images/$TOKEN/a.zarr"
    assert expand("/data/$TOKEN/a.zarr") == f"/data/{SECRET}/a.zarr"
    monkeypatch.delenv("TOKEN")
    (line,) = find_samples(Dataset(images="$BUCKET/$TOKEN/a.zarr", axes="yx"))[1]
    assert line == "images: the environment variable $TOKEN in 's3://images/$TOKEN/a.zarr' is not set"
