"""Run as a script of its own: load an export as anybody would, and write down what it says.

`python -I clean.py ASKED.json`, which names the directory, ids, texts and the file to answer in.
Espalier is kept from being imported. Foreign modules go to the cache that the parent names.
"""

import json
import sys
from pathlib import Path
from typing import Any


class Barred:
    """A finder that knows nothing of Espalier, before those that do."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "espalier":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def main(asked: dict[str, Any]) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    where: dict[str, Any] = {"local_files_only": True}
    if asked["gguf"]:
        where["gguf_file"] = asked["gguf"]
        where["config"] = transformers.AutoConfig.for_model(**asked["config"])
    elif asked["own_code"]:
        where["trust_remote_code"] = True
    folder, dtype = asked["folder"], getattr(torch, asked["dtype"])
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **where
    )
    wrong = {key: sorted(map(str, told[key])) for key in told if told[key]}
    ids = torch.tensor(asked["ids"])
    with torch.no_grad():
        logits = model.eval().to(dtype)(ids).logits
    save_file({"logits": logits.contiguous()}, asked["answer"])
    spoken: list[list[int]] = []
    if asked["texts"]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
        spoken = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]]
    answer = {"class": type(model).__name__, "texts": spoken, "wrong": wrong}
    Path(asked["answer"]).with_suffix(".json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    sys.meta_path.insert(0, Barred)
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
