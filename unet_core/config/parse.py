"""From what stands in `config.yaml` to a complete `Config`, or the one message that names all mistakes."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from unet_core.config.datasets import NAME_PATTERN, ConfigError
from unet_core.config.options import Config
from unet_core.config.presets import with_preset
from unet_core.config.section import override


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Check a configuration and fill in its defaults.

    Parameters
    ----------
    raw : mapping
        What was read from `config.yaml`.

    Returns
    -------
    Config
        Complete: models and their data sets are filled in.

    Raises
    ------
    ConfigError
        With one line for each mistake: key, value, what is allowed.
    """
    filled = _fill_presets(_fill_models(_short_gate(raw)))
    problems = [*_override_problems(filled), *_name_problems(filled), *_ensemble_problems(filled)]
    try:
        cfg = Config.model_validate(filled)
    except ValidationError as error:
        raise ConfigError(_message([*_lines(error, Config), *problems])) from None
    problems += _agreement_problems(cfg)
    if problems:
        raise ConfigError(_message(problems))
    return cfg


def read_config(path: Path) -> Config:
    """The configuration in a file, complete.

    Raises
    ------
    ConfigError
        If it cannot be read or is wrong; the message begins with its path.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is no YAML ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold keys with values, as config.yaml does")
    try:
        return parse_config(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _short_gate(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """`gate` beside the sections, as in ``--config gate=off``, stands for `evaluate.gate`."""
    section = raw.get("evaluate") or {}
    if "gate" not in raw or not isinstance(section, Mapping):
        return raw
    return {key: value for key, value in raw.items() if key != "gate"} | {"evaluate": {**section, "gate": raw["gate"]}}


def _fill_models(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Write out the defaults that depend on other keys: models, train_on, predict_on."""
    filled = dict(raw)
    datasets = raw.get("datasets")
    if not isinstance(datasets, Mapping) or not isinstance(raw.get("models", {}), Mapping | None):
        return filled
    annotated = [
        name
        for name, dataset in datasets.items()
        if _mapping(dataset).get("annotations") and re.fullmatch(NAME_PATTERN, str(name))
    ]
    models = {}
    for name, model in (raw.get("models") or {name: {} for name in annotated}).items():
        model = {} if model is None else model
        if isinstance(model, Mapping):
            model = dict(model)
            if not model.get("path") and not model.get("ensemble"):
                model["train_on"] = model.get("train_on") or [name]
            trained = model.get("train_on") or [name]
            if not model.get("predict_on") and isinstance(trained, list) and not model.get("ensemble"):
                model["predict_on"] = trained
        models[name] = model
    for model in models.values():
        if _mapping(model).get("ensemble") and not model.get("predict_on"):
            members = [_mapping(models.get(member)) for member in _strings(model["ensemble"])]
            model["predict_on"] = list(
                dict.fromkeys(dataset for member in members for dataset in _strings(member.get("predict_on")))
            )
    return filled | {"models": models}


