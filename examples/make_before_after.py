"""Lay damaged and restored pictures above each other: the picture of the README.

python examples/make_before_after.py DAMAGED RESTORED OUT.jpg [NAME ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEIGHT = 300
GAP = 6


def row(folder: Path, names: list[str]) -> list[Image.Image]:
    """Open the pictures of one row on white, all of one height."""
    pictures = []
    for name in names:
        picture = Image.open(folder / name).convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture)
        width = round(picture.width * HEIGHT / picture.height)
        pictures.append(paper.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS))
    return pictures


def main() -> None:
    """Make the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("damaged", type=Path)
    parser.add_argument("restored", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", default=["lake.jpg", "archive/lighthouse.png", "fruit.webp"])
    arguments = parser.parse_args()
    rows = [row(arguments.damaged, arguments.names), row(arguments.restored, arguments.names)]
    width = sum(picture.width for picture in rows[0]) + GAP * (len(rows[0]) - 1)
    sheet = Image.new("RGB", (width, 2 * HEIGHT + GAP), "white")
    for line, pictures in enumerate(rows):
        left = 0
        for picture in pictures:
            sheet.paste(picture, (left, line * (HEIGHT + GAP)))
            left += picture.width + GAP
    sheet.save(arguments.out, quality=88, optimize=True)


if __name__ == "__main__":
    main()
