"""The walls between the rooms, read from the source: who imports what, and how long things are.

Each rule is a plain function from parsed modules to a list of complaints, so that a made-up source
can prove that the rule bites.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("manifests", "tiler", "pretrain")

FORBIDDEN_ROOMS = {
    "manifests": {"tiler", "pretrain"},
    "tiler": {"pretrain"},
    "pretrain": {"tiler"},
}
TRAINING_ROOMS: dict[str, set[str]] = {
    "mixing": set(),
    "views": {"mixing"},
    "loading": {"mixing"},
    "network": {"views"},
    "simclr": set(),
    "scoring": set(),
    "watch": {"mixing", "views", "loading", "scoring"},
    "running": {"mixing", "views", "loading", "network", "simclr", "watch"},
    "embedding": {"mixing", "views", "loading", "network"},
    "results": {"scoring"},
    "labelling": {"mixing", "embedding", "results"},
    "segmenting": {"loading", "embedding", "scoring", "results"},
    "page": {"scoring", "results"},
    "evaluating": {
        *("views", "loading", "network", "embedding"),
        *("scoring", "results", "labelling", "segmenting", "page"),
    },
    "robust": {"embedding", "scoring", "results", "labelling"},
}
"""The rooms inside `pretrain`, and those that each may import; only `cli` may import all."""
OWNERS = {
    "openslide": ("tiler.slides",),
    "dask": ("tiler.executor",),
    "distributed": ("tiler.executor",),
    "torch": ("pretrain",),
    "torchvision": ("pretrain",),
    "safetensors": ("pretrain",),
    "timm": ("pretrain",),
    "tensorboard": ("pretrain",),
    "click": ("manifests.cli", "tiler.cli", "pretrain.cli"),
}
"""Modules (with all below them) that may import a dependency; others may not."""
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
VAGUE_NAMES = {"utils", "util", "helpers", "common", "misc"}
MOST_BODY_LINES = 60
MOST_FILE_LINES = 400


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed source file."""

    name: str
    """Dotted; a package has the name of its folder."""
    source: str
    is_package: bool = False

    @property
    def room(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]

    def tree(self) -> ast.Module:
        """The syntax tree."""
        return _parse(self.source)


@functools.cache
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def product_modules() -> list[Module]:
    """All modules that are shipped."""
    return [
        Module(
            ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"),
            file.read_text(encoding="utf-8"),
            file.name == "__init__.py",
        )
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*.py"))
    ]


