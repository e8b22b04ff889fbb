#!/usr/bin/env python3
"""Draws docs/picture.svg: who sees which ids where. `python3 docs/picture.py > docs/picture.svg`"""

FIRST = 100_000
COUNT = 65_536
NOBODY = 65_534
FILES = [("etc/hostname", 0), ("home/diary", 1000), ("stranger", 70_000)]
WIDTH, HEIGHT = 920, 372
INK, PALE, LINE, RED = "#1f2933", "#5b6875", "#c3ccd5", "#a33a2a"
STORED, SHOWN, INSIDE = "#e8eef7", "#e6f4ea", "#fdf3dc"


def text(x, y, words, size=14, fill=INK, anchor="start", weight="normal", family="sans-serif"):
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return (f'<text x="{x}" y="{y}" font-family="{family}" font-size="{size}" fill="{fill}" '
            f'text-anchor="{anchor}" font-weight="{weight}">{words}</text>')


def column(x, width, fill, title, below):
    return [f'<rect x="{x}" y="20" width="{width}" height="252" rx="8" fill="{fill}" stroke="{LINE}"/>',
            text(x + width / 2, 48, title, 16, anchor="middle", weight="bold"),
            text(x + width / 2, 68, below, 12, PALE, anchor="middle", family="monospace")]


def arrow(x1, x2, y, words, fill=PALE):
    return [f'<line x1="{x1}" y1="{y}" x2="{x2 - 8}" y2="{y}" stroke="{fill}" stroke-width="1.5"/>',
            f'<path d="M {x2} {y} l -9 -4.5 v 9 z" fill="{fill}"/>',
            text((x1 + x2) / 2, y - 7, words, 12, fill, anchor="middle")]


def owner(number):
    return f"{number} (nobody)" if number == NOBODY else str(number)


def shown(stored):
    return stored + FIRST if stored < COUNT else NOBODY


def inside(number):
    return number - FIRST if FIRST <= number < FIRST + COUNT else NOBODY


def main():
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           f'aria-label="The same files with the owners that are stored, shown and seen in a container">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    out += column(20, 240, STORED, "stored", "/srv/rootfs")
    out += column(360, 220, SHOWN, "shown by idshift", "/mnt/rootfs")
    out += column(680, 220, INSIDE, "seen in the container", "/")
    for row, (name, stored) in enumerate(FILES):
        y = 112 + row * 62
        mapped = shown(stored)
        fill = INK if mapped != NOBODY else RED
        out.append(text(36, y, name, 14, family="monospace"))
        out.append(text(244, y, str(stored), 15, weight="bold", anchor="end", family="monospace"))
        out += arrow(268, 352, y - 5, f"+ {FIRST}" if mapped != NOBODY else "unmapped",
                     PALE if mapped != NOBODY else RED)
        out.append(text(470, y, owner(mapped), 15, fill, "middle", "bold", "monospace"))
        out += arrow(588, 672, y - 5, f"− {FIRST}" if mapped != NOBODY else "", PALE if mapped != NOBODY else RED)
        seen = inside(mapped)
        out.append(text(790, y, owner(seen), 15, fill if seen != NOBODY else RED, "middle", "bold", "monospace"))
    out += [text(140, 292, "the same numbers as ever:", 13, PALE, "middle"),
            text(140, 310, "nothing is changed on disk", 13, PALE, "middle"),
            text(470, 292, f"map=b:0:{FIRST}:{COUNT}", 13, PALE, "middle", family="monospace"),
            text(470, 310, "a mount, for users of the host", 13, PALE, "middle"),
            text(790, 292, f"its user namespace has", 13, PALE, "middle"),
            text(790, 310, f"{FIRST} … as its 0 …", 13, PALE, "middle")]
    out.append(text(WIDTH / 2, 350, "What is written in the container goes the other way: its user 1000 "
                    f"writes as {FIRST + 1000}, and the file is stored as 1000's.", 14, anchor="middle"))
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
