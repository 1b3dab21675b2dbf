"""Line charts as inline SVG, without libraries."""

import html
import math

WIDTH, HEIGHT = 560, 290
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 18, 44


def nice_ticks(largest, count=5):
    """Round numbers from 0 to a little above `largest`."""
    if largest <= 0:
        return [0, 1]
    raw = largest / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    ticks = [0.0]
    while ticks[-1] < largest * 0.999:
        ticks.append(ticks[-1] + step)
    return ticks


def number(value):
    return f"{value:.6g}"


def unit_of(largest_bytes):
    """Divisor and name of the unit that suits these bytes."""
    if largest_bytes >= 2 << 20:
        return 1 << 20, "MiB"
    return 1 << 10, "KiB"


class Chart:
    """A frame with axes from zero; curves are drawn in data coordinates."""

    def __init__(self, label, x_title, y_title, x_max, y_max, x_ticks=None):
        self.label, self.x_title, self.y_title = label, x_title, y_title
        self.x_ticks = x_ticks or nice_ticks(x_max, 6)
        self.y_ticks = nice_ticks(y_max)
        # The x axis ends where the data does, the y axis at a tick.
        self.x_max = x_max
        self.y_max = self.y_ticks[-1]
        self.parts = []

    def x(self, value):
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_max

    def y(self, value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.y_max

    def steps(self, points, style):
        """A level that holds until the next point, with the area below it."""
        path = []
        for px, py in points:
            path.append(f"H{self.x(px):.1f}V{self.y(py):.1f}" if path else
                        f"M{self.x(px):.1f},{self.y(py):.1f}")
        line = "".join(path)
        zero = self.y(0)
        first = self.x(points[0][0])
        self.parts.append(f'<path class="area {style}" d="{line}V{zero:.1f}'
                          f'H{first:.1f}Z"/>')
        self.parts.append(f'<path class="line {style}" d="{line}"/>')

    def line(self, points, style, dots=True, dashed=False):
        path = "L".join(f"{self.x(px):.1f},{self.y(py):.1f}"
                        for px, py in points)
        dash = " dashed" if dashed else ""
        self.parts.append(f'<path class="line {style}{dash}" d="M{path}"/>')
        if dots:
            for px, py in points:
                self.parts.append(f'<circle class="dot {style}" r="3.5" '
                                  f'cx="{self.x(px):.1f}" cy="{self.y(py):.1f}"/>')

    def text(self, px, py, words, style="", anchor="end", dx=0, dy=-6):
        self.parts.append(f'<text class="note {style}" text-anchor="{anchor}" '
                          f'x="{self.x(px) + dx:.1f}" y="{self.y(py) + dy:.1f}">'
                          f'{html.escape(words)}</text>')

    def peak(self, value, words, style):
        """A dashed line at a level, named at its right end."""
        self.parts.append(f'<path class="peak {style}" d="M{LEFT},'
                          f'{self.y(value):.1f}H{WIDTH - RIGHT}"/>')
        self.text(self.x_max, value, words, style)

    def svg(self):
        out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
               f'aria-label="{html.escape(self.label, quote=True)}">']
        for tick in self.y_ticks:
            y = self.y(tick)
            out.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}"/>'
                       f'<text class="tick" text-anchor="end" x="{LEFT - 8}" '
                       f'y="{y + 4:.1f}">{number(tick)}</text>')
        for tick in self.x_ticks:
            if tick > self.x_max * 1.001:
                continue
            x = self.x(tick)
            out.append(f'<path class="axis" d="M{x:.1f},{HEIGHT - BOTTOM}v5"/>'
                       f'<text class="tick" text-anchor="middle" x="{x:.1f}" '
                       f'y="{HEIGHT - BOTTOM + 18}">{number(tick)}</text>')
        out += self.parts
        out.append(f'<path class="axis" d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}'
                   f'H{WIDTH - RIGHT}"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        out.append(f'<text class="title" text-anchor="middle" x="{middle:.0f}" '
                   f'y="{HEIGHT - 6}">{html.escape(self.x_title)}</text>')
        center = (TOP + HEIGHT - BOTTOM) / 2
        out.append(f'<text class="title" text-anchor="middle" transform='
                   f'"translate(14,{center:.0f}) rotate(-90)">'
                   f'{html.escape(self.y_title)}</text>')
        out.append("</svg>")
        return "\n".join(out)


def memory_chart(title, original, rewritten):
    """`original`, `rewritten`: pairs of seconds and bytes, of one step."""
    peaks = [max(b for _, b in trace) for trace in (original, rewritten)]
    divisor, unit = unit_of(max(peaks))
    longest = max(original[-1][0], rewritten[-1][0]) * 1e3
    chart = Chart(f"{title}: memory of one training step over time, original "
                  "and rewritten", "time since the step began (ms)",
                  f"tensors of the step ({unit})", longest,
                  max(peaks) / divisor * 1.06)
    for trace, peak, style in ((original, peaks[0], "original"),
                               (rewritten, peaks[1], "rewritten")):
        chart.steps([(s * 1e3, b / divisor) for s, b in trace], style)
        chart.peak(peak / divisor, f"peak {peak / divisor:.3g} {unit}", style)
    return chart.svg()


ALONE = """<style>
svg { background: #fff; font: 12px system-ui, sans-serif; }
text { fill: #60666e; } .note { font-weight: 600; }
path { fill: none; } .grid { stroke: #e3e6ea; } .axis { stroke: #60666e; }
.line { stroke-width: 1.8; stroke-linejoin: round; }
.line.original { stroke: #c2570c; } .line.rewritten { stroke: #0b6e99; }
.area { fill-opacity: .13; }
.area.original, text.original { fill: #c2570c; }
.area.rewritten, text.rewritten { fill: #0b6e99; }
.peak { stroke-dasharray: 2 4; }
.peak.original { stroke: #c2570c; } .peak.rewritten { stroke: #0b6e99; }
</style>"""


def alone(svg):
    """A chart as a file of its own, without the page's style."""
    head, rest = svg.split(">", 1)
    return (head + f' xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
            f'height="{HEIGHT}">{ALONE}{rest}\n')


def loss_chart(title, original, rewritten):
    """Mean loss of each epoch of both."""
    epochs = len(original)
    chart = Chart(f"{title}: training loss of both", "epoch", "mean loss",
                  epochs + 0.0, max(original + rewritten),
                  x_ticks=nice_ticks(epochs, min(epochs, 8)))
    chart.line([(i + 1, v) for i, v in enumerate(original)], "original",
               dots=False)
    chart.line([(i + 1, v) for i, v in enumerate(rewritten)], "rewritten",
               dots=epochs <= 20, dashed=True)
    return chart.svg()


def depth_chart(points):
    divisor, unit = unit_of(max(p["original"] for p in points))
    deepest = points[-1]["depth"]
    chart = Chart("Peak memory against depth, original and rewritten",
                  "blocks", f"peak of a training step ({unit})",
                  deepest * 1.05, points[-1]["original"] / divisor * 1.06,
                  x_ticks=[0] + [p["depth"] for p in points])
    for side in ("original", "rewritten"):
        curve = [(p["depth"], p[side] / divisor) for p in points]
        chart.line(curve, side)
        chart.text(*curve[-1], f"{curve[-1][1]:.3g} {unit}", side, dx=-8)
    return chart.svg()
