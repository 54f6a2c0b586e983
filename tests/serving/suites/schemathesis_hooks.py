"""Hooks of schemathesis, which narrow what it draws: else most requests end at the model's name or at a message.

Some requests still have an unknown model. The second kind of key is left out, since two keys are none.
"""

from typing import Any

import schemathesis

MESSAGE = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant", "system"]}, "content": {"type": "string"}},
    "required": ["role", "content"],
    "additionalProperties": False,
}
NAMES = {"x-archwright-workload": ["desk", "search", "nobody"], "id": ["m", "e", "nobody"]}
# The null engine refuses them, so a request that has every field would show nothing of the others.
REFUSED = ("speed", "service_tier", "inference_geo", "reasoning_effort", "verbosity", "thinking", "functions")

# Clients may leave out the type of a block that has only one type, and that of a message, as OpenAI's do.
TYPE_OPTIONAL = ("MessageItem", "TextBlock")


@schemathesis.hook
def before_load_schema(_context: Any, document: dict[str, Any]) -> None:
    document["security"] = [{"bearer": []}]
    del document["components"]["securitySchemes"]["apiKey"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in NAMES and not path.startswith(("/v1/files", "/v1/batches")):
                    parameter["schema"] = {"enum": NAMES[parameter["name"]]}
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        fields = schema.get("properties", {})
        if "model" in schema.get("required", ()):
            fields["model"] = {"enum": ["m", "e", "nobody"]}
            for name in REFUSED:
                fields.pop(name, None)
    for name in TYPE_OPTIONAL:
        schemas[name]["required"].remove("type")
    schemas["ChatRequest"]["properties"]["messages"]["items"] = MESSAGE
