"""The way of the data: which room imports which, as docs/architecture.md says, and who knows a library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "puzzle_study"


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports, wherever in it; what is there for a type checker only does not run."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> str:
    """Return the module of this package that an imported name lies in."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def arrows() -> dict[str, set[str]]:
    found = {}
    for name, tree in MODULES.items():
        ours = {own(target) for target in imported(tree) if target.split(".")[0] == PACKAGE}
        found[name] = ours - {name}
    return found


ARROWS = arrows()


def room(module: str) -> str:
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def test_no_two_modules_import_each_other_even_through_others() -> None:
    order = list(TopologicalSorter(ARROWS).static_order())
    assert set(order) == set(MODULES)


def test_a_room_imports_what_the_page_says_and_nothing_else() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines() if line.startswith("| `")]
    stated = {
        name.removesuffix("/").removesuffix(".py"): set(filter(None, allowed.split(", ")))
        for names, _, allowed in rows
        for name in re.findall(r"`([\w./]+)`", names)
    }
    assert set(stated) == {room(module) for module in MODULES} - {"", "__main__"}
    commands = {"init", "tune", "report", "attack", "score", "serve", "data"}
    used: dict[str, set[str]] = {name: set() for name in stated}
    for module, targets in ARROWS.items():
        if room(module) in stated:
            used[room(module)] |= {room(target) for target in targets} - {"", "errors", room(module)}
    together = set().union(*(used[name] for name in commands))
    for name in stated:
        assert (together if name in commands else used[name]) == stated[name], name


def test_each_library_is_known_in_its_room_only() -> None:
    rooms = {
        "ray": {"study"},
        "optuna": {"study"},
        "seaborn": {"reporting"},
        "matplotlib": {"reporting"},
        "torchattacks": {"attacks"},
        "jinja2": {"reporting"},
    }
    for module, tree in MODULES.items():
        for library in {name.split(".")[0] for name in imported(tree)} & set(rooms):
            assert room(module) in rooms[library], f"{module} imports {library}"


def test_ray_is_imported_at_the_head_of_modules_in_its_own_folder_only() -> None:
    for module, tree in MODULES.items():
        head: list[ast.stmt] = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        libraries = {name.split(".")[0] for name in imported(ast.Module(head, []))}
        assert "ray" not in libraries or module.startswith(f"{PACKAGE}.study.ray"), module


def test_only_the_puzzle_autoencoders_own_folder_names_it() -> None:
    for path in (ROOT / PACKAGE).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "puzzle_ae" not in path.parent.name:
            assert not re.search(r"""[!=]= ?["']puzzle_ae["']|["']puzzle_ae["'] ?[!=]=""", text), path
