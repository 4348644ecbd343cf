"""Files that are wrong: seeded mutations of bytes, of text and of JSON."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

_NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# fmt: off
_WORDS = (
    "0", "-1", "1e999", "nan", "-inf", "9" * 30, "true", "null", "[]", "{}", '""', "'", "\\", "\0", "\n",
    '"../../outside"', '"/etc/passwd"', '"a/b"', '"CON"', '"\\u0000"', f'"{"a" * 300}.json"', "*a", "&a",
    "!!python/object:os.system", "<<", "- ", ": ", "[[", "]]", "# ", "\ufeff", "\u202e", "é" * 300,
    "(" * 200, "{" * 200, "[" * 2000,
)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 0.5, -0.5, 1e308, 2**31, 2**63, 10**30, "", "x", "../x", "/etc/passwd",
    "\0", "a" * 5000, [], {}, [[]], {"x": {}}, float("nan"), float("inf"),
)
# fmt: on
_HEAD = 96  # where headers are: half of all mutations of bytes are there


def mutated_bytes(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the seeds with one to six mutations."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        if not content:
            break
        draw.choice(_OF_BYTES)(content, _place(content, draw), seeds, draw)
    return bytes(content)


def mutated_text(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """The same of text: its lines and words, or its bytes."""
    if draw.random() < 0.3:
        return mutated_bytes(seeds, draw)
    lines = draw.choice(seeds).decode().splitlines(keepends=True)
    for _ in range(draw.choice((1, 1, 2, 4))):
        if not lines:
            break
        place = draw.randrange(len(lines))
        draw.choice(_OF_LINES)(lines, place, draw)
    return "".join(lines).encode(errors="surrogatepass")


def mutated_json(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """The same of JSON: values and keys somewhere in it, or its text."""
    if draw.random() < 0.3:
        return mutated_text(seeds, draw)
    raw = json.loads(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 4))):
        if not (places := _places(raw)):
            break
        holder, key = draw.choice(places)
        if draw.random() < 0.2 and isinstance(holder, dict):
            holder.pop(key, None)
        elif draw.random() < 0.1 and isinstance(holder, dict):
            holder[f"{key}s"] = holder.pop(key, None)
        else:
            holder[key] = copy.deepcopy(draw.choice(_VALUES))
    return json.dumps(raw).encode()


def _place(content: bytearray, draw: random.Random) -> int:
    return draw.randrange(min(_HEAD, len(content)) if draw.random() < 0.5 else len(content))


def _flip(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    content[at] ^= 1 << draw.randrange(8)


def _byte(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    content[at] = draw.randrange(256)


def _number(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    width, order = draw.choice((2, 4, 8)), draw.choice(("little", "big"))
    number = draw.choice(_NUMBERS) & (256**width - 1)
    content[at : at + width] = number.to_bytes(width, order)[: len(content) - at]


def _cut(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    del content[at:]


def _remove(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    del content[at : at + draw.randrange(1, 64)]


def _insert(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    content[at:at] = draw.randbytes(draw.randrange(1, 64))


def _zeros(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    length = min(draw.randrange(1, 256), len(content) - at)
    content[at : at + length] = bytes(length)


def _repeat(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    content[at:at] = content[at : at + draw.randrange(1, 512)]


def _splice(content: bytearray, at: int, seeds: Sequence[bytes], draw: random.Random) -> None:
    other = draw.choice(seeds)
    content[at:] = other[draw.randrange(len(other)) if other else 0 :]


_OF_BYTES: tuple[Callable[[bytearray, int, Sequence[bytes], random.Random], None], ...] = (
    *(_flip, _byte, _number, _number, _cut, _remove, _insert, _zeros, _repeat, _splice),
)


def _drop_line(lines: list[str], at: int, draw: random.Random) -> None:
    del lines[at]


def _repeat_line(lines: list[str], at: int, draw: random.Random) -> None:
    lines.insert(draw.randrange(len(lines) + 1), lines[at])


def _swap_lines(lines: list[str], at: int, draw: random.Random) -> None:
    other = draw.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _word(lines: list[str], at: int, draw: random.Random) -> None:
    words = lines[at].split(" ")
    words[draw.randrange(len(words))] = draw.choice(_WORDS)
    lines[at] = " ".join(words)


def _typo(lines: list[str], at: int, draw: random.Random) -> None:
    place = draw.randrange(len(lines[at]) + 1)
    lines[at] = lines[at][:place] + draw.choice(_WORDS) + lines[at][place + draw.randrange(3) :]


def _value(lines: list[str], at: int, draw: random.Random) -> None:
    for sign in ("=", ":"):
        if sign in lines[at]:
            lines[at] = f"{lines[at].split(sign)[0]}{sign} {draw.choice(_WORDS)}\n"
            return


_OF_LINES: tuple[Callable[[list[str], int, random.Random], None], ...] = (
    *(_drop_line, _repeat_line, _swap_lines, _word, _typo, _value, _value),
)


def _places(raw: Any) -> list[tuple[Any, Any]]:
    """Every place of a value in lists and dicts."""
    own = list(raw) if isinstance(raw, dict) else list(range(len(raw))) if isinstance(raw, list) else []
    return [(raw, key) for key in own] + [place for key in own for place in _places(raw[key])]
