"""The published JSON Schemas, made from the models: `python -m ingest.stream.json_schemas docs/schemas` (a test keeps them in step)."""

import json
import sys
from pathlib import Path
from typing import Any

from ingest.stream.messages import MODELS
from ingest.stream.schemas import SCHEMAS, ObservationSchema


def json_schema(schema: ObservationSchema) -> dict[str, Any]:
    """Return the published JSON Schema of a record: the model's, with the contract's limits and units in it."""
    document = MODELS[schema.id].model_json_schema(by_alias=True, mode="validation")
    document |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": schema.id}
    for name, limits in schema.limits.items():
        about = document["properties"][name]
        number = next((option for option in about.get("anyOf", []) if option["type"] != "null"), about)
        number.pop("exclusiveMaximum", None)
        number |= {"minimum": limits.low, "maximum": limits.high}
        if limits.unit:
            about["description"] = f"{about.get('description', '')} Unit: {limits.unit}.".strip()
    return document


def publish(folder: Path) -> list[Path]:
    """Write the JSON Schemas of all schemas into `folder`."""
    written = []
    for schema in SCHEMAS.values():
        path = folder / f"{schema.name}.{schema.version}.json"
        path.write_text(json.dumps(json_schema(schema), indent=2) + "\n")
        written.append(path)
    return written


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
