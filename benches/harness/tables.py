"""Markdown tables."""
from .measure import MIB


def table(head, rows):
    """A table whose columns, but for the first, are aligned to the right."""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    line = lambda row: "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) + " |"
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def goals(rows):
    """Goals with what was measured: `(what, measured, limit, unit)`; good is what is not above the limit."""
    cells = [[what, f"{value:.2f}{unit}", f"{limit:g}{unit}", "yes" if value <= limit else "**no**"] for what, value, limit, unit in rows]
    return table(["goal", "measured", "at most", "met"], cells)


def mib(number):
    return f"{number / MIB:.0f}"
