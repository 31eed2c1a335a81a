"""How long to wait after failures in a row: twice as long each time, up to a cap, moved by chance."""

from dataclasses import dataclass
from datetime import timedelta

_MOST_DOUBLINGS = 30  # of a second, that is 34 years: any cap is reached before


@dataclass(frozen=True, slots=True)
class BackOff:
    """`first` after the first failure in a row, `longest` at most; `spread` are the factors between which
    a wait is moved, so that many do not come back at once."""

    first: timedelta
    longest: timedelta
    spread: tuple[float, float] = (1.0, 1.0)

    def after(self, failures: int, chance: float = 0.0) -> timedelta:
        """The wait after so many failures in a row, 1 or more; `chance` (0 to 1) says where in the spread."""
        doublings = min(failures - 1, _MOST_DOUBLINGS)
        plain: timedelta = min(self.first * 2**doublings, self.longest)
        least, most = self.spread
        return plain * (least + (most - least) * chance)
