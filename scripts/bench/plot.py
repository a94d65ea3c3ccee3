"""Bar charts in SVG, for light and dark pages."""

from html import escape

from .figures import number

WIDTH, LABEL, BAR, GAP, GROUP_GAP = 760, 150, 16, 4, 34
COLOURS = {
    "roadstead": "#2563eb",
    "roadstead, log on": "#7ba4f5",
    "nginx": "#16a34a",
    "docker-registry": "#d97706",
    "varnish": "#9333ea",
}
STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1f2937 }
.title { font-weight: 600 }
.off { fill: #6b7280 }
@media (prefers-color-scheme: dark) { text { fill: #e5e7eb } .off { fill: #9ca3af } }
"""


def bars(unit, groups):
    """`groups`: {title: {server: cost}}. A bar that is more than four times as long as the group's median is cut off,
    so that the others can be compared."""
    parts, y = [], 30
    for title, costs in groups.items():
        parts.append(f'<text class="title" x="0" y="{y}">{escape(title)}</text>')
        y += 10
        ordered = sorted(costs.values())
        longest = min(ordered[-1], 4 * ordered[(len(ordered) - 1) // 2]) or 1
        for name, cost in costs.items():
            width = min(cost / longest, 1) * (WIDTH - LABEL - 90)
            middle = y + BAR - 4
            parts.append(f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
            colour = COLOURS.get(name, "#6b7280")
            parts.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>')
            cut = " (cut off)" if cost > longest else ""
            parts.append(f'<text x="{LABEL + width + 6:.1f}" y="{middle}">{number(cost)}{cut}</text>')
            y += BAR + GAP
        y += GROUP_GAP - 10
    head = f'<text class="off" x="0" y="12">{escape(unit)}, less is better</text>'
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{escape(unit)}">'
    return "\n".join([frame, f"<style>{STYLE}</style>", head, *parts, "</svg>", ""])
