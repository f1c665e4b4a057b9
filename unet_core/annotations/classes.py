"""Classes that annotations name and the data set does not have, and the messages about problems of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class UnknownClasses(ValueError):
    """Annotations of a sample name classes that the data set does not have."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.names = names


def problem_lines(problems: Mapping[str, Exception], classes: Sequence[str]) -> list[str]:
    """One line for each sample with a problem, and one for the unknown classes of all samples.

    Examples
    --------
    >>> problem_lines({"a": ValueError("truncated")}, ["cell"])
    ['a: truncated']
    """
    unknown = {sample: error.names for sample, error in sorted(problems.items()) if isinstance(error, UnknownClasses)}
    lines = sorted(f"{sample}: {error}" for sample, error in problems.items() if sample not in unknown)
    if unknown:
        names = ", ".join(sorted({repr(name) for several in unknown.values() for name in several}))
        shown = ", ".join([*unknown][:10]) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        lines.append(
            f"annotations of {shown} name the classes {names}, but classes says {', '.join(classes)}; "
            "add them there, map them with the classes of the source, or give it a class for all its objects"
        )
    return lines
