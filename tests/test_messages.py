"""Every message that rofo raises says its own cure, or has its line in the table of runtime/README.md.

The house's form is "file: what is wrong; what to do". Messages are read from the source: variable parts are
written as an ellipsis here and in the table.
"""

import ast
import re
from pathlib import Path

import pytest

from rofo import errors
from rofo.export import errors as export_errors

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("runtime", "export") for path in sorted((ROOT / folder).rglob("*.py"))]
TREES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
CLASSES = {
    name
    for module in (errors, export_errors)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, errors.RofoError)
}
ADDS_ITS_OWN = {"RecipeError"}  # "; mend the recipe", in its __init__
VARIABLE = "\u2026"


def words(node: ast.expr) -> str:
    """The text of a message, an ellipsis for what is only known when it is raised."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words(node.left) + words(node.right)
    return VARIABLE


def helpers() -> set[str]:
    """Functions that make errors and add the cure: a text with "; " stands in them."""
    found = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                texts = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
                if any(isinstance(text, str) and "; " in text for text in texts):
                    found.add(node.name)
    return found


def raised() -> list:
    """Every message of an error of ours: where it is raised, by what, and its words."""
    found = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            maker = ast.unparse(node.exc.func).rpartition(".")[2]
            is_class = maker.lstrip("_")[0].isupper()
            if (
                (is_class and maker not in CLASSES | {"UsageError"})
                or maker in ADDS_ITS_OWN
                or not node.exc.args
            ):
                continue
            text = words(node.exc.args[0])
            if re.search("[a-z]{2}", text):  # else another's message is passed on
                found.append(pytest.param(maker, text, id=f"{path}: {text}"))
    return found


def table() -> list[str]:
    """The messages of the table: its first column, each between backticks."""
    text = (ROOT / "runtime" / "README.md").read_text(encoding="utf-8")
    rows = re.search(r"\n\| message \|.*?\n\|[-|]+\n((?:\|.*\n)+)", text)
    assert rows, "runtime/README.md: the table of messages is not there"
    return re.findall(r"`([^`]+)`", "".join(row.split("|")[1] for row in rows[1].splitlines()))


HELPERS, MESSAGES = helpers(), raised()


def explained(text: str) -> bool:
    """Whether the table has it: the words of a row, in their order, anything in the place of an ellipsis."""
    patterns = (".*".join(map(re.escape, row.split(VARIABLE))) for row in table())
    return any(re.search(pattern, text) for pattern in patterns)


def test_there_is_something_to_read():
    assert len(MESSAGES) > 200
    assert {"UsageError", "AudioReadError", "CheckpointError"} <= CLASSES


@pytest.mark.parametrize(("maker", "text"), MESSAGES)
def test_a_message_says_its_cure_or_is_in_the_table(maker, text):
    assert "; " in text or maker in HELPERS or explained(text), (
        f"{text!r}: say what to do after a semicolon, or add its line to the table of runtime/README.md"
    )


def test_every_line_of_the_table_is_a_message():
    texts = [param.values[1] for param in MESSAGES]
    for row in table():
        pattern = ".*".join(map(re.escape, row.split(VARIABLE)))
        assert any(re.search(pattern, text) for text in texts), f"nothing raises {row!r} any more"
