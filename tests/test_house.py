"""The layout, who imports whom, and other rules of the house."""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEPS = ("groundtruth", "weights", "plan", "train", "predict", "instances", "evaluate", "report")
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in (ROOT / "unet_core").rglob("*.py")}

# The floors of the house, from the ground up. A wing may import wings of lower floors, and none of its own floor.
FLOORS = [
    {"blocks", "compiled", "failures", "files", "method", "patterns", "pictures", "slurm"},
    {"digest", "lock", "runtime"},
    {"config", "gpus", "processes", "sealed", "starting"},
    {"workers", "images", "demo", "records"},
    {"engine"},
    {"annotations", "metrics", "store"},
    {"network"},
    {"groundtruth"},
    {"jobs"},
    *({step} for step in STEPS[1:]),
    {"correct", "estimate", "init", "view"},
    {"__main__"},
]

# Third-party packages that only these modules, or those of these wings, may import.
OWNERS = {
    "torch": {"network", "train"},
    "dask": {"engine", "workers", "view/layers"},
    "distributed": {"engine", "workers"},
    "zarr": {"store/result", "images/zarr_images"},
    "PIL": {"images/pictures"},
    **dict.fromkeys(("mrcfile", "nibabel", "nrrd"), {"images/volume_headers"}),
    "dask_jobqueue": {"workers"},
    "pyarrow": {"instances/objects"},
    "numba": {"compiled"},
    "napari": {"view/napari_window"},
    "snakemake": set(),
}


