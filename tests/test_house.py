"""The walls of the house, read from the imports: registries are the only doors to what they hold."""

import ast
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def packages():
    """{name of a package: its folder}."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    pairs = (line.split("=") for line in config["options"]["package_dir"].split("\n") if line.strip())
    return {name.strip(): ROOT / folder.strip() for name, folder in pairs}


def modules():
    """{name of a module: its file}."""
    found = {}
    for package, folder in packages().items():
        for path in folder.glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


MODULES = modules()


def is_for_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path, *, inside_functions):
    """Modules of ours that a file imports, when it is imported itself or when it is used as well."""
    found, left = set(), [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        if is_for_types_only(node):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        left += ast.iter_child_nodes(node)
    return {name for name in found if name in MODULES}


FAMILY_FOLDERS = {
    f"rofo.export.families.{folder.name}"
    for folder in (ROOT / "export" / "families").iterdir()
    if (folder / "__init__.py").exists()
}


def family_of(module):
    return next((f for f in FAMILY_FOLDERS if module == f or module.startswith(f"{f}.")), None)


def test_there_is_something_to_read():
    assert len(MODULES) > 80
    assert "rofo.export.families.roformer" in FAMILY_FOLDERS
    assert "rofo.manifest" in imports(ROOT / "export" / "export.py", inside_functions=False)


@pytest.mark.parametrize("module", [name for name in MODULES if not family_of(name)])
def test_only_the_registry_names_a_family(module):
    if module == "rofo.export.families":
        return
    named = {name for name in imports(MODULES[module], inside_functions=True) if family_of(name)}
    assert not named, f"{module} goes around the registry: {sorted(named)}"


@pytest.mark.parametrize("module", [name for name in MODULES if family_of(name)])
def test_a_family_is_entered_through_its_own_folder(module):
    others = {family_of(name) for name in imports(MODULES[module], inside_functions=True)} - {None}
    assert others <= {family_of(module)}


def test_nothing_in_the_runtime_leads_to_the_exporter():
    for module, path in MODULES.items():
        if not module.startswith(("rofo.export", "rofo.benchmarks", "rofo.checkpoints")):
            arrows = imports(path, inside_functions=True)
            wrong = [
                n for n in arrows if n.startswith(("rofo.export", "rofo.benchmarks", "rofo.checkpoints"))
            ]
            assert not wrong, f"{module} imports {wrong}"
        elif module.startswith("rofo.export"):
            wrong = [n for n in imports(path, inside_functions=True) if n.startswith("rofo.benchmarks")]
            assert not wrong, f"{module} imports {wrong}"


def test_no_import_goes_in_a_circle():
    arrows = {module: imports(path, inside_functions=False) for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module, way):
        assert module not in way, f"a circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module not in done:
            for other in sorted(arrows[module] - {module}):
                visit(other, [*way, module])
            done.add(module)

    for module in arrows:
        visit(module, [])
