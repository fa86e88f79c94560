"""What a reviewer can say of a parcel, what that makes of a light, and how several verdicts become one."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol

Verdict = Literal[
    "as_declared",
    "other_crop",
    "other_crop_in_part",
    "not_emerged",
    "lost",
    "flooded",
    "other_departure",
    "cannot_tell",
]
CHOICES: Final[Mapping[Verdict, str]] = {
    "as_declared": "the declared crop stands or stood there until its harvest",
    "other_crop": "another crop than the declared one, on all or most of it",
    "other_crop_in_part": "another crop than the declared one, on a smaller part",
    "not_emerged": "nothing was sown, or nothing came up",
    "lost": "the crop came up and was lost before its harvest",
    "flooded": "water stood on it while its crop grew",
    "other_departure": "another departure: ploughed, built on, not mown, no catch crop ...",
    "cannot_tell": "this cannot be told from what is shown",
}
UNDECIDED: Final = ("cannot_tell", "disputed")

ANSWERS: Final[Mapping[str, tuple[Verdict, ...]]] = {
    "crop_mismatch": ("other_crop",),
    "no_emergence": ("not_emerged",),
    "early_loss": ("lost", "flooded"),
    "flooding": ("flooded",),
    "parts": ("other_crop_in_part", "other_departure"),
    "boundaries": ("other_crop_in_part", "other_departure"),
}
"""The verdicts of which each rule claims one. What is not named here, as a policy's obligation, claims a departure of any kind."""


class Given(Protocol):
    """A verdict as it was given."""

    @property
    def reviewer(self) -> str: ...
    @property
    def verdict(self) -> str: ...


def departs(verdict: str, rule: str | None) -> bool:
    """Return whether a decided verdict says what a rule claims; None: that the parcel departs at all."""
    claimed = () if rule is None else ANSWERS.get(rule, ())
    return verdict in claimed if claimed else verdict != "as_declared"


def newest_of_each(given: Iterable[Given]) -> dict[str, str]:
    """Return the newest verdict of each reviewer of a parcel, in the order in which they began."""
    found: dict[str, str] = {}
    for one in given:  # in the order in which they were recorded; a later one takes the place of the same reviewer's
        found[one.reviewer] = one.verdict
    return found


def settled(verdicts: Sequence[str]) -> str:
    """Return what the verdicts of several reviewers come to: what most of those say who can tell, else "disputed"."""
    decided = Counter(one for one in verdicts if one != "cannot_tell").most_common(2)
    if not decided:
        return "cannot_tell"
    return "disputed" if len(decided) > 1 and decided[0][1] == decided[1][1] else decided[0][0]