def imports(path: Path) -> set[str]:
    """Modules that a file imports, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("step", STEPS)
def test_each_step_has_a_rule_a_script_a_module_a_section_and_a_test(step: str) -> None:
    from unet_core.config.options import Config

    assert f"rule {step}:" in (ROOT / "rules" / f"{step}.smk").read_text()
    assert (ROOT / "scripts" / f"{step}.py").is_file() and (ROOT / "unet_core" / step / "step.py").is_file()
    assert (ROOT / "tests" / step / "test_step.py").is_file() and step in Config.model_fields


def test_the_snakefile_is_a_table_of_contents_in_the_order_of_the_data() -> None:
    text = (ROOT / "Snakefile").read_text()
    assert re.findall(r'include: "rules/(\w+).smk"', text) == ["common", *STEPS] and len(text.splitlines()) <= 60


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_thin(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 30 and "snakemake." in text and "def " not in text
    assert next(line for line in text.splitlines() if "unet_core" in line).startswith("import unet_core.starting")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_heavy_packages_are_imported_where_they_belong(name: str) -> None:
    module = name.removeprefix("unet_core/")
    packages = {imported.split(".")[0] for imported in imports(MODULES[name])}
    for package, owners in OWNERS.items():
        allowed = {module, module.split("/")[0]} & owners
        assert package not in packages or allowed, f"{name} imports {package}"


def wing_of(name: str) -> str:
    """The wing of a module, as ``unet_core.train`` for ``unet_core.train.loss``."""
    return name.split(".")[1]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name != "unet_core/__init__"))
def test_wings_import_only_wings_of_lower_floors(name: str) -> None:
    floors = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
    own = wing_of(name.replace("/", "."))
    found = {imported for imported in imports(MODULES[name]) if imported.startswith("unet_core.")}
    upward = {imported for imported in found if wing_of(imported) != own and floors[wing_of(imported)] >= floors[own]}
    assert not upward, f"{name} imports {upward}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.endswith("__init__")))
def test_packages_hold_a_docstring_and_nothing_else(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) and len(tree.body) == 1


def test_modules_do_not_import_each_other_in_circles() -> None:
    dotted = {name.replace("/", "."): path for name, path in MODULES.items()}
    arrows = {name: {found for found in imports(path) if found in dotted} for name, path in dotted.items()}
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & set(arrows)}
        assert free, f"circles among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


@pytest.mark.parametrize("step", STEPS)
def test_wings_use_no_step_of_another_wing(step: str) -> None:
    used = {imported for name, path in MODULES.items() if f"/{step}/" in name for imported in imports(path)}
    assert not {imported for imported in used if imported.endswith(".step")} - {f"unet_core.{step}.step"}


def test_the_snakefile_imports_neither_torch_nor_zarr_nor_dask() -> None:
    names = set()
    for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]:
        names |= set(re.findall(r"^from (unet_core[\w.]*) import|^import (\w+)", path.read_text(), re.M))
    modules = sorted({name for pair in names for name in pair if name})
    heavy = "{'torch', 'zarr', 'dask', 'distributed'}"
    code = f"import sys; {'; '.join(f'import {m}' for m in modules)}; print(sorted(set(sys.modules) & {heavy}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert modules and result.stdout.strip() == "[]"


def test_conda_environments_hold_the_pins_of_the_constraints_file() -> None:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    pins = {name.lower().replace("_", "-"): version for name, version in lines}
    conda_names = {"pytorch": "torch", "python": None}
    for path in (ROOT / "envs").glob("*.yaml"):
        found = re.findall(r"^  - ([\w-]+)\s*=+\s*([\w.]+)$", path.read_text(), re.M)
        assert len(found) >= 15
        for name, version in found:
            package = conda_names.get(name, name.replace("_", "-"))
            if package is not None:
                assert pins[package] == version, (
                    f"{path.name}: {name}={version}, but constraints.txt has {pins[package]}; mend one of them"
                )


def test_conda_environment_holds_all_that_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [re.match(r"[\w-]+", line)[0] for line in project["dependencies"]]  # type: ignore[index]
    listed = {
        name.replace("_", "-") for name in re.findall(r"^  - ([\w-]+)", (ROOT / "envs" / "unet.yaml").read_text(), re.M)
    }
    assert {"pytorch" if name == "torch" else name for name in needed} - {"snakemake"} <= listed


def test_each_rule_has_log_conda_and_message() -> None:
    for step in STEPS:
        text = (ROOT / "rules" / f"{step}.smk").read_text()
        assert all(f"    {directive}:" in text for directive in ("log", "conda", "message", "resources", "threads")), (
            step
        )
        # The page of the step report shows the benchmarks of the others.
        assert (f'benchmark:\n        "<results>/benchmarks/{step}/' in text) == (step != "report"), step
        assert "lambda" not in text


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_and_functions_keep_their_size(name: str) -> None:
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= 420, f"{name} has {len(text.splitlines())} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            assert length <= 50, f"{name}: {node.name} has {length} lines"


# Files of code, by their names, and what a run leaves behind.
CODE = ("*.py", "*.smk", "Snakefile", "Makefile", "*.yaml", "*.toml", "*.sh", ".ci/run")
LEFT_BEHIND = (
    *("*.log", "*.out", "*.err", "*.pyc", "*.pid", "*.prof", "core.*", "*.orig", "*.rej", "*.swp", "*~", ".DS_Store"),
    "pyvenv.cfg",
    *(f"{place}{folder}/*" for folder in ("results", "data", ".snakemake", "__pycache__") for place in ("", "*/")),
)


def tracked(*patterns: str) -> list[str]:
    """Files that git keeps and whose path matches a pattern, or whose name does."""
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or not in a clone")
    return [
        file
        for file in listed
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in (file, file.rpartition("/")[2]))
    ]


def test_lines_of_code_hold_at_most_120_characters() -> None:
    files = tracked(*CODE)
    long = [
        f"{file}:{number}"
        for file in files
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120
    ]
    assert len(files) > 200 and not long, long


def test_make_tells_what_it_runs_where_the_public_data_lie(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNET_", "MAKE"))}
    call = ["make", "--silent", "--eval=told:;@echo $$UNET_DATA", "told"]
    for given, folder in (([], ROOT.parent / "shared" / "data"), ([f"UNET_DATA={tmp_path}"], tmp_path)):
        told = subprocess.run([*call, *given], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == str(folder)


@pytest.mark.parametrize("fails", [False, True])
def test_make_installs_by_pip_where_uv_fails(tmp_path: Path, fails: bool) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for tool, status in (("uv", int(fails)), ("pip", 0), ("python", 0)):
        script = tmp_path / ".venv/bin" / tool
        script.write_text(f'#!/bin/sh\necho {tool} "$@" >> called\nexit {status}\n')
        script.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    subprocess.run(["make", "--silent", "share-test"], cwd=tmp_path, capture_output=True, check=True)
    called = (tmp_path / "called").read_text().splitlines()
    assert [line.split()[0] for line in called] == ["uv", *(["pip"] if fails else []), "python"]
    assert all(line.endswith("--constraint constraints.txt --editable .[share]") for line in called[:-1])


def test_what_a_run_leaves_behind_is_not_kept() -> None:
    assert not tracked(*LEFT_BEHIND)


def prose_of(text: str) -> list[tuple[int, str]]:
    """Numbered lines of Markdown without code, tables, and the targets of links."""
    lines, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        if not (fenced or fence or line.startswith(("    ", "|"))):
            lines.append((number, re.sub(r"\]\(\S+\)|https?://\S+", "]", line)))
    return lines


def test_lines_of_documents_hold_at_most_120_characters() -> None:
    files = tracked("*.md")
    long = [
        f"{file}:{number}"
        for file in files
        for number, line in prose_of((ROOT / file).read_text(encoding="utf-8"))
        if len(line) > 120
    ]
    assert files and not long, long


PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def table_of(title: str) -> list[list[str]]:
    """Cells of the rows of the table whose first column has a title."""
    lines = PAGE[PAGE.index(f"| {title} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if not name.endswith("__init__")))
def test_the_page_of_the_architecture_names_each_module(name: str) -> None:
    section = PAGE[PAGE.index("## Every module") : PAGE.index("## Results")]
    assert f"`{name.removeprefix('unet_core/')}.py`" in section


def test_paths_on_the_page_of_the_architecture_exist() -> None:
    # Paths of results have placeholders, which no pattern here takes; `step.py` is that of any step.
    paths = set(re.findall(r"unet_core/[\w./]*\w", PAGE))
    paths |= set(re.findall(r"`([\w./-]+\.(?:py|smk|js|css|j2|svg)|(?:tests|docs|rules|profiles)/[\w./-]+)`", PAGE))
    doors = re.findall(r"^ {6}( *)(\w+)/ .* door: (\w+\.py)$", PAGE, re.M)
    paths |= {f"{'groundtruth/' if inside else ''}{wing}/{door}" for inside, wing, door in doors}
    paths -= {"step.py"}
    missing = {path for path in paths if not ((ROOT / path).exists() or (ROOT / "unet_core" / path).exists())}
    assert len(paths) > 150 and not missing
    folders = {path.parent.name for path in MODULES.values() if path.name == "__init__.py"} - {"unet_core"}
    assert {wing for _, wing, _ in doors} == folders


def test_the_page_of_the_architecture_has_the_floors_and_owners_of_the_house() -> None:
    assert [set(re.findall(r"`(\w+)`", wings)) for _, wings in table_of("floor")] == FLOORS
    assert {name.strip("`"): set(re.findall(r"`([\w/]+)`", by)) for name, by in table_of("package")} == OWNERS


def test_the_figure_of_the_data_flow_is_what_its_script_draws() -> None:
    from docs.data_flow import OUTPUT, draw
    from docs.data_flow import STEPS as DRAWN

    assert OUTPUT.read_text(encoding="utf-8") == draw(), "run 'python -m docs.data_flow'"
    assert tuple(step.name for step in DRAWN) == STEPS and all(f">{step}<" in draw() for step in STEPS)
