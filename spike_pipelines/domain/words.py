"""Words of sentences for people. Pure."""


def count_of(number: int, one: str, many: str | None = None) -> str:
    """`1 dead letter`, `1,200 dead letters`; `many` where that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
