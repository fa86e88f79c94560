"""The description of the streams: whole by itself, and as the messages are."""

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
import yaml

from db.dead_letters import DeadLetter
from db.decisions import NewEventRow
from ingest.scenes.record import FoundScene
from ingest.scenes.settings import scenes_topic
from ingest.stream import dead_letters
from ingest.stream.json_schemas import json_schema
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, SCHEMAS
from ingest.stream.settings import IngestSettings
from monitor.alerts.lifecycle import Event, State
from web.routes.events import router

PAGE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
# The parts of AsyncAPI 3.0 that the document has: a name that is not of the specification is a slip (spec 3.0.0, "Schema").
ALLOWED = {
    "document": {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
    "info": {"title", "version", "description", "termsOfService", "contact", "license", "tags", "externalDocs"},
    "server": {"host", "protocol", "protocolVersion", "pathname", "description", "title", "summary", "variables", "security",
               "tags", "externalDocs", "bindings"},
    "channel": {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "externalDocs", "bindings"},
    "operation": {"action", "channel", "title", "summary", "description", "security", "tags", "externalDocs", "bindings", "traits",
                  "messages", "reply"},
    "message": {"headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description", "tags",
                "externalDocs", "bindings", "examples", "traits"},
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(PAGE.read_text(encoding="utf-8"))
    return loaded


def references(node: Any) -> Iterator[str]:
    """Yield all references of a part."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(document: dict[str, Any], reference: str) -> Any:
    """Return what a reference names; raises where it names nothing."""
    if not reference.startswith("#/"):
        return json.loads((PAGE.parent / reference).read_text(encoding="utf-8"))
    node: Any = document
    for name in reference.removeprefix("#/").split("/"):
        node = node[name]
    return node


def test_every_part_has_what_the_specification_names_and_every_reference_leads_somewhere(
    document: dict[str, Any],
) -> None:
    assert document["asyncapi"] == "3.0.0"
    parts = {
        "document": [document],
        "info": [document["info"]],
        "server": document["servers"].values(),
        "channel": document["channels"].values(),
        "operation": document["operations"].values(),
        "message": document["components"]["messages"].values(),
    }
    for kind, all_of_kind in parts.items():
        for one in all_of_kind:
            assert set(one) <= ALLOWED[kind], kind
    assert {"title", "version"} <= set(document["info"])
    for server in document["servers"].values():
        assert {"host", "protocol"} <= set(server)
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]["$ref"].startswith("#/channels/")
    for channel in document["channels"].values():
        assert all(one["$ref"].startswith("#/components/messages/") for one in channel["messages"].values())
        assert all(one["$ref"].startswith("#/servers/") for one in channel["servers"])
    for reference in references(document):
        resolve(document, reference)
    used = set(references(document))
    assert {f"#/components/messages/{name}" for name in document["components"]["messages"]} <= used
    assert {f"#/channels/{name}" for name in document["channels"]} <= used
    for message in document["components"]["messages"].values():
        for part in ("payload", "headers"):
            if "schemaFormat" not in message.get(part, {}):
                jsonschema_rs.meta.validate(message.get(part, {}))


def test_topics_and_messages_are_those_of_the_consumer(document: dict[str, Any]) -> None:
    settings, channels = IngestSettings(), document["channels"]
    addresses = {one["address"] for one in channels.values()}
    routes = {getattr(route, "path", "") for route in router.routes}
    assert addresses == {*settings.observation_topics, settings.dead_letter_topic, scenes_topic(settings)} | routes
    for schema in SCHEMAS.values():
        (channel,) = (one for one in channels.values() if one["address"] == settings.topic(schema.sensor))
        messages = [resolve(document, one["$ref"]) for one in channel["messages"].values()]
        assert {one["contentType"] for one in messages} == {CONTENT_TYPE_JSON, CONTENT_TYPE_ARROW}
        (record,) = (one for one in messages if one["contentType"] == CONTENT_TYPE_JSON)
        assert record["name"] == schema.id
        assert resolve(document, record["payload"]["schema"]["$ref"]) == json_schema(schema)


def test_scenes_are_described_as_they_are_sent(document: dict[str, Any]) -> None:
    payload = document["components"]["messages"]["scene"]["payload"]
    at = datetime(2025, 5, 1, tzinfo=UTC)
    safe = FoundScene("x", "S2", "add", "safe", "/data/x.SAFE", None, None, at)
    item = FoundScene("x", "S1", "stac:here", "item", "https://h/i.json", {"id": "x", "assets": {}}, "here", at)
    for sent in (json.loads(one.to_json()) for one in (safe, item)):
        jsonschema_rs.validate(payload, sent)
        assert set(payload["required"]) <= set(sent) <= set(payload["properties"])
        with pytest.raises(jsonschema_rs.ValidationError):
            jsonschema_rs.validate(payload, sent | {"schema": "parcelwatch.scene/2"})


def test_dead_letters_have_the_headers_that_the_consumer_sends(document: dict[str, Any]) -> None:
    sent: list[list[tuple[str, bytes]]] = []

    class Sender:
        def send(self, *record: Any, key: bytes) -> None:
            assert key
            sent.append(record[2])

        def flush(self) -> None: ...

    texts = dict.fromkeys((one.name for one in fields(DeadLetter)), "")
    dead_letters.publish(Sender(), "t", [DeadLetter(**texts | {"payload": b""})], 10)  # type: ignore[arg-type]
    headers = document["components"]["messages"]["deadLetter"]["headers"]
    jsonschema_rs.validate(headers, {name: value.decode() for name, value in sent[0]})
    assert set(headers["properties"]) == {name for name, _ in sent[0]}


def test_events_of_alerts_are_those_of_the_lifecycle(document: dict[str, Any]) -> None:
    payload = document["components"]["messages"]["alert"]["payload"]
    names = {one.name for one in fields(NewEventRow)}
    assert set(payload["properties"]) == set(payload["required"]) == names
    assert set(payload["properties"]["event"]["enum"]) == set(get_args(Event))
    assert set(payload["properties"]["state"]["enum"]) == set(get_args(State)) - {"candidate"}
