"""What options of instances that are chosen by validation are worth, on public nuclei, three seeds.

The images of the 2018 Data Science Bowl in UNET_DATA. Three small networks, and objects of their probabilities with the
options of the configuration (threshold 0.5, no split, no least size), and with those that are chosen on the samples for
validation; scores are those of the test split. About 15 minutes on two cores; a second call goes on where the first one
ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ablation import over_seeds

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "tuning"
SEEDS = (0, 1, 2)
AUTO = {"threshold": "auto", "split": "auto", "min_size": "auto"}
# Options of instances of each.
VARIANTS: dict[str, dict[str, Any]] = {
    "numbers": {},
    "auto": AUTO,
    "auto_by_probability": AUTO | {"split_by": "probability"},
}


def measure() -> dict[str, Any]:
    """Train and score, and print means and standard deviations over the seeds, and what was chosen.

    Returns
    -------
    dict
        <variant>_<score> and <variant>_<score>_sd, and what each network was given: <variant>_chosen.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    config = RESULTS / "config.yaml"
    text = yaml.safe_dump(configuration(os.environ.get("UNET_DATA", "../shared/data")), sort_keys=False)
    config.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--quiet", "rules", "host", "--cores", "2", "--configfile"]
    subprocess.run([*command, str(config)], cwd=ROOT, check=True)
    figures: dict[str, Any] = dict(over_seeds(RESULTS / "report" / "table.csv", VARIANTS))
    for name in VARIANTS:
        stamps = [RESULTS / "tune" / f"{name}_{seed}.json" for seed in SEEDS]
        figures[f"{name}_chosen"] = [json.loads(path.read_text())["chosen"] for path in stamps if path.is_file()]
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
        "weights": {"sigma": 3},
    }
    results = str(RESULTS.relative_to(ROOT))
    models: dict[str, Any] = {f"numbers_{seed}": {"train_on": ["dsb2018"], "train": {"seed": seed}} for seed in SEEDS}
    for name, options in VARIANTS.items():
        for seed in SEEDS if options else ():
            path = f"{results}/train/numbers_{seed}"
            models[f"{name}_{seed}"] = {"path": path, "predict_on": ["dsb2018"], "instances": options}
    return {
        "results": results,
        "datasets": {"dsb2018": dataset},
        "models": models,
        "train": {"preset": "small", "batch": 2, "steps": 1000},
        "plan": {"class_weights": "none"},
        "predict": {"splits": ["validation", "test"]},
    }
