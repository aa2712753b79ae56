"""`espalier recipes`: the experiments that come with the package."""

import json
from pathlib import Path

from espalier import catalog, console
from espalier.durable import write_asked


def recipes(*, schema: Path | None = None) -> dict[str, object]:
    """List the recipes, or write the schema by which an editor checks and completes one.

    For example:

        espalier recipes
        espalier recipes --schema recipe.schema.json

    Args:
        schema: A file to write the JSON schema to.
    """
    if schema:
        return _write_schema(schema)
    found = catalog.recipes()
    width = max(map(len, found), default=0)
    for name, header in found.items():
        console.out(f"{name:{width}}  {header}")
    console.out("\nespalier check RECIPE sizes one up, espalier train RECIPE trains it")
    return {"recipes": found}


def _write_schema(file: Path) -> dict[str, object]:
    from espalier.experiment import Experiment

    text = json.dumps(Experiment.model_json_schema(), indent=2, sort_keys=True)
    write_asked(file, text + "\n")
    console.out(f"wrote {file}. In a recipe's first line: # yaml-language-server: $schema={file}")
    return {"schema": file}
