"""The house is built as its plan says: imports go one way, modules are short, names are told."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import actstore
from actstore import queries, testing

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "actstore").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
IDS = [str(path.relative_to(ROOT)) for path in MODULES]

#: part -> the parts of actstore that it may import; a longer name is that module alone
MAY_IMPORT = {
    "errors": set(),
    "_version": set(),
    "schema": {"errors", "_version"},
    "testing": {"errors"},
    "kernels": {"errors"},
    # moments are cached, and what rounding changes is measured, by the kernels that queries use
    "storage": {"errors", "schema", "_version", "kernels"},
    "queries": {"errors", "schema", "_version", "kernels", "storage"},
    "plotting": {"errors", "schema"},
    "recording": {"errors", "schema", "_version", "storage", "kernels.moments"},
    # clones are counted while a sweep trains, by the kernels that later answer queries
    "training": {"errors", "schema", "_version", "storage", "recording", "kernels"},
    # an HTML page of answers and figures
    "report": {"errors", "schema", "_version", "queries", "plotting", "storage", "store"},
    "store": {"queries", "storage", "errors"},
    "notebook": {"plotting", "errors"},
    "__init__": {"_version", "queries", "recording", "store", "notebook"},
}  # fmt: skip

#: heavy or optional -> the only parts that may import it when they are imported
HEAVY = {
    "torch": {"recording", "training"},
    "torchvision": {"training"},
    "sklearn": {"training"},
    "matplotlib": {"plotting", "report"},
    "distributed": set(),
    "jinja2": {"report"},
}

LIMIT = 400


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Yield the dotted names that a module imports, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types or (top_level_only and id(node) in inside):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "actstore").parts[0].removesuffix(".py")


LIBRARY = [path for path in MODULES if path.is_relative_to(ROOT / "actstore")]


@pytest.mark.parametrize("path", LIBRARY, ids=[str(p.relative_to(ROOT)) for p in LIBRARY])
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    for name in imports(path):
        head, _, inner = name.partition(".")
        assert head != "cli"
        if head != "actstore" or not inner:
            continue
        allowed = {part} | MAY_IMPORT[part]
        assert any(inner == one or inner.startswith(f"{one}.") for one in allowed), (
            f"{part} may not import actstore.{inner}"
        )


def test_the_plan_names_every_part() -> None:
    assert {part_of(path) for path in LIBRARY} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_heavy_libraries_are_imported_where_they_are_needed_only(path: Path) -> None:
    part = part_of(path) if path.is_relative_to(ROOT / "actstore") else "cli"
    for name in imports(path, top_level_only=True):
        head = name.partition(".")[0]
        assert part in HEAVY.get(head, {part}), f"{part} imports {head} at its top"


def test_kernels_know_arrays_and_nothing_of_labels_or_files() -> None:
    for path in (ROOT / "actstore" / "kernels").glob("*.py"):
        heads = {name.partition(".")[0] for name in imports(path)}
        assert heads <= {*sys.stdlib_module_names, "numpy", "scipy", "actstore"}, path.name


def test_commands_import_no_library_at_their_top() -> None:
    """So that help is shown before NumPy is loaded."""
    light = {"actstore._version", "actstore.errors", "actstore.schema"}
    for path in (ROOT / "cli").glob("*.py"):
        for name in imports(path, top_level_only=True):
            head = name.partition(".")[0]
            if head in {*sys.stdlib_module_names, "click"}:
                continue
            if head == "rich" and path.name == "record_progress.py":  # loaded by record alone
                continue
            assert any(name.startswith(one) for one in light), f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import actstore", {"numpy", "xarray", "dask", "zarr"}),
        ("import actstore; actstore.open, actstore.scaling", set()),
        ("import actstore.queries.explain, actstore.testing", set()),
    ],
)
def test_importing_the_library_loads_nothing_that_is_not_asked_for(
    statement: str, absent: set[str]
) -> None:
    absent = absent | {"torch", "torchvision", "matplotlib", "sklearn", "distributed", "click"}
    absent |= {"obstore", "moto"}
    script = f"{statement}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not absent & set(done.stdout.split())


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_is_short_and_says_first_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LIMIT, "split it: one noun a file"
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":", "?"))


@pytest.mark.parametrize(
    "package", ["actstore", "actstore.queries", "actstore.plotting", "actstore.recording"]
)
def test_the_public_names_are_complete_and_sorted(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__, key=str)
    assert len(set(module.__all__)) == len(module.__all__)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("actstore")
        for alias in node.names
    }
    public = {name for name in imported if not name.startswith("_") or name == "__version__"}
    if package == "actstore":
        assert public == set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


def sections(documented: object) -> dict[str, str]:
    """Split a numpydoc docstring into its sections."""
    text = inspect.getdoc(documented) or ""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


PUBLIC = {
    name: getattr(actstore, name)
    for name in actstore.__all__
    if callable(getattr(actstore, name, None))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_documents_each_of_its_parameters(name: str) -> None:
    documented = PUBLIC[name]
    found = sections(documented)
    parameters = [p for p in inspect.signature(documented).parameters if p not in ("self", "cls")]
    if inspect.isclass(documented) and name == "Store":
        return  # made by open(), which documents how
    assert "Parameters" in found or not parameters
    lines = found.get("Parameters", "").splitlines()
    told = set(re.findall(r"\*{0,2}(\w+)", " ".join(
        line.partition(":")[0] for line in lines if line[:1].strip()
    )))  # fmt: skip
    assert set(parameters) <= told
    if inspect.isfunction(documented):
        assert {"Returns", "Raises"} <= set(found)


@pytest.mark.parametrize("name", queries.__all__)
def test_a_question_says_what_it_returns_that_it_is_lazy_and_where_it_comes_from(
    name: str,
) -> None:
    found = sections(getattr(queries, name))
    assert {"Parameters", "Returns", "Raises", "References"} <= set(found)
    assert "Lazy: " in found["Returns"]


def test_what_tests_are_shipped_with_is_documented() -> None:
    for name, function in inspect.getmembers(testing, inspect.isfunction):
        if function.__module__ == testing.__name__ and not name.startswith("_"):
            assert "Examples" in sections(function), name