def imports(module: Module) -> Iterator[str]:
    """Dotted names that a module imports anywhere; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(module.tree()):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            yield from _imported_by_call(node)


def _imported_by_call(node: ast.Call) -> Iterator[str]:
    if ast.unparse(node.func) not in ("importlib.import_module", "import_module", "__import__"):
        return
    for argument in node.args[:1]:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield argument.value


def imports_at_import(module: Module, names: set[str]) -> set[str]:
    """Those of the named modules that run when a module is imported.

    Leaves out imports inside functions and under `if TYPE_CHECKING`. `from a import b` leads to the
    module `a.b` if there is one, else to `a`.
    """
    found: set[str] = set()
    for node in _running_at_import(module.tree()):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= inner & names
            if not inner <= names:
                found.add(base)
    return found & names - {module.name}


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _running_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running_at_import(other)
            continue
        yield child
        yield from _running_at_import(child)


def room_walls(modules: list[Module]) -> list[str]:
    """Imports from one room into another that are not allowed."""
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in imports(module)
        if name.partition(".")[0] in FORBIDDEN_ROOMS[module.room]
    ]


def training_rooms(modules: list[Module]) -> list[str]:
    """Imports between the rooms of `pretrain` that go the wrong way."""
    found = []
    for module in modules:
        parts = module.name.split(".")
        if parts[0] != "pretrain" or len(parts) < 3 or parts[1] not in TRAINING_ROOMS:
            continue
        allowed = TRAINING_ROOMS[parts[1]] | {parts[1]}
        for name in imports(module):
            room = name.split(".")[1:2]
            if name.startswith("pretrain.") and set(room) & (TRAINING_ROOMS.keys() - allowed):
                found.append(f"{module.name} imports {name}")
    return found


def dependency_owners(modules: list[Module]) -> list[str]:
    """Imports of a dependency outside of the modules that own it."""
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in imports(module)
        if (owners := OWNERS.get(name.partition(".")[0]))
        and not any(module.name == o or module.name.startswith(f"{o}.") for o in owners)
    ]


def unsafe_imports(modules: list[Module]) -> list[str]:
    """Imports that can run code when they read data."""
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in imports(module)
        if name.partition(".")[0] in UNSAFE
    ]


def unguarded_writing(modules: list[Module]) -> list[str]:
    """Commands that write a manifest without minding who else does: `Destination` is the way."""
    return [
        f"{module.name} imports {name}"
        for module in modules
        if module.name.startswith("manifests.cli.")
        for name in imports(module)
        if name.endswith(".save_manifest")
    ]


def import_rings(modules: list[Module]) -> list[str]:
    """A ring among the imports that run at import, if there is one."""
    names = {module.name for module in modules}
    graph = {module.name: imports_at_import(module, names) for module in modules}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" → ".join(error.args[1])]
    return []


def vague_names(modules: list[Module]) -> list[str]:
    """Modules whose names say nothing."""
    return [m.name for m in modules if VAGUE_NAMES & set(m.name.split("."))]


def missing_docstrings(modules: list[Module]) -> list[str]:
    """Modules that do not say what they are."""
    return [module.name for module in modules if not ast.get_docstring(module.tree())]


def long_files(modules: list[Module]) -> list[str]:
    """Modules that hold too much."""
    return [
        f"{module.name}: {lines} lines"
        for module in modules
        if (lines := len(module.source.splitlines())) > MOST_FILE_LINES
    ]


def long_functions(modules: list[Module]) -> list[str]:
    """Functions whose bodies, without the docstring, are too long."""
    return [
        f"{module.name}.{node.name}: {lines} lines"
        for module in modules
        for node in ast.walk(module.tree())
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := _body_lines(node)) > MOST_BODY_LINES
    ]


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


Rule = Callable[[list[Module]], list[str]]

RULES: tuple[Rule, ...] = (
    room_walls,
    training_rooms,
    dependency_owners,
    unsafe_imports,
    unguarded_writing,
    import_rings,
    vague_names,
    missing_docstrings,
    long_files,
    long_functions,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_product_keeps_the_rule(rule: Rule) -> None:
    assert rule(product_modules()) == []


def test_all_rooms_are_read() -> None:
    rooms = {module.room for module in product_modules() if not module.is_package}
    assert rooms == set(ROOMS)


def module(name: str, source: str, *, is_package: bool = False) -> Module:
    """A made-up module with a docstring."""
    return Module(name, f'"""A module."""\n{source}', is_package)


BROKEN: list[tuple[Rule, list[Module]]] = [
    (room_walls, [module("manifests.a", "import tiler.grid")]),
    (room_walls, [module("manifests.a", "def f():\n    from pretrain import loss")]),
    (
        room_walls,
        [module("tiler.a", "import importlib\nimportlib.import_module('pretrain.loss')")],
    ),
    (room_walls, [module("pretrain.a", "from typing import TYPE_CHECKING as T\nimport tiler")]),
    (training_rooms, [module("pretrain.mixing.a", "from pretrain.loading.loader import x")]),
    (training_rooms, [module("pretrain.views.a", "def f():\n    import pretrain.running.train")]),
    (dependency_owners, [module("tiler.pixels", "import openslide")]),
    (dependency_owners, [module("tiler.slidesx", "from openslide import OpenSlide")]),
    (dependency_owners, [module("tiler.run", "def f():\n    import dask.distributed")]),
    (dependency_owners, [module("manifests.store", "from torch import Tensor")]),
    (dependency_owners, [module("tiler.demo", "import torchvision.transforms")]),
    (dependency_owners, [module("pretrain.running.train", "import click")]),
    (unsafe_imports, [module("manifests.store", "def f():\n    import pickle")]),
    (
        import_rings,
        [module("tiler.a", "import tiler.b"), module("tiler.b", "from tiler import a")],
    ),
    (
        import_rings,
        [module("tiler.a", "from .b import c"), module("tiler.b", "class C:\n    import tiler.a")],
    ),
    (
        import_rings,
        [
            module("tiler.s", "from tiler.s.a import x", is_package=True),
            module("tiler.s.a", "from tiler.s import open_slide"),
        ],
    ),
    (vague_names, [module("tiler.utils", "")]),
    (vague_names, [module("tiler.helpers.a", "")]),
    (missing_docstrings, [Module("tiler.a", "x = 1")]),
    (long_files, [module("tiler.a", "x = 1\n" * 400)]),
    (long_functions, [module("tiler.a", "def f():\n    '''Doc.'''\n" + "    x = 1\n" * 61)]),
    (
        unguarded_writing,
        [module("manifests.cli.a", "def f():\n    from manifests.jsonfile import save_manifest")],
    ),
    (long_functions, [module("tiler.a", "class A:\n  async def f(s):\n" + "    x = 1\n" * 61)]),
]


@pytest.mark.parametrize(
    ("rule", "modules"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_the_rule_complains_of_a_broken_wall(rule: Rule, modules: list[Module]) -> None:
    assert len(rule(modules)) >= 1


KEPT = [
    module("manifests.a", "import numpy\nfrom manifests.b import c\nfrom . import b"),
    module(
        "manifests.b", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import manifests.a"
    ),
    module("manifests.placing", "from manifests.jsonfile import save_manifest"),
    module("tiler.cli", "import click\nfrom manifests.cli import manifest"),
    module("tiler.demo", "import importlib.util\nimportlib.util.find_spec('torch')"),
    module("tiler.slides.openslide", "import openslide\nfrom tiler.slides.base import Slide"),
    module("tiler.slides.base", "def f():\n    import tiler.slides.openslide"),
    module("tiler.executor", "def f():\n    from dask.distributed import Client"),
    module("pretrain.simclr.loss", "import torch\nfrom manifests import TileStore"),
    module("tiler.long", "def f():\n    '''" + "Doc.\n" * 90 + "'''\n" + "    x = 1\n" * 60),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_lets_pass_what_is_allowed(rule: Rule) -> None:
    assert rule(KEPT) == []


def test_cutting_tiles_needs_no_torch() -> None:
    script = (
        "import importlib, sys\n"
        "blocked = {'torch', 'torchvision', 'safetensors', 'pretrain'}\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in blocked:\n"
        "            raise ImportError(f'{name} is blocked')\n"
        "sys.meta_path.insert(0, Wall())\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
    )
    names = [
        module.name
        for module in product_modules()
        if module.room != "pretrain" and not module.name.endswith("__main__")
    ]
    ran = subprocess.run(
        [sys.executable, "-c", script, *names], capture_output=True, check=False, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr.decode()
