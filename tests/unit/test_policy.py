"""Policies in files: what is wrong is said in one line with its place, and what is right keeps its hash."""

from pathlib import Path
from typing import get_args

import pytest

from monitor.errors import PolicyError
from monitor.policies import policy as module
from monitor.policies.policy import Kind, Policy, read_policy
from tests.refused_policy import assert_refused

EXAMPLE = Path(module.__file__).parent / "examples" / "2025.toml"
GOOD = """name = "p"
version = 1

[[obligation]]
name = "one"
kind = "covered"
from = 2025-11-01
until = 2025-12-31

[[obligation]]
name = "two"
kind = "cover_days"
from = 2025-08-01
until = 2025-11-30
days = 56

[obligation.parcels]
crops = ["hcat:3301"]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('kind = "covered"', 'kind = "flooded"', 6, "obligation one kind: Input should be 'covered', 'cover_days'"),
        ("days = 56", "days = 0", 15, "obligation two days: Input should be greater than or equal to 1, not 0"),
        ("days = 56", "days = 200", 10, "200 days of cover do not fit between 2025-08-01 and 2025-11-30"),
        ("days = 56", "dais = 56", 15, "obligation two dais: there is no such key"),
        ("until = 2025-12-31", "", 4, "obligation one until is missing"),
        ("until = 2025-12-31", "until = 2025-10-31", 4, "ends on 2025-10-31, before it begins on 2025-11-01"),
        ('name = "two"', 'name = "one"', 1, "two obligations are called one"),
        ('name = "two"', 'name = "Zwei!"', 11, "a name is 1 to 40 of a-z, 0-9 and _"),
        ('"hcat:3301"', '"maize"', 18, "'maize' is no crop"),
        ("until = 2025-12-31", "until = 2025-12-31\ngreen_from = 2025-11-01", 4, "green_from is of not_ploughed"),
        ("version = 1", "version = 0", 2, "version: Input should be greater than or equal to 1"),
        ("version = 1", "", 1, "version is missing"),
        ('crops = ["hcat:3301"]', 'listed_in = "none.csv"', 18, "No such file"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert_refused(tmp_path / "p.toml", GOOD.replace(old, new, 1), line, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name = ", "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b'name = "p"\nversion = 1\n', "an [[obligation]] or [[paid_alike]] is needed"),
        (b"obligation = 3\nname = 'p'\nversion = 1", "line 1: obligation"),
        (b"obligation = [3]\nname = 'p'\nversion = 1", "line 1: obligation"),
    ],
)
def test_what_is_no_policy_is_said_in_a_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes(content)
    with pytest.raises(PolicyError, match=r"p\.toml") as caught:
        read_policy(file)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_is_what_its_content_says(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("source_id,note\nb,\na,x\nb,\n")
    file = tmp_path / "p.toml"
    file.write_text(GOOD.replace('crops = ["hcat:3301"]', 'listed_in = "list.csv"'))
    policy = read_policy(file)
    assert policy.obligation[1].parcels.source_ids == ("a", "b")
    assert Policy.stored(policy.content()) == policy
    assert Policy.stored(policy.content()).hash == policy.hash
    file.write_text("# the same\n" + file.read_text())
    assert read_policy(file).hash == policy.hash
    (tmp_path / "list.csv").write_text("source_id\nb\n")
    assert read_policy(file).hash != policy.hash


def test_the_example_is_valid() -> None:
    assert [one.kind for one in read_policy(EXAMPLE).obligation] == [
        "not_ploughed",
        "mown",
        "not_mown",
        "cover_days",
        "harvested",
        "not_tilled",
        "tilled",
        "covered",
        "not_tilled",
        "established_by",
    ]
    assert {one.kind for one in read_policy(EXAMPLE).obligation} == {*get_args(Kind)}, "each kind has its example"


def test_the_example_without_declarations_selects_by_none() -> None:
    policy = read_policy(EXAMPLE.with_name("undeclared.toml"))
    assert all(not one.parcels.crops and not one.parcels.except_crops for one in policy.obligation)
    assert "green_from" in policy.content()


def test_a_policy_of_an_earlier_version_keeps_its_hash() -> None:
    assert "green_from" not in read_policy(EXAMPLE).content()