def _fill_presets(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Write out what the presets of training say."""
    filled = dict(raw)
    if isinstance(raw.get("train"), Mapping):
        filled["train"] = with_preset(raw["train"])
    if isinstance(raw.get("models"), Mapping):
        filled["models"] = {
            name: {**model, "train": with_preset(model["train"], of_a_model=True)}
            if isinstance(model, Mapping) and isinstance(model.get("train"), Mapping)
            else model
            for name, model in raw["models"].items()
        }
    return filled


def _override_problems(raw: Mapping[str, Any]) -> Iterable[str]:
    """Mistakes in the keys of a section that differ for a data set or model, also where other parts are wrong."""
    for group, keys in (("datasets", ("weights",)), ("models", ("plan", "train", "predict", "instances"))):
        for name, owner in _mapping(raw.get(group)).items():
            for key in keys:
                section = type(Config.model_fields[key].default)
                try:
                    base = section.model_validate(raw.get(key, {}))
                except ValidationError:  # told where it stands
                    base = section()
                try:
                    override(base, _mapping(_mapping(owner).get(key)))
                except ValidationError as error:
                    yield from _lines(error, section, f"{group}.{name}.{key}")


def _name_problems(raw: Mapping[str, Any]) -> Iterable[str]:
    """Names of data sets that must stand elsewhere in the configuration, also where other parts are wrong."""
    datasets = _mapping(raw.get("datasets"))
    for name, model in _mapping(raw.get("models")).items():
        named = {key: _strings(_mapping(model).get(key)) for key in ("train_on", "predict_on")}
        for key, listed in named.items():
            for dataset in dict.fromkeys(listed):
                # A wrong name in train_on is by default in predict_on too: one line is enough.
                if dataset not in datasets and not (key == "predict_on" and dataset in named["train_on"]):
                    yield f"models.{name}.{key}: no data set {dataset!r}; there are: {', '.join(map(str, datasets))}"
            if len(set(listed)) < len(listed):
                yield f"models.{name}.{key}: each data set may be named only once (is: {listed})"
        for dataset in named["train_on"]:
            if dataset in datasets and not _mapping(datasets[dataset]).get("annotations"):
                yield f"models.{name}.train_on: data set {dataset!r} has no annotations"
        if _mapping(model).get("path") and named["train_on"]:
            yield f"models.{name}: path and train_on exclude each other (a model with a path is not trained)"


def _ensemble_problems(raw: Mapping[str, Any]) -> Iterable[str]:
    """Mistakes in what several networks are to make one model, also where other parts are wrong."""
    models = _mapping(raw.get("models"))
    for name, model in models.items():
        own, members = _mapping(model), _strings(_mapping(model).get("ensemble"))
        if own.get("folds") and own.get("path"):
            yield f"models.{name}: path and folds exclude each other (a model with a path is not trained)"
        for key in ("path", "train_on", "folds", "train", "plan"):
            if members and own.get(key):
                yield (
                    f"models.{name}: ensemble and {key} exclude each other "
                    "(an ensemble is made of models that have their own)"
                )
        if members and "tile" in _mapping(own.get("predict")):
            yield (
                f"models.{name}.predict.tile: has no meaning for an ensemble; set it for the models that it is made of"
            )
        for member in dict.fromkeys(members):
            if member not in models:
                single = ", ".join(str(key) for key, other in models.items() if not _mapping(other).get("ensemble"))
                yield f"models.{name}.ensemble: no model {member!r}; there are: {single}"
            elif _mapping(models[member]).get("ensemble"):
                yield f"models.{name}.ensemble: {member!r} is an ensemble itself; name the models that it is made of"
        if len(set(members)) < len(members):
            yield f"models.{name}.ensemble: each model may be named only once (is: {members})"


def _agreement_problems(cfg: Config) -> Iterable[str]:
    """Settings that must agree with each other."""
    if not cfg.models:
        yield (
            "models: there is nothing to do: no data set has annotations to train on, and no model with a path is named"
        )
    for name, model in cfg.models.items():
        if model.path and model.train:
            yield f"models.{name}.train: has no meaning for a model with a path (it is not trained)"
        members = [cfg.models[member].train_on for member in model.ensemble if member in cfg.models]
        trained = [
            dataset
            for names in [model.train_on, *members]
            for dataset in dict.fromkeys(names)
            if dataset in cfg.datasets
        ]
        known = [cfg.datasets[dataset] for dataset in trained]
        if len({tuple(dataset.classes) for dataset in known}) > 1:
            listed = "; ".join(f"{key} has {', '.join(cfg.datasets[key].classes)}" for key in dict.fromkeys(trained))
            if model.ensemble:
                yield f"models.{name}.ensemble: the models must have the same classes, but {listed}"
            else:
                yield f"models.{name}.train_on: the data sets must have the same classes, but {listed}"
        for key in set(model.predict_on) - set(model.train_on):
            if (
                known
                and key in cfg.datasets
                and cfg.datasets[key].annotations
                and cfg.datasets[key].classes != known[0].classes
            ):
                yield (
                    f"models.{name}.predict_on: the model learns the classes {', '.join(known[0].classes)}, "
                    f"but data set {key!r} is annotated with {', '.join(cfg.datasets[key].classes)}"
                )
        yield from _stored_problems(cfg, name)
        with contextlib.suppress(ValidationError):  # an override that is wrong is told already
            weights = cfg.plan_of(name).class_weights
            if known and isinstance(weights, list) and len(weights) != len(known[0].classes) + 1:
                yield (
                    f"models.{name}: plan.class_weights has {len(weights)} values; "
                    f"needed are {len(known[0].classes) + 1}: background, {', '.join(known[0].classes)}"
                )


def _stored_problems(cfg: Config, name: str) -> Iterable[str]:
    """What later steps ask of the results of `predict`, but its section does not store."""
    model = cfg.models[name]
    with contextlib.suppress(ValidationError):  # an override that is wrong is told already
        wanted = {*cfg.evaluate.splits} - {"cross-validation"}
        if model.folds and "cross-validation" in cfg.evaluate.splits:
            wanted |= {"train", "validation"}
        unscored = wanted - {*cfg.predict_of(name).splits}
        if unscored:
            yield (
                f"models.{name}: predict.splits leaves out {', '.join(sorted(unscored))}, "
                "which evaluate.splits wants to score"
            )
    with contextlib.suppress(ValidationError):
        own = cfg.instances_of(name)
        if own.split is not None and own.split_by == "probability" and cfg.predict_of(name).dtype == "mask":
            yield (
                f"models.{name}: instances.split_by is probability, but predict.dtype mask stores none; "
                "use uint8 or distance"
            )
        if own.threshold == "auto" and cfg.predict_of(name).dtype == "mask":
            yield (
                f"models.{name}: instances.threshold is auto, but predict.dtype mask stores no probabilities; "
                "use uint8 or a number"
            )
        if own.is_tuned and not cfg.tuned_by(name):
            yield (
                f"models.{name}: something in instances is auto, but the model is applied to no annotated data set "
                "that it learns from; name one in predict_on, or use numbers"
            )
        needed = "train" if model.folds else "validation"
        if own.is_tuned and needed not in cfg.predict_of(name).splits:
            yield (
                f"models.{name}: something in instances is auto, but predict.splits leaves out {needed}, "
                "by which it would be chosen"
            )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


# Of the branches of a union, which are no keys of the user's, those with names of their own.
_BRANCHES = ("int", "float", "str", "list", "constrained-float", "constrained-int", "constrained-str")
_WORDS = {
    "missing": "missing",
    "dict_type": "must have keys of its own",
    "model_type": "must have keys of its own",
    "list_type": "must be a list, as in [a, b]",
    "string_pattern_mismatch": "may hold only letters, digits, '_' and '-'",
}


def _lines(error: ValidationError, root: type[BaseModel], prefix: str = "") -> list[str]:
    """One line per mistake: where, what is wrong, and the value."""
    texts: dict[tuple[str, str], list[str]] = {}
    for item in error.errors():
        location = [
            str(part)
            for part in item["loc"]
            if not (isinstance(part, str) and (part.endswith("]") or part in _BRANCHES))
        ]
        where = ".".join([prefix, *location] if prefix else location)
        shown = f" (is: {item['input']!r})"
        text = _WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ").replace(
            "Input should be", "must be"
        )
        if item["type"] == "extra_forbidden":
            allowed = _keys_at(root, location[:-1])
            close = difflib.get_close_matches(location[-1], allowed, n=1)
            text = f"unknown key; did you mean {close[0]}?" if close else f"unknown key; allowed: {', '.join(allowed)}"
        if item["type"] in ("extra_forbidden", "missing") or isinstance(item["input"], dict | BaseModel):
            shown = ""
        if item["type"] == "string_type" and isinstance(item["input"], int | float):
            # YAML reads 01 as a number and yes as a truth value.
            text = "must be text; put it into quotes"
        # What each branch of a union says about a value stands in one line.
        texts.setdefault((where, shown), []).append(text[0].lower() + text[1:])
    return [f"{where}: {', or '.join(dict.fromkeys(several))}{shown}" for (where, shown), several in texts.items()]


def _keys_at(root: type[BaseModel], location: list[str]) -> list[str]:
    """Allowed keys of the section at a location; user-chosen names and list positions are stepped over."""
    model, chosen = root, False
    for part in location:
        field = None if chosen else model.model_fields.get(part)
        chosen = field is not None and get_origin(field.annotation) is dict
        nested = _models_in(field.annotation) if field else []
        if nested:
            model = nested[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]


def _message(problems: Iterable[str]) -> str:
    return "the configuration has mistakes:\n" + "\n".join(f"  - {problem}" for problem in problems)
