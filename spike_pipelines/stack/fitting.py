"""Tables that fit a terminal: of many columns those that matter most, whole, rather than all cut off."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_ENDLESS = Console(width=10_000)


@dataclass(frozen=True, slots=True)
class Columns:
    """Headings in order; those of `words` are aligned left, `spare` are left out first to last where the
    table is too wide."""

    headings: Sequence[str]
    words: frozenset[str] = frozenset()
    spare: Sequence[str] = ()

    def fitted(
        self, rows: Iterable[Sequence[str | Text]], width: int | None, box: Box | None = None
    ) -> tuple[Table, tuple[str, ...]]:
        """The table, and what was left out of it. Wide enough for everything where `width` is None."""
        cells = [dict(zip(self.headings, row, strict=True)) for row in rows]
        for left_out in range(len(self.spare) + 1):
            kept = [h for h in self.headings if h not in self.spare[:left_out]]
            made = self._table(kept, cells, box)
            if width is None or _ENDLESS.measure(made).maximum <= width:
                break
        return made, tuple(self.spare[:left_out])

    def _table(
        self, kept: Iterable[str], cells: Iterable[Mapping[str, str | Text]], box: Box | None
    ) -> Table:
        table = Table(box=box, padding=(0, 1), show_edge=box is not None)
        for heading in kept:
            word = heading in self.words
            table.add_column(heading, justify="left" if word else "right", no_wrap=not word, overflow="fold")
        for row in cells:
            table.add_row(*(row[heading] for heading in kept))
        return table


def hidden(left_out: Sequence[str]) -> Text:
    """That this is not all there is."""
    if not left_out:
        return Text()
    return Text(f"not shown at this width: {', '.join(left_out)} (-o json has them)\n", style="dim")
