"""Every picture is shown somewhere, and every one that is shown is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def test_pictures_and_the_texts_that_show_them_agree():
    shown = {
        (text.parent / link).resolve()
        for text in TEXTS
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", text.read_text())
    }
    assert shown == set((ROOT / "docs" / "images").iterdir())
