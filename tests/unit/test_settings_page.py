"""docs/settings.md holds every setting as the classes have it; `PYTHONPATH=. python tests/unit/test_settings_page.py` writes it."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pydantic_settings import BaseSettings

from devstack.addresses import ServerSettings
from ingest.imagery.settings import ImagerySettings
from ingest.scenes.settings import SceneSettings
from ingest.stream.settings import IngestSettings, KafkaSettings
from monitor.alerts.settings import RuleSettings
from monitor.settings import MonitorSettings
from monitor.subscriptions.settings import DeliverySettings
from web.settings import OidcSettings, WebSettings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
CLASSES: dict[type, str] = {
    ServerSettings: "PARCELWATCH_",
    KafkaSettings: "PARCELWATCH_KAFKA_",
    IngestSettings: "PARCELWATCH_INGEST_",
    SceneSettings: "PARCELWATCH_SCENES_",
    ImagerySettings: "PARCELWATCH_IMAGERY_",
    MonitorSettings: "PARCELWATCH_MONITOR_",
    RuleSettings: "PARCELWATCH_MONITOR_RULES__",
    DeliverySettings: "PARCELWATCH_DELIVERIES_",
    WebSettings: "PARCELWATCH_WEB_",
    OidcSettings: "PARCELWATCH_OIDC_",
}
HEAD = """# Settings

A bare `parcelwatch` is `.venv/bin/parcelwatch`, run in the project's folder; relative paths are relative to it.

Environment variables, read when a command starts. Units are in the name (`_S` seconds, `_DAYS`, `_BYTES`, `_HA`, `_DB`) or in the meaning;
shares and probabilities are from 0 to 1. Made from the settings' classes: a test fails where this page is stale.
"""


def rows(cls: type, prefix: str) -> Iterator[str]:
    """Yield a table row for each setting of a class: variable, default, meaning."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    for field, after in zip(body.body, [*body.body[1:], ast.Pass()], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name) or field.target.id == "rules":
            continue
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        meaning = " ".join(str(said).split()).replace("|", r"\|")
        value = default(cls, field.target.id)
        value = sorted(value) if isinstance(value, frozenset) else value  # as the environment takes it: JSON
        yield f"| `{prefix}{field.target.id.upper()}` | {'not set' if value is None else f'`{value}`'} | {meaning} |"


def default(cls: type, name: str) -> object:
    """Return the default of a setting, of a pydantic model or of a dataclass."""
    return (
        cls.model_fields[name].get_default(call_default_factory=True)
        if issubclass(cls, BaseSettings)
        else getattr(cls, name)
    )


def page() -> str:
    """Return the page's text."""
    parts = [HEAD]
    for cls, prefix in CLASSES.items():
        parts += [f"\n## `{prefix}`\n", "| variable | default | meaning |\n|---|---|---|", *rows(cls, prefix)]
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def test_the_page_of_settings_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: see the first line of this test"


def test_every_setting_has_a_meaning() -> None:
    silent = [row for cls, prefix in CLASSES.items() for row in rows(cls, prefix) if row.endswith("|  |")]
    assert not silent


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
