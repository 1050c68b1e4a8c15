"""Charts as inline SVG, for a page that needs neither network nor scripts. All sizes are in pixels."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 20, 40  # margins around the area between the axes
COLOURS = ("#2f6fde", "#1b9e8a", "#d98e04", "#c8456c", "#7b5bd6", "#4d8f2f", "#64748b")
OTHERS, NOTHING = "others", 1e-6  # a share below which nothing is drawn
LINE = 20  # height of a line of names
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: Name or unit of the values.
        low: Value at the start of the axis.
        high: Value at the end of the axis.
    """

    label: str
    low: float
    high: float

    @staticmethod
    def up_to(label: str, values: Sequence[float]) -> Axis:
        """Return an axis from 0 to a round number that no value exceeds."""
        step = _step(max(values, default=0.0))
        return Axis(label, 0.0, step * max(1, math.ceil(max(values, default=0.0) / step)))

    def position(self, value: float, start: float, end: float) -> float:
        """Return the coordinate of a value, if the axis starts and ends at the given coordinates."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)

    def ticks(self) -> list[float]:
        """Return round values along the axis."""
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step)
        return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _step(span: float) -> float:
    """Return a round distance that divides a span into four to nine parts."""
    if span <= 0:
        return 1.0
    rough = 10.0 ** math.floor(math.log10(span / 4))
    return next(rough * factor for factor in (1, 2, 5, 10) if span / (rough * factor) < 9)


def number(value: float) -> str:
    """Return a value as text, as short as the label of a tick allows."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:,.3g}"


def line(points: Sequence[Point], x: Axis, y: Axis, title: str, marks: Sequence[tuple[float, str]] = ()) -> str:
    """Return a chart of a line through points.

    Args:
        points: The points, sorted by x.
        x: The horizontal axis.
        y: The vertical axis.
        title: Title of the chart, for screen readers.
        marks: Values of x at which a dashed vertical line is drawn, each with a word above it.
    """
    path = " ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in points)
    drawing = f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2" stroke-linejoin="round"/>'
    return _framed("".join(_mark(_x(x, at), word) for at, word in marks) + drawing, x, y, title)


def _mark(at: float, word: str) -> str:
    side = "end" if at > WIDTH - 6 * len(word) else "middle"
    return (
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{COLOURS[3]}" '
        f'stroke-dasharray="4 3"/><text x="{at:.1f}" y="{TOP - 6}" text-anchor="{side}">{html.escape(word)}</text>'
    )


def scatter(points: Sequence[Point], x: Axis, y: Axis, title: str) -> str:
    """Return a chart with one dot per point."""
    dots = "".join(f'<circle cx="{_x(x, a):.1f}" cy="{_y(y, b):.1f}" r="3"/>' for a, b in points)
    return _framed(f'<g fill="{COLOURS[0]}" fill-opacity="0.5">{dots}</g>', x, y, title)


def bars(values: Mapping[str, float], names: str, y: Axis, title: str) -> str:
    """Return a chart with one vertical bar per value.

    Args:
        values: Shares between 0 and 1, by the name below each bar; they are labelled as percentages.
        names: Label of the horizontal axis.
        y: The vertical axis.
        title: Title of the chart, for screen readers.
    """
    room = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    width = min(48.0, room * 0.7)
    parts = []
    for index, (name, value) in enumerate(values.items()):
        middle, top = LEFT + (index + 0.5) * room, _y(y, value)
        parts.append(
            f'<rect x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}" rx="2" fill="{COLOURS[0]}"/>'
            f'<text x="{middle:.1f}" y="{top - 5:.1f}" text-anchor="middle">{value:.0%}</text>'
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{html.escape(name)}</text>'
        )
    return _framed("".join(parts) + _below(names), None, y, title)


