"""Which columns of an agency's file say what: by option, by a TOML file, or recognised from the column names."""

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ingest.parcels.errors import ParcelFileError

AGENCIES_FOLDER: Final = Path(__file__).parent / "agencies"


class ParcelColumns(BaseModel):
    """The columns that a parcel's facts are read from; several id columns are joined by a hyphen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: tuple[str, ...] = Field(min_length=1)
    crop_code: str | None = None
    crop_name: str | None = None
    hcat_code: str | None = None
    region: str | None = None

    def named(self) -> tuple[str, ...]:
        """Return every column named, once."""
        optional = (self.crop_code, self.crop_name, self.hcat_code, self.region)
        return tuple(dict.fromkeys([*self.id, *(column for column in optional if column is not None)]))


class Agency(ParcelColumns):
    """An agency's columns as its TOML file says."""

    title: str
    recognised_by: tuple[str, ...] | None = None
    """Columns that mark a file as this agency's; None: all those named, empty: none, it is taken by its name only."""

    other_layouts: tuple["Agency", ...] = ()
    """The columns of the agency's files of other years or services."""

    def layouts(self) -> tuple["Agency", ...]:
        """Return the layouts of the agency's files, this one first."""
        return (self, *self.other_layouts)

    def fitting(self, columns: Collection[str]) -> ParcelColumns:
        """Return the layout with most of its columns among those of a file, all of them where one has that."""
        return max(
            self.layouts(), key=lambda one: (set(one.named()) <= set(columns), len(set(one.named()) & set(columns)))
        )

    def marks(self) -> tuple[str, ...]:
        """Return the columns that, all there, mark a file as this agency's; none: nothing does."""
        return self.named() if self.recognised_by is None else self.recognised_by


def shipped_agencies() -> dict[str, Path]:
    """Return the agency files that come with the project, by name."""
    return {path.stem: path for path in sorted(AGENCIES_FOLDER.glob("*.toml"))}


def load_agency(name_or_path: str) -> Agency:
    """Return an agency by its shipped name or the path of a TOML file; raises ParcelFileError."""
    shipped = shipped_agencies()
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        return Agency.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ParcelFileError(
            f"agency {name_or_path}: neither a readable TOML file nor one of {', '.join(shipped)}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ParcelFileError(f"agency {name_or_path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ParcelFileError(
            f"agency {name_or_path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}; "
            f"keys: {', '.join(Agency.model_fields)}"
        ) from error


def recognise(columns: Collection[str]) -> tuple[str, Agency] | None:
    """Return the shipped agency, and its layout, with most marks, all among the columns; None if none or a tie."""
    layouts = [(name, layout) for name in shipped_agencies() for layout in load_agency(name).layouts()]
    matching = [(name, one) for name, one in layouts if one.marks() and {*one.marks(), *one.id} <= set(columns)]
    most = max((len(one.marks()) for _, one in matching), default=0)
    best = [(name, one) for name, one in matching if len(one.marks()) == most]
    return best[0] if len(best) == 1 else None
