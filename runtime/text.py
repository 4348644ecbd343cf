"""Text for one line of a terminal: errors of other libraries, and names that may hold anything."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """An error's message on one line, its class's name where it has none; at most `most` characters."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def short(value: object) -> str:
    """A value as Python writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: object) -> str:
    """The text of it, with all escaped that would end the line, move the cursor or cannot be encoded."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