def shares(values: Mapping[str, tuple[float, str]], title: str) -> str:
    """Return a chart with one horizontal bar per share of a whole.

    Args:
        values: By the name to the left of each bar: the share, between 0 and 1, and a note to its right.
        title: Title of the chart, for screen readers.
    """
    left, right = max(96, 16 + 7 * max(map(len, values), default=0)), 120
    room = (HEIGHT - TOP) / max(6, len(values))
    parts = []
    for index, (name, (value, note)) in enumerate(values.items()):
        top, width = TOP / 2 + index * room, value * (WIDTH - left - right)
        middle = f'y="{top + room * 0.35 + 4:.1f}"'
        parts.append(
            f'<text x="{left - 8}" {middle} text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{left}" y="{top:.1f}" width="{width:.1f}" height="{room * 0.7:.1f}" rx="2" '
            f'fill="{COLOURS[index % len(COLOURS)]}"/>'
            f'<text x="{left + width + 8:.1f}" {middle}>{value:.0%} · {html.escape(note)}</text>'
        )
    return _svg("".join(parts), title, HEIGHT)


def stacked(columns: Sequence[tuple[float, Mapping[str, float]]], names: Sequence[str], x: Axis, title: str) -> str:
    """Return a chart of shares of a whole over x, one above another, with their names below it.

    Args:
        columns: For equal steps of x, from its start to its end: the middle of the step, and the shares by their names.
            What has another name is shown as ``OTHERS``; an empty column stays empty.
        names: The names, at most one less than there are colours, the lowest first.
        x: The horizontal axis.
        title: Title of the chart, for screen readers.
    """
    y, width = Axis("share of rounds", 0.0, 1.0), (WIDTH - LEFT - RIGHT) / max(1, len(columns))
    parts, shown = [], [*names, OTHERS]
    for at, shares in columns:
        below, left = 0.0, _x(x, at) - width / 2
        rest = max(0.0, 1 - sum(shares.get(name, 0.0) for name in names)) if shares else 0.0
        for index, share in enumerate([*(shares.get(name, 0.0) for name in names), rest]):
            if share > NOTHING:
                top = _y(y, below + share)
                parts.append(
                    f'<rect x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{_y(y, below) - top:.2f}" '
                    f'fill="{COLOURS[index if index < len(names) else -1]}"/>'
                )
                below += share
    if not any(1 - sum(shares.values()) > NOTHING or set(shares) - set(names) for _, shares in columns):
        shown.remove(OTHERS)
    drawing = f'<g shape-rendering="crispEdges">{"".join(parts)}</g>'
    return _framed(drawing, x, y, title, _names(shown, len(names)))


def _names(names: Sequence[str], own: int) -> list[str]:
    """Return lines of names with the squares of their colours; those behind the first ``own`` have the last colour."""
    lines, left = [""], 0.0
    for index, name in enumerate(names):
        room = 24 + 7 * len(name)
        if left + room > WIDTH - LEFT and lines[-1]:
            lines, left = [*lines, ""], 0.0
        top = HEIGHT + LINE * (len(lines) - 1)
        colour = COLOURS[index if index < own else -1]
        lines[-1] += (
            f'<rect x="{LEFT + left}" y="{top + 2}" width="11" height="11" rx="2" fill="{colour}"/>'
            f'<text x="{LEFT + left + 16}" y="{top + 12}">{html.escape(name)}</text>'
        )
        left += room
    return lines


def _x(axis: Axis, value: float) -> float:
    return axis.position(value, LEFT, WIDTH - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return axis.position(value, HEIGHT - BOTTOM, TOP)


def _framed(drawing: str, x: Axis | None, y: Axis, title: str, below: Sequence[str] = ()) -> str:
    """Return a chart: a drawing with its axes, their ticks and their labels. Without ``x``, only ``y`` is drawn.

    Lines below it make it higher.
    """
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{_y(y, tick):.1f}" y2="{_y(y, tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{_y(y, tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        for tick in y.ticks()
    ]
    middle = f"translate(12 {(TOP + bottom) / 2}) rotate(-90)"
    parts.append(f'<text transform="{middle}" text-anchor="middle">{html.escape(y.label)}</text>')
    if x is not None:
        parts += [
            f'<text x="{_x(x, tick):.1f}" y="{bottom + 16}" text-anchor="middle">{number(tick)}</text>'
            for tick in x.ticks()
        ]
        parts.append(_below(x.label))
    return _svg("".join([*parts, drawing, *below]), title, HEIGHT + LINE * len(below))


def _below(label: str) -> str:
    return f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(label)}</text>'


def _svg(content: str, title: str, height: float) -> str:
    label = html.escape(title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}"><title>{label}</title>{content}</svg>'
    )
