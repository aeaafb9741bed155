"""The learning curve as a small SVG: what was measured over the steps, and the loss beneath it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _MIDDLE, _BOTTOM = 60, 190, 34, 270, 40
_COLOURS = ("#0b6e99", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#4338ca")

Points = Sequence[tuple[float, float]]


def drawn(title: str, measured: Mapping[str, Points], losses: Points, best_step: int | None) -> str:
    """Return an SVG.

    Args:
        title: above it.
        measured: of each set (step, nDCG@10), at step 0 the start's.
        losses: (step, loss).
        best_step: marked, where one was kept.

    """
    steps = max([step for points in (*measured.values(), losses) for step, _ in points], default=1) or 1
    right = _WIDTH - _RIGHT

    def x(step: float) -> float:
        return _LEFT + (right - _LEFT) * step / steps

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"',
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    values = [value for points in measured.values() for _, value in points]
    parts += _axis("nDCG@10", values, _TOP, _MIDDLE, right)
    for number, (name, points) in enumerate(measured.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(_line([(x(s), _y(v, values, _TOP, _MIDDLE)) for s, v in points], colour))
        if points:
            label = f"{name} {points[-1][1]:.3f}"
            parts.append(f'<text x="{right + 10}" y="{_TOP + 14 + 16 * number}" fill="{colour}">{escape(label)}</text>')
    if best_step is not None:
        at = x(best_step)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_MIDDLE}" stroke="#999" stroke-dasharray="3 3"/>'
        )
        parts.append(f'<text x="{at + 3:.1f}" y="{_TOP + 10}" fill="#777">kept</text>')
    of_loss = [value for _, value in losses]
    top, bottom = _MIDDLE + 34, _HEIGHT - _BOTTOM
    parts += _axis("loss", of_loss, top, bottom, right)
    parts.append(_line([(x(s), _y(v, of_loss, top, bottom)) for s, v in losses], "#888"))
    for tick in range(5):
        step = steps * tick / 4
        parts.append(f'<text x="{x(step):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{step:.0f}</text>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 3}" text-anchor="middle">steps</text></svg>')
    return "\n".join(parts) + "\n"


def smoothed(losses: Points, window: int = 10) -> list[tuple[float, float]]:
    """Return means of `window` neighbours: a loss of eight lists jumps with the lists."""
    result = []
    for start in range(0, len(losses), window):
        part = losses[start : start + window]
        result.append((part[-1][0], sum(value for _, value in part) / len(part)))
    return result


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = max((high - low) * 0.08, 1e-3)
    return low - room, high + room


def _y(value: float, values: Sequence[float], top: float, bottom: float) -> float:
    low, high = _bounds(values)
    return bottom - (bottom - top) * (value - low) / (high - low)


def _line(points: Points, colour: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _axis(name: str, values: Sequence[float], top: float, bottom: float, right: float) -> list[str]:
    low, high = _bounds(values)
    parts = [f'<text x="8" y="{top - 4}" fill="#555">{name}</text>']
    for tick in range(5):
        value = low + (high - low) * tick / 4
        y = bottom - (bottom - top) * tick / 4
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    return parts
