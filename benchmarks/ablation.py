"""What border weights and elastic deformation contribute: scores without each of them, on public nuclei, three seeds.

The images of the 2018 Data Science Bowl in UNET_DATA, one split for all. Nine small models, alike but for one thing:
trained with all that the paper has, without the border term of the weights (w0 = 0), without elastic deformation; seeds
0, 1 and 2. Objects are connected components: nothing but the network separates nuclei that touch. Scores are those of
the test split. About 40 minutes on two cores; a second call goes on where the first one ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "ablation"
SEEDS = (0, 1, 2)
SCORES = ("iou", "seg", "ap50", "ap75")
# Data set and options of training of each.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("weighted", {}),
    "no_border_weights": ("unweighted", {}),
    "no_elastic": ("weighted", {"augment": {"elastic_sigma": 0}}),
}


def measure() -> dict[str, float]:
    """Train and score all models, and print means and standard deviations over the seeds.

    Returns
    -------
    dict
        <variant>_<score> and <variant>_<score>_sd: iou, seg, ap50 and ap75, for all, no_border_weights and no_elastic.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    config = RESULTS / "config.yaml"
    config.write_text(
        yaml.safe_dump(configuration(os.environ.get("UNET_DATA", "../shared/data")), sort_keys=False), encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--quiet",
        "rules",
        "host",
        "--cores",
        "2",
        "--configfile",
        str(config),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return over_seeds(RESULTS / "report" / "table.csv", VARIANTS)


def over_seeds(table: Path, variants: Iterable[str]) -> dict[str, float]:
    """Print scores of the test split, and give them as <variant>_<score> and <variant>_<score>_sd.

    Parameters
    ----------
    table : Path
        Of the report; models are named <variant>_<seed>.
    variants : iterable of str
        In the order of the lines.
    """
    rows = pd.read_csv(table)
    rows = rows[rows["split"] == "test"]
    groups = rows.groupby(rows["model"].str.replace(r"_\d+$", "", regex=True))[list(SCORES)]
    means, deviations = groups.mean(), groups.std()
    print(f"\n{'mean and standard deviation of the seeds':<44}" + "".join(f"{score:>18}" for score in SCORES))
    figures = {}
    for name in variants:
        values = [(means.loc[name, score], deviations.loc[name, score]) for score in SCORES]
        print(f"{name:<44}" + "".join(f"{mean:>10.4f} ± {sd:.3f}" for mean, sd in values))
        for score, (mean, sd) in zip(SCORES, values, strict=True):
            figures |= {f"{name}_{score}": round(float(mean), 4), f"{name}_{score}_sd": round(float(sd), 4)}
    return figures


def configuration(data: str) -> dict[str, Any]:
    """Configuration of all models.

    Parameters
    ----------
    data : str
        Folder with the public data sets.
    """
    dataset = {
        "images": f"{data}/dsb2018/images/*.png",
        "axes": "yxc",
        "channels": [0],
        "annotations": [{"format": "rle", "path": f"{data}/dsb2018/stage1_train_labels.csv"}],
        "classes": ["nucleus"],
        "split": {"test": 0.2, "validation": 0.1},
    }
    return {
        "results": str(RESULTS.relative_to(ROOT)),
        "datasets": {"weighted": dataset | {"weights": {"sigma": 3}}, "unweighted": dataset | {"weights": {"w0": 0}}},
        "models": {
            f"{name}_{seed}": {"train_on": [of], "train": options | {"seed": seed}}
            for name, (of, options) in VARIANTS.items()
            for seed in SEEDS
        },
        "train": {"preset": "small", "batch": 2, "steps": 1000},
        "plan": {"class_weights": "none"},
        "predict": {"splits": ["test"]},
        "instances": {"min_size": 20},
    }
